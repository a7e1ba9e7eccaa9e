"""The loss along random directions in the space of weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from tqdm.auto import tqdm

from .layouts import loss_of
from .measure import Batch
from .seam import measurable

Direction = dict[str, torch.Tensor]


def filter_normalised_direction(model: nn.Module, seed: int) -> Direction:
    """A normal direction whose every output row is as long as the weight's row; vectors (norms, biases) stay put.

    Li et al. 2018, arXiv:1712.09913. A norm makes the scale of the weights before it meaningless: compare variants
    with care.
    """
    generator = torch.Generator().manual_seed(seed)
    direction: Direction = {}
    for name, weight in model.named_parameters():
        if weight.ndim < 2:
            direction[name] = torch.zeros_like(weight)
            continue
        random = torch.randn(weight.shape, generator=generator).to(weight)
        rows = random.flatten(1)
        lengths = weight.detach().flatten(1).norm(dim=1) / rows.norm(dim=1).clamp(min=1e-12)
        direction[name] = (rows * lengths.unsqueeze(1)).view_as(weight)
    return direction


@torch.no_grad()
def landscape(
    model: nn.Module, batch: Batch, *, points: int = 21, radius: float = 1.0, seed: int = 0, plane: bool = True
) -> Iterator[tuple[float, float, float]]:
    """``(a, b, loss)`` at ``weights + a d1 + b d2``: a line of ``points`` (b = 0), then a plane of ``points`` squared.

    The weights are put back exactly. Losses in nats per token.
    """
    first, second = filter_normalised_direction(model, seed), filter_normalised_direction(model, seed + 1)
    start = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    ticks = [radius * (2 * i / (points - 1) - 1) for i in range(points)]
    places = [(a, 0.0) for a in ticks] + ([(a, b) for b in ticks for a in ticks] if plane else [])
    try:
        with measurable(model):
            for a, b in tqdm(places, desc="landscape", disable=None, leave=False):
                for name, weight in model.named_parameters():
                    weight.copy_(start[name] + a * first[name] + b * second[name])
                yield a, b, loss_of(model, batch).item()
    finally:
        for name, weight in model.named_parameters():
            weight.copy_(start[name])
