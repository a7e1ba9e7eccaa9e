"""A GPT-style decoder: branches (attention, MLP), and residual connections that wire them together."""

import copy
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.utils import logging
from transformers.utils.generic import can_return_tuple
from transformers.utils.output_capturing import capture_outputs, selected_hidden_states

from .branches import ResformerAttention, ResformerMLP
from .configuration_resformer import ResformerConfig
from .initialization import Normal, draw, draw_starts, name_modules, usual
from .losses import IGNORED, linear_cross_entropy, softcap
from .normalization import NORM_CLASSES, make_norm
from .operations import Operations
from .residual import OptimizerHint, Residual, State
from .shipping import write_custom_code
from .specification import build

MASKS = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}

logger = logging.get_logger(__name__)


class ResformerBlock(GradientCheckpointingLayer):
    """An attention and an MLP, each wired into the stream by a residual connection of its own, or both by one."""

    def __init__(self, config: ResformerConfig, layer_idx: int, residuals: dict[str, Residual]):
        super().__init__()
        first, *_, last = *residuals.values(), *residuals.values()
        here = last.config
        input_size = first.site.input_size or here.hidden_size
        self.attention = ResformerAttention(config, layer_idx, input_size, here.hidden_size, first.inner_norm)
        self.mlp = ResformerMLP(here, input_size if len(residuals) == 1 else here.hidden_size, last.inner_norm)
        for sublayer, residual in residuals.items():
            self.add_module(f"{sublayer}_residual", residual)
        self.is_parallel = config.parallel_block
        self.keeps_values = config.value_residual != "none"

    @property
    def residuals(self) -> list[Residual]:
        """The connections in the order in which they are applied."""
        return [self.parallel_residual] if self.is_parallel else [self.attention_residual, self.mlp_residual]

    def wiring(self) -> list[tuple[Residual, list[nn.Module]]]:
        """Each connection and the branches that it wires."""
        if self.is_parallel:
            return [(self.parallel_residual, [self.attention, self.mlp])]
        return [(self.attention_residual, [self.attention]), (self.mlp_residual, [self.mlp])]

    def forward(self, state: State, first_values: torch.Tensor | None = None, **attention_inputs):
        """The state after this block, and the first block's values where ``value_residual`` needs them."""
        values = first_values

        def attend(h, **views):
            nonlocal values
            output, _, projected = self.attention(h, first_values=first_values, **views, **attention_inputs)
            if self.keeps_values and first_values is None:
                values = projected
            return output

        def both(h, mlp=None, **views):
            return attend(h, **views) + self.mlp(h if mlp is None else mlp)

        if self.is_parallel:
            return self.parallel_residual.step(state, both), values
        state = self.attention_residual.step(state, attend)
        return self.mlp_residual.step(state, self.mlp), values


class ResformerPreTrainedModel(PreTrainedModel):
    config: ResformerConfig
    config_class = ResformerConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ResformerBlock"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"attentions": ResformerAttention}

    @torch.no_grad()
    def _init_weights(self, module):
        if isinstance(module, nn.Embedding):
            std = self.config.embedding_initializer_range
            draw(module, "weight", Normal(self.config.initializer_range if std is None else std))
        elif isinstance(module, nn.Linear):
            sites = len(self.config.sublayers) * self.config.num_hidden_layers
            draw(module, "weight", usual(module.initialization_path, self.config, sites))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, NORM_CLASSES):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
        elif isinstance(module, GPTNeoXRotaryEmbedding):
            super()._init_weights(module)

    @torch.no_grad()
    def initialize_weights(self):
        super().initialize_weights()
        # After everything else, or the rule above would overwrite what the residual connections prescribe.
        draw_starts(self)
        for block in self.modules():
            if isinstance(block, ResformerBlock):
                for residual, branches in block.wiring():
                    for branch in branches:
                        residual.draw_branch(branch)

    def advance(self, steps: int = 1) -> None:
        """Tell all connections that the optimiser has made so many steps more, for those that change with training.

        ``resformer.Trainer`` does; any other loop calls it after each step of its optimiser.
        """
        for module in self.modules():
            if isinstance(module, Residual):
                module.advance(steps)

    def activation_checkpointing_enable(self, activation_checkpointing_kwargs=None, every_n_layers=1, offload=False):
        """As in transformers, but never reentrant: that follows a tensor only, and where a block hands on a history or
        several lanes, all their gradients would be lost without a word."""
        chosen = dict(activation_checkpointing_kwargs or {})
        if chosen.get("use_reentrant"):
            logger.warning("activation checkpointing with use_reentrant=True loses gradients here; it is set to False")
        super().activation_checkpointing_enable(chosen | {"use_reentrant": False}, every_n_layers, offload)

    def get_correct_attn_implementation(self, *args, **kwargs):
        """As in transformers, but torch's fused kernel, which cannot cap its logits, gives way to the formula."""
        found = super().get_correct_attn_implementation(*args, **kwargs)
        return "eager" if found == "sdpa" and self.config.attention_logit_softcapping is not None else found

    def save_pretrained(self, save_directory, *args, **kwargs):
        """As in transformers; the checkpoint also carries the code, a person's own residual connections included."""
        push = kwargs.pop("push_to_hub", False)
        super().save_pretrained(save_directory, *args, **kwargs)
        write_custom_code(self.config, save_directory)
        if push:
            repo_id = kwargs.pop("repo_id", str(save_directory).rstrip("/").split("/")[-1])
            self.push_to_hub(
                repo_id, **{k: v for k, v in kwargs.items() if k in ("commit_message", "private", "token")}
            )


