"""How much a wrong learning rate costs, below and above the optimum, on a window that all arms and points share."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from .curves import clip_losses
from .inference import NAN, Estimate, t_estimate

ENOUGH_SEEDS = 4


@dataclass(frozen=True)
class Sensitivity:
    """S of Wortsman et al. 2023 (arXiv:2309.14322), section 2.2: mean over rates of min(loss, initial) - best, nats.

    Attributes:
        value: with its t interval over seeds, which is nan below four seeds.
        low_side, high_side: the parts of it from rates below and above the best rung; they add up to it. The low side
            measures under-training, the high side what too large a rate does.
        per_seed: [seeds], each seed's curve against its own loss at the rung that is best on average.
        window: the smallest and the largest rate that entered.
    """

    value: Estimate
    low_side: Estimate
    high_side: Estimate
    per_seed: np.ndarray
    window: tuple[float, float]


def common_window(
    grids: Iterable[Sequence[float]], declared: tuple[float, float] | None = None
) -> tuple[float, float] | None:
    """The rates that every grid spans, within the ``declared`` ones: S over whatever a grid grew to does not compare
    between arms or depths. None where they share none."""
    ends = [(min(grid), max(grid)) for grid in grids if len(grid)] + ([declared] if declared else [])
    if not ends:
        return None
    low, high = max(low for low, _ in ends), min(high for _, high in ends)
    return (low, high) if low <= high else None


def lr_sensitivity(
    rates: ArrayLike, losses: ArrayLike, initial: ArrayLike, window: tuple[float, float]
) -> Sensitivity | None:
    """The paper describes no average over seeds: here the best rung is that of the mean over seeds of clipped losses.

    Args:
        rates: [rates], ascending.
        losses, initial: [rates, seeds].

    Returns:
        None where no rate lies in the window.
    """
    grid = np.asarray(rates, float)
    inside = (grid >= window[0] * (1 - 1e-9)) & (grid <= window[1] * (1 + 1e-9))
    if not inside.any():
        return None
    clipped, used = clip_losses(losses, initial)[inside], grid[inside]
    best = int(clipped.mean(1).argmin())
    excess = (clipped - clipped[best]) / len(used)
    parts = [excess.sum(0), excess[:best].sum(0), excess[best + 1 :].sum(0)]
    total, low, high = (_estimate(part) for part in parts)
    return Sensitivity(total, low, high, parts[0], (float(used.min()), float(used.max())))


def _estimate(per_seed: np.ndarray) -> Estimate:
    found = t_estimate(per_seed)
    if found.n >= ENOUGH_SEEDS:
        return found
    return Estimate(found.mean, NAN, NAN, NAN, NAN, found.n)
