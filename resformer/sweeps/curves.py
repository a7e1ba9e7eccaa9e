"""What a curve of final loss over learning rates says: best, sensitivity, largest stable rate, headroom.

Arrays are ``losses`` [rates, seeds] of final held-out loss in nats per token, with nan or inf for a run that diverged,
``rates`` [rates] of peak learning rates, ascending, and ``initial`` (a number, or [rates, seeds]): the loss at
initialisation, at which Wortsman et al. 2023 (arXiv:2309.14322) count a run that did worse or diverged. Failures are
data: no function here drops a run.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

DELTA = 0.2
"""Nats above the best loss that a learning rate may cost and still count as stable."""
HALF_DECADES = np.arange(-2, 4) / 2
"""log10 offsets from an arm's own optimum over which the centred sensitivity is the mean."""


def clip_losses(losses: ArrayLike, initial: ArrayLike) -> np.ndarray:
    """``min(loss, initial)``, and ``initial`` where the loss is not finite; never a dropped run."""
    values = np.asarray(losses, float)
    return np.where(np.isfinite(values), np.minimum(values, initial), initial)


@dataclass(frozen=True)
class Sensitivity:
    """``value``: mean over the rates of clipped loss minus best loss, in nats. ``per_seed`` [seeds] has that mean: each
    seed's curve against its own loss at the rate that is best on average. ``best``: the loss at that rate, averaged
    over seeds. ``window``: the smallest and the largest rate that entered."""

    value: float
    per_seed: np.ndarray
    best: float
    window: tuple[float, float]


def lr_sensitivity(
    rates: ArrayLike, losses: ArrayLike, initial: ArrayLike, window: tuple[float, float] | None = None
) -> Sensitivity:
    """S of Wortsman et al. 2023, section 2.2: E over rates in ``window`` of min(loss, initial) - best.

    The paper describes no average over seeds. Here each run is clipped, then seeds are averaged at each rate, then the
    minimum and the mean over rates are taken.

    Raises:
        ValueError: if no rate lies in the window.
    """
    grid = np.asarray(rates, float)
    inside = np.ones(len(grid), bool) if window is None else _within(grid, window)
    if not inside.any():
        raise ValueError(f"no learning rate lies in the window {window}; the grid has {grid.tolist()}")
    clipped = clip_losses(losses, initial)[inside]
    best = int(clipped.mean(1).argmin())
    per_seed = clipped.mean(0) - clipped[best]
    used = grid[inside]
    return Sensitivity(
        float(per_seed.mean()), per_seed, float(clipped[best].mean()), (float(used.min()), float(used.max()))
    )


def centred_lr_sensitivity(rates: ArrayLike, losses: ArrayLike, initial: ArrayLike) -> float | None:
    """The sensitivity over a window that moves with the arm's own optimum: from a decade below to 1.5 above.

    Losses between grid points are interpolated linearly in log rate; none where the grid does not reach that far.
    An arm whose connection rescales the effective learning rate (DeepNorm, ReZero) is not punished for it here.
    """
    logs = np.log10(np.asarray(rates, float))
    mean = clip_losses(losses, initial).mean(1)
    places = logs[mean.argmin()] + HALF_DECADES
    if places[0] < logs[0] - 1e-6 or places[-1] > logs[-1] + 1e-6:
        return None
    return float(np.interp(places, logs, mean).mean() - mean.min())


@dataclass(frozen=True)
class Optimum:
    """``rate`` and ``loss``: of the best grid point. ``interior``: it has a neighbour on both sides.
    ``fitted_rate`` and ``fitted_loss``: of the parabola through it and its neighbours, or of the grid point itself
    where there is no parabola to trust. ``index``: of the grid point."""

    index: int
    rate: float
    loss: float
    interior: bool
    fitted_rate: float
    fitted_loss: float


def optimum(rates: ArrayLike, losses: ArrayLike, initial: ArrayLike, delta: float = DELTA) -> Optimum:
    """The best rate of the seed-averaged clipped curve, and the parabola in log rate through it and its neighbours.

    The parabola is used only for an interior optimum whose neighbours lie within ``delta`` nats: through a neighbour
    that diverged it would promise a loss that no run has.
    """
    grid = np.asarray(rates, float)
    mean = clip_losses(losses, initial).mean(1)
    best = int(mean.argmin())
    interior = 0 < best < len(grid) - 1
    place, value = float(grid[best]), float(mean[best])
    if interior and mean[best - 1 : best + 2].max() <= value + delta:
        a, b, c = np.polyfit(np.log10(grid[best - 1 : best + 2] / grid[best]), mean[best - 1 : best + 2], 2)
        if a > 0:
            return Optimum(best, place, value, True, float(place * 10 ** (-b / (2 * a))), float(c - b * b / (4 * a)))
    return Optimum(best, place, value, interior, place, value)


def largest_stable_rate(
    rates: ArrayLike, losses: ArrayLike, initial: ArrayLike, diverged: ArrayLike | None = None, delta: float = DELTA
) -> float | None:
    """The largest rate of the grid at which no seed diverged and the mean loss is within ``delta`` nats of the best.

    Args:
        diverged: [rates, seeds] of bool; by default the losses that are not finite or not below ``initial``.

    Returns:
        The rate, or none where not even the best one is stable.
    """
    values = np.asarray(losses, float)
    failed = np.asarray(~(np.isfinite(values) & np.less(values, initial)) if diverged is None else diverged, bool)
    mean = clip_losses(values, initial).mean(1)
    stable = ~failed.any(1) & (mean <= mean.min() + delta)
    return float(np.asarray(rates, float)[stable].max()) if stable.any() else None


def headroom(largest_stable: float | None, best_rate: float) -> float | None:
    """Decades between the best rate and the largest stable one: unchanged when a method rescales the rate."""
    return None if largest_stable is None else float(np.log10(largest_stable / best_rate))


def depth_limit(depths: ArrayLike, trained: ArrayLike) -> int | None:
    """The largest depth up to which every depth of the ladder trained in every seed; none if not even the first did.

    Args:
        depths: [depths], any order.
        trained: [depths] or [depths, seeds] of bool.
    """
    order = np.argsort(np.asarray(depths))
    every = np.all(np.asarray(trained, bool).reshape(len(order), -1), axis=1)[order]
    reached = int(np.cumprod(every).sum())
    return int(np.asarray(depths)[order[reached - 1]]) if reached else None


def _within(grid: np.ndarray, window: tuple[float, float]) -> np.ndarray:
    low, high = window
    return (grid >= low * (1 - 1e-9)) & (grid <= high * (1 + 1e-9))
