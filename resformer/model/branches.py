"""The two branches of a block: attention and MLP, as functions of what a residual connection lets them read."""

import torch
from einops import rearrange
from torch import nn
from transformers.activations import ACT2FN
from transformers.cache_utils import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward
from transformers.models.gpt_neox.modeling_gpt_neox import apply_rotary_pos_emb as rotate_part
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate

from .configuration_resformer import ResformerConfig
from .initialization import buffer, parameter
from .normalization import make_norm


class ResformerAttention(nn.Module):
    """Causal self-attention with grouped queries (Ainslie et al. 2023, arXiv:2305.13245), as a branch.

    Args:
        config: the model's.
        layer_idx: the block's.
        input_size, output_size: widths of the stream before and after.
        inner_norm: a norm before the output projection.
    """

    def __init__(self, config: ResformerConfig, layer_idx: int, input_size: int, output_size: int, inner_norm: bool):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx  # read only with a cache: a number in the forward would recompile every layer
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = config.head_dim**-0.5 if config.attention_multiplier is None else config.attention_multiplier
        self.special: dict[str, float] = {}  # given to an attention function only where it is asked for
        if config.attention_logit_softcapping is not None:
            self.special["softcap"] = config.attention_logit_softcapping
        if config.attention_kinds()[layer_idx] == "sliding_attention":
            self.special["sliding_window"] = config.sliding_window
        self.is_causal = True
        queries, keys = config.num_attention_heads * self.head_dim, config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(input_size, queries, bias=config.attention_bias)
        self.k_proj = nn.Linear(input_size, keys, bias=config.attention_bias)
        output_bias = config.attention_bias if config.attention_output_bias is None else config.attention_output_bias
        self.o_proj = nn.Linear(queries, output_size, bias=output_bias)
        takes_first = config.value_residual != "none" and layer_idx > 0
        self.shares_values = takes_first and config.value_residual == "svformer"
        if not self.shares_values:
            self.v_proj = nn.Linear(input_size, keys, bias=config.attention_bias)
        self.mixes_values = takes_first and not self.shares_values
        if self.mixes_values:
            learned = config.value_residual == "learned"
            self.value_mix = parameter(2, start=0.5) if learned else buffer(2, start=0.5)
        if config.qkv_norm or config.qk_norm == "head":
            self.q_norm, self.k_norm = make_norm(config, self.head_dim), make_norm(config, self.head_dim)
        elif config.qk_norm == "projection":
            self.q_norm, self.k_norm = make_norm(config, queries), make_norm(config, keys)
        self.v_norm = make_norm(config, self.head_dim) if config.qkv_norm else nn.Identity()
        self.inner_norm = make_norm(config, queries) if inner_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)

    def values(self, hidden_states: torch.Tensor, first_values: torch.Tensor | None) -> torch.Tensor:
        """``[batch, time, heads x dim]``, mixed with those of the first block where ``value_residual`` says so."""
        if self.shares_values:
            return first_values
        value = self.v_proj(hidden_states)
        return self.value_mix[0] * value + self.value_mix[1] * first_values if self.mixes_values else value

    def forward(
        self,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        attention_mask: torch.Tensor | None,
        past_key_values: Cache | None,
        key: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        first_values: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """``[batch, time, hidden]`` to the same, the attention weights where the backend has them, and the values.

        ``key`` and ``value`` are what keys and values read, where it is not ``hidden_states``.
        """
        query, key = self.q_proj(hidden_states), self.k_proj(hidden_states if key is None else key)
        projected = value = self.values(hidden_states if value is None else value, first_values)
        if self.config.qk_norm == "projection":
            query, key = self.q_norm(query), self.k_norm(key)
        query, key, value = (
            rearrange(x, "batch time (head dim) -> batch head time dim", dim=self.head_dim) for x in (query, key, value)
        )
        if self.config.qkv_norm or self.config.qk_norm == "head":
            query, key = self.q_norm(query), self.k_norm(key)
        value = self.v_norm(value)
        if position_embeddings is not None:
            # In the dtype of the projections, as in a bfloat16 model: autocast would go through float32 and back.
            cos, sin = (x.to(query.dtype) for x in position_embeddings)
            query, key = (rotate if cos.shape[-1] == self.head_dim else rotate_part)(query, key, cos, sin)
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
            **self.special,
            **kwargs,
        )
        output = self.o_proj(self.inner_norm(rearrange(output, "batch time head dim -> batch time (head dim)")))
        return self.dropout(output), weights, projected


class ResformerMLP(nn.Module):
    """``down(act(up(x)))``, or ``down(act(gate(x)) * up(x))``, as a branch; ``inner_norm``: a norm before ``down``."""

    def __init__(self, config: ResformerConfig, input_size: int, inner_norm: bool):
        super().__init__()
        self.up_proj = nn.Linear(input_size, config.intermediate_size, bias=config.mlp_bias)
        if config.gated_mlp:
            self.gate_proj = nn.Linear(input_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.act = ACT2FN[config.hidden_act]
        self.gated = config.gated_mlp
        self.inner_norm = make_norm(config, config.intermediate_size) if inner_norm else nn.Identity()
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        up = self.up_proj(hidden_states)
        inner = self.act(self.gate_proj(hidden_states)) * up if self.gated else self.act(up)
        return self.dropout(self.down_proj(self.inner_norm(inner)))
