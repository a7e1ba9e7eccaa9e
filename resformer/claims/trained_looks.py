"""What is measured of a trained model on held-out text: which branches it would miss, what its late blocks read, and
the loss around its weights."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from ..model import ResformerForCausalLM
from ..stability.landscape import landscape
from ..stability.layouts import block_streams, loss_of
from ..stability.lesion import lesion
from ..stability.measure import Batch
from ..stability.reuse import reach, reuse
from ..stability.rows import WHOLE
from ..stability.seam import measurable
from .looks import Look


@dataclass(frozen=True)
class Lesions(Look):
    """``lesion_increase`` of each block (the sum over its branches, each silenced alone), ``useful_share`` of the
    branches, ``above_increase`` after each block, and ``angular_distance`` of each."""

    def __call__(self, model, batch, seed):
        increase: dict[int, float] = defaultdict(float)
        for layer, sublayer, metric, value in lesion(model, batch):
            if metric == "lesion_increase":
                increase[layer] += value
            elif metric == "useful_share" or sublayer == "block":
                yield layer, metric, value
        yield from ((layer, "lesion_increase", value) for layer, value in increase.items())


@dataclass(frozen=True)
class Reads(Look):
    """``reach`` of each block's MLP: how many sites back it reads on average; and ``early_share``, ``last_share``: how
    much of what the last quarter of the sites reads was written by the embedding and the first quarter, and by the
    site just before."""

    def __call__(self, model, batch, seed):
        reads = reuse(model, batch, seed)
        sites = 2 * model.config.num_hidden_layers
        for reader, (distance, _) in reach(reads).items():
            if reader % 2 and reader < sites:
                yield reader // 2, "reach", distance
        late = [read for read in reads if 3 * sites // 4 <= read.reader < sites]
        readers = len({read.reader for read in late})
        for name, chosen in (("early_share", lambda read: read.source < sites // 4),
                             ("last_share", lambda read: read.source == read.reader - 1)):  # fmt: skip
            yield WHOLE, name, sum(read.share for read in late if chosen(read)) / readers


@dataclass(frozen=True)
class Withheld(Look):
    """By how many nats the loss rises when the last quarter of the blocks reads a stream in which the mean over all
    tokens stands for what the embedding and the first quarter wrote (``withheld_early``), or for what the quarter just
    before wrote (``withheld_recent``). Of a stack whose state is one stream."""

    def __call__(self, model, batch, seed):
        streams, _ = block_streams(model, batch)
        quarter, last = len(streams) // 4, 3 * (len(streams) - 1) // 4
        whole, arrived = _loss_where(model, batch, last, 0.0)
        if not isinstance(arrived, torch.Tensor) or arrived.shape != streams[last].shape:
            return
        for name, gone in (("withheld_early", streams[quarter]),
                           ("withheld_recent", streams[last] - streams[last - quarter])):  # fmt: skip
            less, _ = _loss_where(model, batch, last, gone.mean(dim=(0, 1), keepdim=True) - gone)
            yield WHOLE, name, less - whole


@dataclass(frozen=True)
class Profile(Look):
    """``loss_along``: the loss on a line of ``points`` through the weights, along a filter-normalised direction (Li et
    al. 2018, arXiv:1712.09913), for layer the place on it."""

    points: int = 21
    radius: float = 1.0

    def __call__(self, model, batch, seed):
        line = landscape(model, batch, points=self.points, radius=self.radius, seed=seed, plane=False)
        yield from ((place, "loss_along", loss) for place, (_, _, loss) in enumerate(line))


@torch.no_grad()
def _loss_where(
    model: ResformerForCausalLM, batch: Batch, layer: int, moved: torch.Tensor | float
) -> tuple[float, Any]:
    """The loss where ``moved`` is added to what arrives at a block, and what arrived there."""
    arrived: list[Any] = []

    def hook(block, given):
        arrived.append(given[0])
        return (given[0] + moved, *given[1:]) if isinstance(moved, torch.Tensor) else None

    handle = model.model.layers[layer].register_forward_pre_hook(hook)
    try:
        with measurable(model):
            return loss_of(model, batch).item(), arrived[0]
    finally:
        handle.remove()
