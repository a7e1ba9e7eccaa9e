"""Reuse: what of earlier writes each site reads, along the wiring alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from tqdm.auto import tqdm

from ..model import ResformerForCausalLM
from .layouts import logits_of
from .measure import Batch
from .seam import measurable, watching
from .signal import rms


@dataclass(frozen=True)
class Read:
    """Site ``reader`` reads what ``source`` wrote (-1: the embedding) with ``weight``, and ``share`` of what it reads
    comes from there."""

    reader: int
    source: int
    weight: float
    share: float


def reuse(model: nn.Module, batch: Batch, seed: int = 0) -> list[Read]:
    """How strongly each site's input depends on each earlier site's output, not through other branches.

    Every branch's output is held fixed, so that only the connections carry: the weight is by how much the transposed
    Jacobian from source to reader stretches a random vector (its square has the mean squared singular value as mean).
    For ``pre`` all weights are 1, for DenseFormer (Pagliardini et al. 2024, arXiv:2402.02622) they are products of its
    averages, for attention over depth the attention, for several streams what the mixing lets through. The share weighs
    with the size of what was written. The last reader, one beyond the sites, is the final norm.

    Raises:
        ValueError: if ``model`` is no resformer.
    """
    if not isinstance(model, ResformerForCausalLM):
        raise ValueError(
            f"reuse looks into residual connections, and {type(model).__name__} has none of ours; lesion, lens, "
            "landscape and curvature take it"
        )
    generator = torch.Generator().manual_seed(seed)
    with measurable(model), watching(model, hold_branches=True) as views:
        logits_of(model, batch)
    sources = [(-1, views[0].before)] + [(i, view.written) for i, view in enumerate(views) if view.written is not None]
    readers = [(i, view.reads) for i, view in enumerate(views)] + [(len(views), views[-1].after)]
    found: list[Read] = []
    for reader, read in tqdm(readers, desc="reuse", disable=None, leave=False):
        if read is None or not read.requires_grad:
            continue
        earlier = [(i, tensor) for i, tensor in sources if i < reader]
        probe = torch.randn(read.shape, generator=generator).to(read)
        gradients = torch.autograd.grad(read, [t for _, t in earlier], probe, retain_graph=True, allow_unused=True)
        weights = {
            i: 0.0 if g is None else (g.norm() / probe.norm()).item()
            for (i, _), g in zip(earlier, gradients, strict=True)
        }
        sizes = {i: weights[i] * rms(t).item() for i, t in earlier}
        total = sum(sizes.values()) or 1.0
        found += [Read(reader, i, weights[i], sizes[i] / total) for i in weights]
    return found


def reach(reads: list[Read]) -> dict[int, tuple[float, float]]:
    """Of each reader the expected number of sites back, ``sum_j (i - j) |w_ij| / sum_j |w_ij|``, and the entropy of its
    shares in nats."""
    result = {}
    for reader in sorted({read.reader for read in reads}):
        own = [read for read in reads if read.reader == reader]
        total = sum(read.weight for read in own) or 1.0
        distance = sum((reader - read.source) * read.weight for read in own) / total
        result[reader] = (distance, -sum(read.share * math.log(read.share) for read in own if read.share > 0))
    return result
