"""Cross entropy of a linear read-out, without holding the logits of all tokens."""

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
CHUNK_ELEMENTS = 2**24
"""Logits held at once, about 64 MiB in float32."""


def softcap(logits: torch.Tensor, cap: float | None) -> torch.Tensor:
    """``cap tanh(logits / cap)``. Gemma 2, 2024, arXiv:2408.00118."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def linear_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    *,
    bias: torch.Tensor | None = None,
    cap: float | None = None,
    z_loss: float = 0.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Summed cross entropy of ``softcap(hidden_states @ weight.T + bias)``, and summed squared log-normaliser.

    Args:
        hidden_states: ``[tokens, hidden]``.
        weight: ``[vocabulary, hidden]``.
        targets: ``[tokens]``, with -100 where a token does not count.
        bias: ``[vocabulary]``, or none.
        cap: soft cap of the logits.
        z_loss: where 0, the second result is 0, and torch's own chunked kernel is used where it is exact.

    Returns:
        Two scalars in nats and nats squared (Chowdhery et al. 2022, arXiv:2204.02311).
    """
    if targets.numel() * weight.shape[0] <= CHUNK_ELEMENTS:
        return _chunk(hidden_states, weight, targets, bias, cap, bool(z_loss))
    # torch's kernel returns its sum in the dtype it computes in: in bfloat16 the loss would be off in the second digit.
    exact = not torch.is_autocast_enabled(hidden_states.device.type) and hidden_states.dtype in (
        torch.float32,
        torch.float64,
    )
    if exact and cap is None and not z_loss and hasattr(F, "linear_cross_entropy"):
        return _fused(hidden_states, weight, targets, bias), hidden_states.new_zeros(())
    return _chunked(hidden_states, weight, targets, bias, cap, bool(z_loss))


def _fused(hidden_states, weight, targets, bias):
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(
        hidden_states, weight, targets, linear_bias=bias, reduction="sum", ignore_index=IGNORED, options=options
    )


def _chunked(hidden_states, weight, targets, bias, cap, needs_z):
    rows = max(1, CHUNK_ELEMENTS // weight.shape[0])
    loss, z = (
        hidden_states.new_zeros((), dtype=torch.float32),
        hidden_states.new_zeros((), dtype=torch.float32),
    )
    for h, t in zip(hidden_states.split(rows), targets.split(rows), strict=True):
        part = checkpoint(_chunk, h, weight, t, bias, cap, needs_z, use_reentrant=False)
        loss, z = loss + part[0], z + part[1]
    return loss, z


def _chunk(hidden_states, weight, targets, bias, cap, needs_z):
    logits = softcap(F.linear(hidden_states, weight, bias), cap)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    if not needs_z:
        return loss, loss.new_zeros(())
    return loss, (torch.logsumexp(logits, dim=-1).square() * (targets != IGNORED)).sum()