class ResformerModel(ResformerPreTrainedModel):
    """Embedding, blocks and, where the last residual connection asks for it, a final norm."""

    def __init__(self, config: ResformerConfig):
        super().__init__(config)
        first, last = config.at(0), config.at(config.num_hidden_layers - 1)
        self.embed_tokens = nn.Embedding(config.vocab_size, first.hidden_size)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, first.hidden_size)
        elif config.position_embedding == "rope":
            self.rotary_emb = GPTNeoXRotaryEmbedding(config)  # Llama's, of a part of each head where asked
        if config.local_rope_theta is not None:
            local = copy.copy(config)
            local.rope_parameters = {"rope_type": "default", "rope_theta": config.local_rope_theta}
            self.local_rotary_emb = GPTNeoXRotaryEmbedding(local)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(self._blocks())
        self.norm = make_norm(last) if self.layers[-1].residuals[-1].final_norm else nn.Identity()
        self.gradient_checkpointing = False
        name_modules(self)
        self.post_init()

    def _blocks(self):
        for layer, (block, sites) in enumerate(zip(self.config.connections(), self.config.sites(), strict=True)):
            residuals = {s: build(self.config.at(layer), block[s], site) for s, site in sites.items()}
            before = None
            for residual in residuals.values():
                if before is not None and residual.site.segment_start <= before.site.index:
                    residual.share(before)
                before = residual
            yield ResformerBlock(self.config, layer, residuals)

    def get_input_embeddings(self):
        return self.embed_tokens

    def set_input_embeddings(self, value):
        self.embed_tokens = value

    @capture_outputs
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPast:
        """Hidden states ``[batch, time, hidden]`` after the last block and its norm.

        Args:
            input_ids: ``[batch, time]``; or else ``inputs_embeds``, ``[batch, time, hidden]``.
            attention_mask: ``[batch, time]``, 0 where a token is padding.
            position_ids: ``[batch, time]``; where they start again inside a row, a new document begins that does
                not see the one before it.
            past_key_values: keys and values of earlier tokens.
            output_hidden_states: also return the stream after the embedding and after each block (before the
                final norm, after it for the last), each ``[batch, time, hidden]``. Numbers: these only, the others are
                None.

        Raises:
            ValueError: if not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or if the sequence is
                longer than a model with learned positions has.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        # Positions that nobody gave are not handed on: transformers would look in them for packed documents, and wait
        # for the device to answer.
        kinds, masks = self.config.attention_kinds(), attention_mask
        if not isinstance(masks, dict):  # as `generate` prepares them
            given = {
                "config": self.config, "inputs_embeds": h, "attention_mask": attention_mask,
                "past_key_values": past_key_values, "position_ids": position_ids,
            }  # fmt: skip
            masks = {kind: MASKS[kind](**given) for kind in set(kinds)}
        if position_ids is None:
            position_ids = torch.arange(past, past + h.shape[1], device=h.device).unsqueeze(0)
        if self.config.embedding_multiplier != 1:
            h = h * self.config.embedding_multiplier
        rotations = dict.fromkeys(MASKS)
        if self.config.position_embedding == "rope":
            rotations = dict.fromkeys(MASKS, self.rotary_emb(h, position_ids=position_ids))
            if self.config.local_rope_theta is not None:
                rotations["sliding_attention"] = self.local_rotary_emb(h, position_ids=position_ids)
        elif self.config.position_embedding == "learned":
            if past + h.shape[1] > (longest := self.config.max_position_embeddings):
                raise ValueError(f"{past + h.shape[1]} tokens, but the model has learned positions for {longest}")
            h = h + self.embed_positions(position_ids)

        state: State = self.dropout(h)
        selected = selected_hidden_states(output_hidden_states)
        streams: list[torch.Tensor | None] | None = [state] if output_hidden_states or selected else None
        first_values = None
        for kind, block in zip(kinds, self.layers, strict=True):
            state, first_values = block(
                state,
                first_values=first_values,
                position_embeddings=rotations[kind],
                attention_mask=masks[kind],
                past_key_values=past_key_values,
                **kwargs,
            )
            if streams is not None:
                streams.append(block.residuals[-1].stream(state))
        hidden_states = self.norm(state)
        if streams is not None:
            streams[-1] = hidden_states
            if selected is not None:
                kept = {index % len(streams) for index in selected if -len(streams) <= index < len(streams)}
                streams = [stream if index in kept else None for index, stream in enumerate(streams)]
        return BaseModelOutputWithPast(
            last_hidden_state=hidden_states,
            past_key_values=past_key_values,
            hidden_states=tuple(streams) if streams is not None else None,
        )


@dataclass
class ResformerOutput(CausalLMOutputWithPast):
    """With ``cross_entropy``, the loss in nats per token without the z-loss."""

    cross_entropy: torch.Tensor | None = None


class ResformerForCausalLM(ResformerPreTrainedModel, GenerationMixin):
    """The language model."""

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: ResformerConfig):
        super().__init__(config)
        self.model = ResformerModel(config)
        self.lm_head = nn.Linear(config.widths()[-1], config.vocab_size, bias=config.lm_head_bias)
        self.lm_head.initialization_path = "lm_head"
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        z_loss: float = 0.0,
        skip_logits: bool | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs,
    ) -> ResformerOutput:
        """Logits ``[batch, time, vocabulary]``, and the loss where labels are given.

        Args:
            labels: ``[batch, time]``, the tokens themselves, shifted here; -100 does not count.
            shift_labels: ``[batch, time]``, for each position the token that comes next; instead of ``labels``. One of
                ``kwargs``, as in transformers, whose ``Trainer`` waits for all parameters with "label" in their name.
            num_items_in_batch: what the summed loss is divided by; by default the labels that count.
            z_loss: factor of the squared log-normaliser in ``loss`` (PaLM, arXiv:2204.02311).
            skip_logits: return no logits beside a loss, and never hold them all; by default in training.
            logits_to_keep: logits of the last so many positions only; 0 for all.

        Other arguments as in ``ResformerModel``.
        """
        shift_labels = kwargs.pop("shift_labels", None)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        if self.config.logits_scaling != 1:
            hidden_states = hidden_states / self.config.logits_scaling
        loss = cross_entropy = logits = None
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
        if shift_labels is not None:
            targets = shift_labels.flatten().to(hidden_states.device)
            summed, squared_log_z = linear_cross_entropy(
                hidden_states.flatten(0, -2),
                self.lm_head.weight,
                targets,
                bias=self.lm_head.bias,
                cap=self.config.final_logit_softcapping,
                z_loss=z_loss,
            )
            count = (targets != IGNORED).sum() if num_items_in_batch is None else num_items_in_batch
            cross_entropy = summed / count
            loss = cross_entropy + z_loss * squared_log_z / count if z_loss else cross_entropy
        skip = self.training if skip_logits is None else skip_logits
        if shift_labels is None or not skip:
            kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            logits = softcap(self.lm_head(hidden_states[:, kept]), self.config.final_logit_softcapping)
        return ResformerOutput(
            loss=loss,
            logits=logits,
            cross_entropy=cross_entropy,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def optimizer_hints(self) -> dict[str, OptimizerHint]:
        """What each parameter asks of the optimiser: vectors take no weight decay, residual connections say."""
        hints = {name: OptimizerHint(1.0, float(p.ndim >= 2)) for name, p in self.named_parameters()}
        for path, module in self.named_modules():
            if isinstance(module, Residual):
                hints |= {f"{path}.{name}": hint for name, hint in module.optimizer_hints().items()}
            elif isinstance(module, (ResformerAttention, ResformerMLP)):
                matrices = [f"{path}.{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.Linear)]
                hints |= {name: hints[name]._replace(orthogonalised=True) for name in matrices}
        return hints

    def floating_point_operations_per_token(self, sequence_length: int) -> int:
        """Of forward and backward, the mean over a sequence: three times the forward pass as torch dispatches it
        (``operations.Operations``), for a product's backward pass is two products of its size.

        Matrix products, which are those of PaLM's convention (Chowdhery et al. 2022, arXiv:2204.02311, appendix B: six
        for each weight that multiplies, and the whole square of the attention), and what a connection does beside them:
        maps of every stream, mixing, gates. Dropout and recomputation do not count. A connection that asks for numbers,
        which nothing has here, gets PaLM's convention.

        Args:
            sequence_length: in tokens.
        """
        config = self.config
        read_out = 6 * config.widths()[-1] * config.vocab_size
        with torch.device("meta"), torch.no_grad():
            twin = self.model
            if self.device.type != "meta":
                twin = ResformerModel._from_config(copy.deepcopy(config), attn_implementation="sdpa").eval()
            ids = torch.empty(1, sequence_length, dtype=torch.long)
            try:
                with Operations() as counted:
                    twin(input_ids=ids, use_cache=False)
            except (NotImplementedError, RuntimeError):
                weights = twin.num_parameters() - twin.embed_tokens.weight.numel()
                heads = config.num_hidden_layers * config.num_attention_heads * config.head_dim
                return 6 * weights + 12 * heads * sequence_length + read_out
        return 3 * counted.total // sequence_length + read_out


ResformerModel.register_for_auto_class("AutoModel")
ResformerForCausalLM.register_for_auto_class("AutoModelForCausalLM")
