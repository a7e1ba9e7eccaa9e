"""A GPT-style decoder: branches (attention, MLP), and residual connections that wire them together."""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache, DynamicCache
from transformers.generation import GenerationMixin
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import (
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
    eager_attention_forward,
)
from transformers.utils.output_capturing import capture_outputs

from .configuration_resformer import ResformerConfig
from .initialization import constant, name_modules, normal, xavier_normal
from .losses import IGNORED, linear_cross_entropy, softcap
from .normalization import DynamicTanh, make_norm
from .residual import SUBLAYERS, OptimizerHint, Residual, State
from .shipping import write_custom_code
from .specification import build, place


class ResformerAttention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245), as a branch."""

    def __init__(self, config: ResformerConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx  # read only with a cache: a number in the forward would recompile every layer
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5
        self.is_causal = True
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, keys, bias=config.attention_bias)
        self.o_proj = nn.Linear(queries, config.hidden_size, bias=config.attention_bias)
        if config.qk_norm == "head":
            self.q_norm, self.k_norm = make_norm(config, self.head_dim), make_norm(config, self.head_dim)
        elif config.qk_norm == "projection":
            self.q_norm, self.k_norm = make_norm(config, queries), make_norm(config, keys)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """``[batch, time, hidden]`` to the same, and the attention weights where the backend has them."""
        query, key, value = self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)
        if self.config.qk_norm == "projection":
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            rearrange(x, "batch time (head dim) -> batch head time dim", dim=self.head_dim) for x in (query, key, value)
        )
        if self.config.qk_norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        if position_embeddings is not None:
            # In the dtype of the projections, as in a bfloat16 model: autocast would go through float32 and back.
            cos, sin = (x.to(query.dtype) for x in position_embeddings)
            query, key = apply_rotary_pos_emb(query, key, cos, sin)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(self.config._attn_implementation, eager_attention_forward)
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = self.o_proj(rearrange(output, "batch time head dim -> batch time (head dim)"))
        return self.dropout(output), weights


class ResformerMLP(nn.Module):
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))``, as a branch."""

    def __init__(self, config: ResformerConfig):
        super().__init__()
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        if config.gated_mlp:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.gated = config.gated_mlp
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        up = self.up_proj(hidden_states)
        inner = self.act(self.gate_proj(hidden_states)) * up if self.gated else self.act(up)
        return self.dropout(self.down_proj(inner))


