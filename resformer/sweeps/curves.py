"""What a curve of final loss over learning rates says: the best rate, how well it is known, how far it holds.

Arrays are ``losses`` [rates, seeds] of final held-out loss in nats per token, with nan or inf for a run that diverged,
``rates`` [rates] of peak learning rates, ascending, and ``initial`` (a number, or [rates, seeds]): the loss at
initialisation, at which Wortsman et al. 2023 (arXiv:2309.14322) count a run that did worse or diverged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from ..stability.endstate import DEGRADED
from .endings import sound
from .inference import NAN

REACH = 0.55
"""Decades on either side of the best rung over which a parabola is fitted: a half-decade grid's neighbours."""
CLIFF = 4.0
"""A parabola is not trusted where the curve bends this many times less one rung further down its gentle side: what
bends it is a cliff on the other side."""


def clip_losses(losses: ArrayLike, initial: ArrayLike) -> np.ndarray:
    """``min(loss, initial)``, and ``initial`` where the loss is not finite; never a dropped run."""
    values = np.asarray(losses, float)
    return np.where(np.isfinite(values), np.minimum(values, initial), initial)


@dataclass(frozen=True)
class Optimum:
    """The best learning rate of an arm.

    Attributes:
        index: of the best rung of the grid.
        rate: of the vertex of the parabola, or of the best rung where there is no parabola to trust.
        low, high: 95 % interval of the best rate inside the grid; nan where it is not known.
        loss: fitted at ``rate``, nats per token.
        regret: the most, in nats, that the loss at the true best rate may lie below the loss at ``rate``.
        off: decades by which the rate may miss the best one: its 95 % half width, half a rung where it is a rung, no
            bound at the edge of the grid, and 0 for an arm that trains at no rate, to which it makes no difference.
        interior: the best rung has a neighbour on both sides.
        fitted: by a parabola.
    """

    index: int
    rate: float
    low: float
    high: float
    loss: float
    regret: float
    off: float
    interior: bool
    fitted: bool


def optimum(rates: ArrayLike, losses: ArrayLike, initial: ArrayLike, delta: float = DEGRADED) -> Optimum:
    """The vertex of the parabola in log rate through every sound run within half a decade of the best rung.

    The best rung is that of the lowest mean of sound runs, among rungs at which at least half of the runs are sound.
    The regret left is the curvature times the square of what the vertex may be off: its 95 % half width, and the sixth
    of a rung by which a curve twice as steep on one side as on the other moves it. With one run for each coefficient,
    nothing is known of the noise, and it may be off by half a rung. Next to a cliff the best rung itself is taken: a
    convex curve through it and its neighbours falls no further than it rises to the gentle side, noise allowed for.
    """
    grid, values = np.asarray(rates, float), np.asarray(losses, float)
    good = sound(values, initial, delta)
    share = good.mean(1)
    mean = np.where(share >= 0.5, np.where(good, values, 0).sum(1) / np.maximum(good.sum(1), 1), np.inf)
    trains = bool(np.isfinite(mean).any())
    if not trains:
        mean = clip_losses(values, initial).mean(1)
    best = int(mean.argmin())
    interior = 0 < best < len(grid) - 1
    place, value = rounded(grid[best]), float(mean[best])
    if not interior:
        return Optimum(best, place, NAN, NAN, value, float("inf"), float("inf") if trains else 0.0, False, False)
    left, right = mean[best - 1] - value, mean[best + 1] - value
    bend = (left + right) / 2  # curvature times the square of a rung
    noise = _noise(values, good)
    bound = float(min(left, right) + 2 * noise if np.isfinite(noise) else max(left, right))
    if np.isfinite(bend):
        bound = max(bound, float(bend / 4))
    spacing = float(np.log10(grid[best + 1] / grid[best - 1])) / 2
    rung = Optimum(best, place, NAN, NAN, value, bound, spacing / 2 if trains else 0.0, True, False)
    if not np.isfinite(bend) or _next_to_a_cliff(mean, best):
        return rung
    x = np.log10(grid / grid[best])
    near = np.abs(x) < REACH
    near[best - 1 : best + 2] = True
    used = good & near[:, None]
    at, seen = np.broadcast_to(x[:, None], values.shape)[used], values[used]
    design = np.stack([np.ones_like(at), at, at * at], axis=1)
    (a, b, c), *_ = np.linalg.lstsq(design, seen, rcond=None)
    if c <= 0 or not x[best - 1] <= (vertex := -b / (2 * c)) <= x[best + 1]:
        return rung
    half, df = spacing / 2, len(seen) - 3
    if df:
        residual = seen - design @ np.array([a, b, c])
        covariance = np.linalg.inv(design.T @ design) * (residual @ residual) / df
        slope = np.array([0.0, -1 / (2 * c), b / (2 * c * c)])
        half = float(special.stdtrit(df, 0.975) * np.sqrt(slope @ covariance @ slope))
    off = half**2 + (spacing / 6) ** 2 if df else half**2
    rate, low, high = float(grid[best] * 10**vertex), NAN, NAN
    if df:
        low, high = (float(grid[best] * 10**end) for end in _vertices(b, c, covariance, df, x[0], x[-1]))
    return Optimum(best, rounded(rate), low, high, float(a - b * b / (4 * c)), float(c * off), half, True, True)


def _vertices(b: float, c: float, covariance: np.ndarray, df: int, first: float, last: float) -> tuple[float, float]:
    """95 % interval of the vertex -b / (2c), in decades from the best rung, inside the grid from ``first`` to ``last``.

    Fieller 1954: all v at which the slope b + 2cv is not told from 0. It covers as often as it says even where c is
    hardly known, and reaches to the ends of the grid where c is not told from 0.
    """
    t = float(special.stdtrit(df, 0.975)) ** 2
    square = 4 * (c * c - t * covariance[2, 2])
    linear = 4 * (b * c - t * covariance[1, 2])
    constant = b * b - t * covariance[1, 1]
    if square <= 0:
        return first, last
    root = np.sqrt(max(0.0, linear * linear - 4 * square * constant))
    return max(first, float(-linear - root) / (2 * square)), min(last, float(-linear + root) / (2 * square))


def _noise(values: np.ndarray, good: np.ndarray) -> float:
    """Standard error of the difference of two rungs' means, from the spread of sound runs within rungs; nan for one
    run a rung."""
    each = good.sum(1)
    if each.sum() <= (each > 0).sum():
        return NAN
    means = np.where(good, values, 0).sum(1) / np.maximum(each, 1)
    variance = (np.where(good, values - means[:, None], 0) ** 2).sum() / (each.sum() - (each > 0).sum())
    return float(np.sqrt(2 * variance / np.median(each[each > 0])))


def _next_to_a_cliff(mean: np.ndarray, best: int) -> bool:
    left, right = mean[best - 1] - mean[best], mean[best + 1] - mean[best]
    step = -1 if left < right else 1
    if max(left, right) <= CLIFF * min(left, right) or not 0 <= best + 2 * step < len(mean):
        return False
    further = mean[best + 2 * step] - 2 * mean[best + step] + mean[best]
    return bool(CLIFF * further < left + right)


def reporting_rates(best: Optimum, multiples: Sequence[float]) -> list[float]:
    """Peak learning rates at which the reporting seeds run: the best one times each of ``multiples``."""
    return [rounded(best.rate * multiple) for multiple in multiples]


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


def rounded(rate: float) -> float:
    """With the three digits that name a trial."""
    return float(f"{rate:.3g}")
