"""How a model is described."""

import copy
import dataclasses
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.generation import GenerationConfig

from .residual import PARALLEL, SUBLAYERS, Site
from .specification import Connection, ResidualError, build, did_you_mean, place, resolve


def _within(low: float, high: float, default: Any) -> Any:
    """A field for numbers from ``low`` to ``high``, both included: never NaN, never infinity."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@strict
class ResformerConfig(PreTrainedConfig):
    """A GPT-style decoder whose residual connections are named by ``residual``.

    Args:
        vocab_size: number of tokens.
        hidden_size: width of the stream; or a width for each block, as a list or a pattern (``256*4,384*4``), where
            the residual connection at the change can (``projection``).
        intermediate_size: width of the MLP; by default 4 ``hidden_size``, or 8/3 of it, rounded up to a multiple of
            32, where the MLP is gated, which has the same number of parameters.
        num_hidden_layers: number of blocks, each an attention and an MLP.
        num_attention_heads: query heads.
        num_key_value_heads: key and value heads (grouped queries); by default as many as query heads.
        head_dim: width of a head, the same in all blocks; by default ``hidden_size / num_attention_heads``, of the
            first block.
        max_position_embeddings: longest sequence in tokens.
        hidden_act: activation of the MLP, a name of transformers' ``ACT2FN``.
        norm: ``rmsnorm``, ``layernorm``, ``dyt`` or ``none``; where it stands is the residual connection's to say.
        norm_eps: epsilon of the norm.
        position_embedding: ``rope``, ``learned`` or ``none``.
        rope_parameters: as everywhere in transformers; by default ``rope_theta`` 10,000.
        attention_bias: whether the attention's projections have biases.
        mlp_bias: whether the MLP's projections have biases.
        gated_mlp: ``down(act(gate(x)) * up(x))`` (Shazeer 2020, arXiv:2002.05202) instead of ``down(act(up(x)))``.
        qk_norm: norm on queries and keys: ``none``, per ``head`` (Qwen 3) or over the whole ``projection`` (OLMo 2).
        qkv_norm: norm on queries, keys and values, per head (HybridNorm, Zhuo et al. 2025, arXiv:2503.04598).
        parallel_block: one residual connection for each block, whose branch is attention plus MLP (GPT-J; with the
            residual connection ``two_norms`` GPT-NeoX).
        value_residual: values mixed with those of the first block (Zhou et al. 2024, arXiv:2410.17897): ``none``,
            ``constant`` (half and half), ``learned`` (two scalars a block, from half and half), or ``svformer`` (the
            first block's values everywhere).
        tie_word_embeddings: whether the output projection is the embedding.
        attention_dropout: on attention weights.
        hidden_dropout: on the embedding and on each branch's output.
        initialization: ``normal`` (``initializer_range`` everywhere), ``depth_scaled`` (GPT-2's: output projections
            of both branches divided by sqrt(2 ``num_hidden_layers``)) or ``xavier``. A residual connection that
            prescribes its own has the last word on its branch.
        initializer_range: standard deviation of the initial weights.
        embedding_initializer_range: of the embeddings; by default ``initializer_range``.
        final_logit_softcapping: c in ``c tanh(logits / c)`` (Gemma 2), or none.
        residual: the connection of every site: a kind (``pre``), a kind with options
            (``{kind: layerscale, init: 1.0e-4}`` or ``layerscale(init=1e-4)``), by depth (``post*1,pre*rest``), by
            sublayer (``{attention: pre, mlp: peri}``) or a list with one of these per layer.

    Raises:
        ValueError: one line for a key that does not exist, a wrong type, or values that do not fit together.
    """

    model_type = "resformer"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = _within(1, 2**28, 257)
    hidden_size: int | str | list[int] = _within(1, 2**20, 256)
    intermediate_size: int | None = _within(1, 2**22, None)
    num_hidden_layers: int = _within(1, 10_000, 4)
    num_attention_heads: int = _within(1, 2**16, 4)
    num_key_value_heads: int | None = _within(1, 2**16, None)
    head_dim: int | None = _within(1, 2**16, None)
    max_position_embeddings: int = _within(1, 2**26, 1024)
    hidden_act: str = "silu"
    norm: Literal["rmsnorm", "layernorm", "dyt", "none"] = "rmsnorm"
    norm_eps: float = _within(0, 1, 1e-6)
    position_embedding: Literal["rope", "learned", "none"] = "rope"
    rope_parameters: dict | None = None
    attention_bias: bool = False
    mlp_bias: bool = False
    gated_mlp: bool = True
    qk_norm: Literal["none", "head", "projection"] = "none"
    qkv_norm: bool = False
    parallel_block: bool = False
    value_residual: Literal["none", "constant", "learned", "svformer"] = "none"
    tie_word_embeddings: bool = True
    attention_dropout: int | float = _within(0, 0.999, 0.0)
    hidden_dropout: int | float = _within(0, 0.999, 0.0)
    initialization: Literal["normal", "depth_scaled", "xavier"] = "normal"
    initializer_range: float = _within(0, 100, 0.02)
    embedding_initializer_range: float | None = _within(0, 100, None)
    final_logit_softcapping: int | float | None = _within(0.01, 1e6, None)
    residual: Any = "pre"
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    def __post_init__(self, **kwargs):
        self._validate_ranges()
        widths = self.widths()
        if self.head_dim is None:
            self.head_dim = widths[0] // self.num_attention_heads
            if widths[0] % self.num_attention_heads:
                raise ValueError(
                    f"hidden_size {widths[0]} does not divide into num_attention_heads "
                    f"{self.num_attention_heads}; change one of them, or give head_dim"
                )
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.intermediate_size is None and len(set(widths)) == 1:
            self.intermediate_size = self._mlp_width(widths[0])
        self._refuse_unknown_keys(kwargs)
        super().__post_init__(**kwargs)
        # Not in transformers' `validate_architecture`, which wraps each message in two lines of its own.
        self._validate_numbers()
        self._validate_residual()

    def _refuse_unknown_keys(self, keys) -> None:
        """transformers would take a misspelt key as an attribute that nothing reads."""
        known = set(type(self).__dataclass_fields__) | _KEYS_OF_TRANSFORMERS
        for key in keys:
            if key not in known and not key.startswith("_"):
                raise ValueError(f"ResformerConfig has no key {key!r}{did_you_mean(key, sorted(known))}")

    def _validate_ranges(self) -> None:
        for item in dataclasses.fields(self):
            value, (low, high) = getattr(self, item.name), item.metadata.get("range", (None, None))
            if low is not None and isinstance(value, (int, float)) and not low <= value <= high:
                raise ValueError(f"{item.name} is {value}; it must be at least {low} and at most {high}")
        theta = (self.rope_parameters or {}).get("rope_theta", 1.0)
        if not 0 < theta < 1e12:
            raise ValueError(f"rope_parameters: rope_theta is {theta}; it must be above 0 and below 1e12")

    def _validate_numbers(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of num_key_value_heads "
                f"{self.num_key_value_heads}"
            )
        if self.position_embedding == "rope" and self.head_dim % 2:
            raise ValueError(f"head_dim {self.head_dim} is odd; rope needs an even one")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"unknown hidden_act {self.hidden_act!r}{did_you_mean(self.hidden_act, ACT2FN)}")
        if self.qkv_norm and self.qk_norm != "none":
            raise ValueError(f"qkv_norm norms queries and keys too; leave qk_norm at none, not {self.qk_norm!r}")
        widths = self.widths()
        if self.tie_word_embeddings and widths[0] != widths[-1]:
            raise ValueError(
                f"hidden_size goes from {widths[0]} to {widths[-1]}: such a model cannot tie its embeddings; set "
                "tie_word_embeddings to false"
            )

    def _validate_residual(self) -> None:
        """Build each distinct connection of each segment without memory, so that a bad option is known early."""
        connections, seen = self.connections(), set()
        with torch.device("meta"):
            for layer, (block, sites) in enumerate(zip(connections, self.sites(), strict=True)):
                for sublayer, site in sites.items():
                    key = (site.segment_start, sublayer, site.input_size)
                    if key not in seen:
                        seen.add(key)
                        build(self.at(layer), block[sublayer], site)

    def widths(self) -> list[int]:
        """Width of the stream in each block.

        Raises:
            ValueError: if ``hidden_size`` does not describe ``num_hidden_layers`` widths in their range.
        """
        if isinstance(self.hidden_size, str):
            widths: list[int] = []
            for item in self.hidden_size.split(","):
                width, _, count = (part.strip() for part in item.partition("*"))
                if not width.isdecimal() or not (count.isdecimal() or count in ("", "rest")):
                    raise ValueError(f"hidden_size: cannot read {self.hidden_size!r}; write for example 256*4,384*4")
                fill = self.num_hidden_layers - len(widths)
                # One too many is enough to know that they are.
                widths += [int(width)] * (fill if count == "rest" else min(int(count or 1), fill + 1))
        elif isinstance(self.hidden_size, list):
            widths = list(self.hidden_size)
        else:
            widths = [self.hidden_size] * self.num_hidden_layers
        if len(widths) != self.num_hidden_layers:
            raise ValueError(
                f"hidden_size {self.hidden_size!r} describes {len(widths)} blocks, num_hidden_layers is "
                f"{self.num_hidden_layers}"
            )
        low, high = type(self).__dataclass_fields__["hidden_size"].metadata["range"]
        if not low <= min(widths) <= max(widths) <= high:
            raise ValueError(f"hidden_size is {self.hidden_size!r}; it must be at least {low} and at most {high}")
        return widths

    def at(self, layer: int) -> "ResformerConfig":
        """This configuration as a block sees it: ``hidden_size`` and ``intermediate_size`` are numbers."""
        width = self.widths()[layer]
        if self.hidden_size == width:
            return self
        config = copy.copy(self)
        config.hidden_size = width
        config.intermediate_size = self.intermediate_size or self._mlp_width(width)
        return config

    def _mlp_width(self, width: int) -> int:
        return -(-4 * width * 2 // 3 // 32) * 32 if self.gated_mlp else 4 * width

    @property
    def sublayers(self) -> tuple[str, ...]:
        """The sites of a block."""
        return PARALLEL if self.parallel_block else SUBLAYERS

    def connections(self) -> list[dict[str, Connection]]:
        """``residual`` resolved: one ``{sublayer: Connection}`` for each block.

        Raises:
            ResidualError: if it does not describe the stack.
        """
        blocks = resolve(self.residual, self.num_hidden_layers)
        if not self.parallel_block:
            return blocks
        for layer, block in enumerate(blocks):
            if block["attention"] != block["mlp"]:
                raise ResidualError(
                    f"residual: layer {layer} has {block['attention'].kind!r} for attention and {block['mlp'].kind!r} "
                    "for mlp; with parallel_block they share one connection"
                )
        return [{"parallel": block["attention"]} for block in blocks]

    def sites(self) -> list[dict[str, Site]]:
        """One ``{sublayer: Site}`` for each block."""
        return place(self.connections(), self.sublayers, self.widths())


_KEYS_OF_TRANSFORMERS = set(GenerationConfig._get_default_generation_params()) | {
    "attn_implementation",
    "auto_map",
    "experts_implementation",
    "model_type",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "per_layer_config",
    "rope_scaling",
    "rope_theta",
    "tie_last_hidden_states",
    "torch_dtype",
    "transformers_version",
}

ResformerConfig.register_for_auto_class()
