"""Logit lens: what the model would say if it stopped after a block."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from .layouts import block_streams, cross_entropy, layout, read_out
from .measure import Batch
from .representation import anisotropy, effective_rank, linear_cka
from .rows import Row


@torch.no_grad()
def lens(model: nn.Module, batch: Batch) -> list[Row]:
    """Through the model's own read-out: nostalgebraist 2020; Belrose et al. 2023, arXiv:2303.08112.

    Returns:
        ``lens_loss`` (nats per token) and ``lens_kl``, the divergence KL(final || here) in nats, after each block, and
        of layer -1 before the first. Blocks whose stream is of another width than the last are left out. Of each stream
        ``effective_rank``, ``anisotropy`` (of several sequences) and ``cka``, its likeness to the one before.
    """
    layout(model)
    streams, logits = block_streams(model, batch)
    if not torch.allclose(read_out(model, streams[-1]).float(), logits.float(), rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"lens: {type(model).__name__} makes its logits of more than a norm and a projection; lesion, landscape "
            "and curvature take it"
        )
    final = logits.float().log_softmax(-1)
    rows = [*_held(streams)]
    for layer, stream in enumerate(streams, -1):
        if stream.shape != streams[-1].shape:
            continue
        here = read_out(model, stream)
        divergence = F.kl_div(here.float().log_softmax(-1), final, log_target=True, reduction="none").sum(-1).mean()
        rows.append((layer, "block", "lens_loss", cross_entropy(here, batch).item()))
        rows.append((layer, "block", "lens_kl", divergence.item()))
    return rows


def _held(streams: list[torch.Tensor]) -> Iterator[Row]:
    for layer, stream in enumerate(streams, -1):
        yield layer, "block", "effective_rank", effective_rank(stream).item()
        if len(stream) > 1:
            yield layer, "block", "anisotropy", anisotropy(stream).item()
    for layer, (before, after) in enumerate(itertools.pairwise(streams)):
        yield layer, "block", "cka", linear_cka(before, after).item()