class ResformerBlock(GradientCheckpointingLayer):
    """An attention and an MLP, each wired into the stream by a residual connection of its own."""

    def __init__(self, config: ResformerConfig, layer_idx: int, attention_residual: Residual, mlp_residual: Residual):
        super().__init__()
        self.attention = ResformerAttention(config, layer_idx)
        self.attention_residual = attention_residual
        self.mlp = ResformerMLP(config)
        self.mlp_residual = mlp_residual

    def forward(self, state: State, **attention_inputs) -> State:
        state = self.attention_residual.step(state, lambda h: self.attention(h, **attention_inputs)[0])
        return self.mlp_residual.step(state, self.mlp)


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
        if isinstance(module, (nn.Linear, nn.Embedding)):
            self._init_matrix(module)
        elif isinstance(module, (nn.RMSNorm, nn.LayerNorm, DynamicTanh)):
            init.ones_(module.weight)
            if getattr(module, "bias", None) is not None:
                init.zeros_(module.bias)
            if isinstance(module, DynamicTanh):
                constant(module, module.initial_alpha, "alpha")
        elif isinstance(module, LlamaRotaryEmbedding):
            super()._init_weights(module)

    def _init_matrix(self, module: nn.Linear | nn.Embedding) -> None:
        config, path = self.config, module.initialization_path
        if isinstance(module, nn.Embedding):
            std = config.embedding_initializer_range
            normal(module, config.initializer_range if std is None else std)
            return
        if config.initialization == "xavier" and path != "lm_head":
            xavier_normal(module)
        else:
            is_output = path.endswith((".attention.o_proj", ".mlp.down_proj"))
            scale = (2 * config.num_hidden_layers) ** -0.5 if is_output else 1.0
            normal(module, config.initializer_range * (scale if config.initialization == "depth_scaled" else 1.0))
        if module.bias is not None:
            init.zeros_(module.bias)

    @torch.no_grad()
    def initialize_weights(self):
        super().initialize_weights()
        # After everything else, or the rule above would overwrite what the residual connections prescribe.
        for block in self.modules():
            if isinstance(block, ResformerBlock):
                block.attention_residual.init_weights(block.attention)
                block.mlp_residual.init_weights(block.mlp)

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
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding == "learned":
            self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        elif config.position_embedding == "rope":
            self.rotary_emb = LlamaRotaryEmbedding(config)
        self.dropout = nn.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(self._blocks())
        self.norm = make_norm(config) if self.layers[-1].mlp_residual.final_norm else nn.Identity()
        self.gradient_checkpointing = False
        name_modules(self)
        self.post_init()

    def _blocks(self):
        connections = self.config.connections()
        for layer, (block, sites) in enumerate(zip(connections, place(connections), strict=True)):
            attention, mlp = (build(self.config, block[s], sites[s]) for s in SUBLAYERS)
            if sites["mlp"].segment_start <= sites["attention"].index:
                mlp.share(attention)
            yield ResformerBlock(self.config, layer, attention, mlp)

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
        output_hidden_states: bool | None = None,
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
                final norm, after it for the last), each ``[batch, time, hidden]``.

        Raises:
            ValueError: if not exactly one of ``input_ids`` and ``inputs_embeds`` is given, or if the sequence is
                longer than a model with learned positions has.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        h = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache(config=self.config)
        past = past_key_values.get_seq_length() if past_key_values is not None else 0
        if position_ids is None:
            position_ids = torch.arange(past, past + h.shape[1], device=h.device).unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=h,
            attention_mask=attention_mask,
            past_key_values=past_key_values,
            position_ids=position_ids,
        )
        position_embeddings = None
        if self.config.position_embedding == "rope":
            position_embeddings = self.rotary_emb(h, position_ids=position_ids)
        elif self.config.position_embedding == "learned":
            if past + h.shape[1] > (longest := self.config.max_position_embeddings):
                raise ValueError(f"{past + h.shape[1]} tokens, but the model has learned positions for {longest}")
            h = h + self.embed_positions(position_ids)

        state: State = self.dropout(h)
        streams = [state] if output_hidden_states else None
        for block in self.layers:
            state = block(
                state,
                position_embeddings=position_embeddings,
                attention_mask=mask,
                past_key_values=past_key_values,
                **kwargs,
            )
            if streams is not None:
                streams.append(block.mlp_residual.stream(state))
        hidden_states = self.norm(state)
        if streams is not None:
            streams[-1] = hidden_states
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
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.lm_head.initialization_path = "lm_head"
        self.post_init()

    def forward(
        self,
        input_ids: torch.LongTensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.LongTensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.LongTensor | None = None,
        shift_labels: torch.LongTensor | None = None,
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
            shift_labels: ``[batch, time]``, for each position the token that comes next; instead of ``labels``.
            num_items_in_batch: what the summed loss is divided by; by default the labels that count.
            z_loss: factor of the squared log-normaliser in ``loss`` (PaLM, arXiv:2204.02311).
            skip_logits: return no logits beside a loss, and never hold them all; by default in training.
            logits_to_keep: logits of the last so many positions only; 0 for all.

        Other arguments as in ``ResformerModel``.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        hidden_states = outputs.last_hidden_state
        loss = cross_entropy = logits = None
        if shift_labels is None and labels is not None:
            shift_labels = nn.functional.pad(labels[..., 1:], (0, 1), value=IGNORED)
        if shift_labels is not None:
            targets = shift_labels.flatten().to(hidden_states.device)
            summed, squared_log_z = linear_cross_entropy(
                hidden_states.flatten(0, -2),
                self.lm_head.weight,
                targets,
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
        return hints

    def floating_point_operations_per_token(self, sequence_length: int) -> int:
        """Of forward and backward, in the manner of PaLM (Chowdhery et al. 2022, arXiv:2204.02311, appendix B).

        Six for each weight that multiplies (embeddings look up, and do not), and the attention over
        ``sequence_length`` tokens.
        """
        looked_up = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding)} - {id(self.lm_head.weight)}
        multiplied = sum(p.numel() for p in self.parameters() if id(p) not in looked_up)
        config = self.config
        attention = 12 * config.num_hidden_layers * config.num_attention_heads * config.head_dim * sequence_length
        return 6 * multiplied + attention


ResformerModel.register_for_auto_class("AutoModel")
ResformerForCausalLM.register_for_auto_class("AutoModelForCausalLM")
