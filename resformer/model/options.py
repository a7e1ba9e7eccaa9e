"""What a model is told, apart from what reads it: its help needs no tensor library."""

import dataclasses
from typing import Any, Literal


def _within(low: float, high: float, default: Any) -> Any:
    """A field for numbers from ``low`` to ``high``, both included: never NaN, never infinity."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


@dataclasses.dataclass(init=False, repr=False, eq=False, kw_only=True)
class ResformerOptions:
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
        rope_parameters: as everywhere in transformers; by default ``rope_theta`` 10,000. ``partial_rotary_factor`` is
            the share of a head that is rotated (GPT-NeoX).
        sliding_window: the latest tokens that a token sees, itself among them (Mistral); by default all.
        full_attention_every: every so many-th block sees all tokens none the less (Gemma 2: 2, Gemma 3: 6); or none.
        local_rope_theta: ``rope_theta`` of the blocks with a window (Gemma 3); by default as in the others.
        attention_bias: whether the attention's projections have biases.
        attention_output_bias: whether its output projection has one; by default as the others (Qwen 2: not).
        attention_multiplier: of the attention's logits; by default 1/sqrt(``head_dim``).
        attention_logit_softcapping: c in ``c tanh(logits / c)`` of the attention (Gemma 2), which torch's fused kernel
            cannot compute; or none.
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
        embedding_multiplier: of the embedded tokens (Gemma: sqrt(``hidden_size``)).
        lm_head_bias: whether the output projection has a bias (Phi).
        logits_scaling: what the logits are divided by (Granite).
        final_logit_softcapping: c in ``c tanh(logits / c)`` (Gemma 2), or none.
        residual: the connection of every site: a kind (``pre``), a kind with options
            (``{kind: layerscale, init: 1.0e-4}`` or ``layerscale(init=1e-4)``), by depth (``post*1,pre*rest``), by
            sublayer (``{attention: pre, mlp: peri}``) or a list with one of these per layer.

    Raises:
        ValueError: one line for a key that does not exist, a wrong type, or values that do not fit together.
    """

    vocab_size: int = _within(1, 2**28, 257)
    hidden_size: int | str | list[int] = _within(1, 2**20, 256)  # noqa: RUF009
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
    sliding_window: int | None = _within(1, 2**26, None)
    full_attention_every: int | None = _within(1, 10_000, None)
    local_rope_theta: int | float | None = _within(1e-9, 1e12, None)
    attention_bias: bool = False
    attention_output_bias: bool | None = None
    attention_multiplier: int | float | None = _within(1e-9, 1e9, None)
    attention_logit_softcapping: int | float | None = _within(0.01, 1e6, None)
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
    embedding_multiplier: int | float = _within(1e-9, 1e9, 1.0)
    lm_head_bias: bool = False
    logits_scaling: int | float = _within(1e-9, 1e9, 1.0)
    final_logit_softcapping: int | float | None = _within(0.01, 1e6, None)
    residual: Any = "pre"
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
