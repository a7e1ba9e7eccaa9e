"""Cross entropy of a linear read-out, without holding the logits of all tokens.

torch's own (``F.linear_cross_entropy``) cannot be differentiated twice, which curvature does, and returns its sum in
the dtype it computes in: in bfloat16 the loss would be off in the second digit.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

IGNORED = -100
CHUNK_ELEMENTS = 2**24
"""Logits held at once on a CPU, about 64 MiB in float32."""
CHUNK_ELEMENTS_ON_A_GPU = 2**28
"""Logits held at once elsewhere, where small products would leave most of the device idle."""


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
        z_loss: where 0, the second result is 0.

    Returns:
        Two scalars in nats and nats squared (Chowdhery et al. 2022, arXiv:2204.02311).
    """
    rows = max(1, _elements(weight.device) // weight.shape[0])
    if targets.numel() <= rows:
        return _chunk(hidden_states, weight, targets, bias, cap, bool(z_loss))
    autocast = _uncached_autocast(hidden_states.device.type)
    with autocast:
        if z_loss or not torch.is_grad_enabled() or not hidden_states.requires_grad or torch.compiler.is_compiling():
            return _recomputed(hidden_states, weight, targets, bias, cap, bool(z_loss), rows)
        loss = _WithGradients.apply(hidden_states, weight, bias, targets, cap, rows, autocast)
        return loss, hidden_states.new_zeros(())


def _elements(device: torch.device) -> int:
    return CHUNK_ELEMENTS if device.type == "cpu" else CHUNK_ELEMENTS_ON_A_GPU


def _uncached_autocast(device: str) -> AbstractContextManager:
    """Autocast as it is, without its cache: there chunks share one bfloat16 weight and add their gradients in it."""
    return torch.autocast(device, cache_enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def _recomputed(hidden_states, weight, targets, bias, cap, needs_z, rows):
    """Loss and squared log-normaliser, of which the backward pass computes each chunk once more."""
    loss = z = _zero(hidden_states)
    for h, t in zip(hidden_states.split(rows), targets.split(rows), strict=True):
        part = checkpoint(_chunk, h, weight, t, bias, cap, needs_z, use_reentrant=False, preserve_rng_state=False)
        loss, z = loss + part[0], z + part[1]
    return loss, z


class _WithGradients(torch.autograd.Function):
    """The loss of ``_recomputed`` and, at once, its gradients: a chunk takes three matrix products and not four.

    Can be differentiated twice, then by recomputation.
    """

    @staticmethod
    def forward(ctx, hidden_states, weight, bias, targets, cap, rows, autocast):  # type: ignore[override]
        """Shapes as in ``linear_cross_entropy``; ``hidden_states`` require a gradient, the others may."""
        weight_ = weight.detach().requires_grad_(ctx.needs_input_grad[1])
        bias_ = None if bias is None else bias.detach().requires_grad_(ctx.needs_input_grad[2])
        of_hidden_states = torch.empty_like(hidden_states)
        loss = _zero(hidden_states)
        for h, of_h, t in zip(*(x.split(rows) for x in (hidden_states, of_hidden_states, targets)), strict=True):
            h_ = h.detach().requires_grad_()
            with torch.enable_grad():
                part, _ = _chunk(h_, weight_, t, bias_, cap, False)
            part.backward()
            loss = loss + part.detach()
            of_h.copy_(h_.grad)  # type: ignore[arg-type]
        of_bias = None if bias_ is None else bias_.grad
        ctx.save_for_backward(hidden_states, weight, bias, targets, of_hidden_states, weight_.grad, of_bias)
        ctx.options = cap, False, rows
        ctx.autocast = autocast
        return loss

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        *inputs, targets = ctx.saved_tensors[:4]
        gradients = ctx.saved_tensors[4:]
        if not torch.is_grad_enabled():
            return *(None if g is None else g * grad for g in gradients), None, None, None, None
        # Views: a tied weight is also what the hidden states come from, and that derivative is not asked for here.
        hidden_states, weight, bias = (None if x is None else x.view_as(x) for x in inputs)
        with ctx.autocast:
            loss, _ = _recomputed(hidden_states, weight, targets, bias, *ctx.options)
        views = zip((hidden_states, weight, bias), gradients, strict=True)
        wanted = [x for x, g in views if x is not None and g is not None]
        found = iter(torch.autograd.grad(loss, wanted, grad, create_graph=True))
        return *(None if g is None else next(found) for g in gradients), None, None, None, None


def _zero(hidden_states: torch.Tensor) -> torch.Tensor:
    """To add up losses in: in float32 at least."""
    return hidden_states.new_zeros((), dtype=torch.promote_types(hidden_states.dtype, torch.float32))


def _chunk(hidden_states, weight, targets, bias, cap, needs_z):
    logits = softcap(F.linear(hidden_states, weight, bias), cap)
    logits = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
    loss = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    if not needs_z:
        return loss, loss.new_zeros(())
    return loss, (torch.logsumexp(logits, dim=-1).square() * (targets != IGNORED)).sum()
