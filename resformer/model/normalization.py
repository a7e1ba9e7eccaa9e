"""Norm layers, an axis of its own: which norm is used is independent of where a residual connection puts it."""

import torch
from torch import nn
from transformers.utils.generic import maybe_autocast

from .initialization import parameter


class RMSNorm(nn.RMSNorm):
    """Zhang and Sennrich 2019, arXiv:1910.07467."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # Under autocast a branch's output is bfloat16: torch's fused kernel wants the dtype of the weight.
        x = hidden_states.to(self.weight.dtype)
        if x.device.type != "cpu" or x.dtype in (torch.bfloat16, torch.float16):
            return super().forward(x)
        # On the CPU torch has no fused kernel, and this order of operations takes a quarter less time than its own.
        with maybe_autocast(x.device.type, enabled=False):  # which would round the size of every token to bfloat16
            mean_square = torch.linalg.vecdot(x, x).unsqueeze(-1) / x.shape[-1]
        return x * torch.rsqrt(mean_square + self.eps) * self.weight


class DynamicTanh(nn.Module):
    """``weight * tanh(alpha * x) + bias``, a norm without statistics. Zhu et al. 2025, arXiv:2503.10622.

    Args:
        size: width of the last dimension.
        alpha: initial slope.
    """

    def __init__(self, size: int, alpha: float = 0.5):
        super().__init__()
        self.alpha = parameter(1, start=alpha)
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.tanh(self.alpha * hidden_states) + self.bias


NORM_CLASSES = (nn.RMSNorm, nn.LayerNorm, DynamicTanh)


def make_norm(config, size: int | None = None) -> nn.Module:
    """The norm that ``config.norm`` names, over a last dimension of ``size`` (default ``hidden_size``)."""
    size = config.hidden_size if size is None else size
    if config.norm == "rmsnorm":
        return RMSNorm(size, eps=config.norm_eps)
    if config.norm == "layernorm":
        return nn.LayerNorm(size, eps=config.norm_eps)
    if config.norm == "dyt":
        return DynamicTanh(size)
    return nn.Identity()
