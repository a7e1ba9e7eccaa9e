"""What streams and sources are mixed by, in the order of operations that reads and writes them least often.

Each function says its formula. Eager, a batched product of tiny matrices reads a state once and writes it once;
compiled, it would be a call that nothing fuses with, where a broadcast sum becomes part of what stands around it. That
both give the formula's values and gradients is tested.
"""

from collections.abc import Callable

import torch
from torch.utils.checkpoint import checkpoint


def mixed(weights: torch.Tensor, streams: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, ...]:
    """``weights^T streams``, rows ``sizes`` apart.

    Args:
        weights: ``[..., from, to]``.
        streams: ``[batch, time, from, hidden]``.
        sizes: how the rows of the result divide; they add up to ``to``.

    Returns:
        For each size ``[batch, time, size, hidden]``.
    """
    if torch.compiler.is_compiling():
        # Each part alone: what is carried is then not computed before it is written.
        return tuple(broadcast_sum(part, streams) for part in weights.split(sizes, dim=-1))
    read, *carried = (weights.mT @ streams).split(sizes, dim=-2)
    # A copy, since the branch keeps what it read for the backward pass, and a view would keep what is carried with it.
    return read.clone() if carried else read, *carried


def broadcast_sum(weights: torch.Tensor, streams: torch.Tensor) -> torch.Tensor:
    """``weights^T streams`` without a matrix product, shapes as in ``mixed``."""
    return (weights.unsqueeze(-1) * streams.unsqueeze(-2)).sum(-3)


def written(weights: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``weights y^T`` in the dtype of the weights: what each stream gets, ``[batch, time, streams, hidden]``.

    Args:
        weights: ``[..., streams]``.
        y: the branch's output, ``[batch, time, hidden]``.
    """
    if torch.compiler.is_compiling():
        return weights.unsqueeze(-1) * y.unsqueeze(-2)
    return recomputed(lambda w, y: w.unsqueeze(-1) @ y.to(w.dtype).unsqueeze(-2), weights, y)


def recomputed(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> torch.Tensor:
    """``function(*inputs)``, of which only the inputs are kept for the backward pass, which computes it once more.

    For what is large beside its inputs or its result, and cheap. A compiler decides by itself what to keep.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


class AttendOverDepth(torch.autograd.Function):
    """``sum_i softmax_i(r_i v_i . direction) v_i`` with ``r_i = rsqrt(mean(v_i^2) + eps)``, for each head.

    By itself autograd reads each source nine times in the backward pass, here it is three times; only the sources are
    kept, and numbers for each token. Can be differentiated twice.
    """

    @staticmethod
    def forward(ctx, direction, heads, eps, *sources):  # type: ignore[override]
        """``direction`` is ``[hidden]``, each source ``[batch, time, hidden]``, as is what is returned."""
        ctx.heads, ctx.eps = heads, eps
        ctx.save_for_backward(direction, *sources)
        *_, weights = _depth_weights(direction, heads, eps, sources)
        read = weights[0] * sources[0].unflatten(-1, (heads, -1))
        for weight, v in zip(weights[1:], sources[1:], strict=True):
            read = torch.addcmul(read, weight, v.unflatten(-1, (heads, -1)))
        return read.flatten(-2)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[override]
        direction, *sources = ctx.saved_tensors
        heads = ctx.heads
        split = [v.unflatten(-1, (heads, -1)) for v in sources]
        inverse, logits, weights = _depth_weights(direction, heads, ctx.eps, sources)
        grad = grad.unflatten(-1, (heads, -1))
        of_weights = torch.stack([torch.linalg.vecdot(grad, v).unsqueeze(-1) for v in split])
        of_logits = weights * (of_weights - (weights * of_weights).sum(0))
        along = of_logits * inverse  # [sources, batch, time, heads, 1]
        own = -(of_logits * logits).sum(-2, keepdim=True) * inverse.square() / direction.numel()
        vector = direction.view(heads, -1)
        of_sources = (
            torch.addcmul(torch.addcmul(w * grad, a, vector), o, v).flatten(-2)
            for w, a, o, v in zip(weights, along, own, split, strict=True)
        )
        of_direction = [torch.einsum("bthc,bthd->hd", a, v) for a, v in zip(along, split, strict=True)]
        return torch.stack(of_direction).sum(0).flatten(), None, None, *of_sources


def _depth_weights(direction, heads, eps, sources):
    """Inverse sizes ``[sources, batch, time, 1, 1]``, logits and weights ``[sources, batch, time, heads, 1]``."""
    vector = direction.view(heads, -1)
    inverse = torch.stack([torch.linalg.vecdot(v, v) for v in sources])
    inverse = torch.rsqrt(inverse / direction.numel() + eps)[..., None, None]
    products = torch.stack([torch.linalg.vecdot(v.unflatten(-1, (heads, -1)), vector) for v in sources])
    logits = products.unsqueeze(-1) * inverse
    return inverse, logits, logits.softmax(0)
