"""Does an arm end badly more or less often than the baseline? Exact, and by whole seeds."""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from .inference import NAN

TOLERANCE = 0.1
"""Decades within which two best rates count as equally well known."""


def more_often_p(ours: ArrayLike, theirs: ArrayLike) -> float:
    """One-sided exact p that the first arm has more bad ends than the second by chance alone.

    A seed's total counts its bad ends over all rates, so that the test is stratified by rate: every seed runs at each.
    Whole seeds are exchanged between the arms (Fisher 1935, Pitman 1937), so the runs of one seed may fail together;
    arms paired by seed make it conservative. Counts being small, the distribution is convolved, not enumerated. Where
    no greater share of the first arm's seeds had any bad end, p is 1: which of them had more is then no finding.

    Args:
        ours, theirs: [seeds] of int. nan where one of them is empty.
    """
    a, b = np.asarray(ours, int), np.asarray(theirs, int)
    if not len(a) or not len(b):
        return NAN
    if np.mean(a > 0) <= np.mean(b > 0):
        return 1.0
    pooled = tuple(sorted(Counter([*a.tolist(), *b.tolist()]).items()))
    return _tail(pooled, len(a), int(a.sum()))


@lru_cache(65536)
def _tail(pooled: tuple[tuple[int, int], ...], size: int, observed: int) -> float:
    """P(S >= observed) for the sum S of ``size`` of the ``pooled`` (value, how many) at random."""
    count = sum(number for _, number in pooled)
    total = sum(value * number for value, number in pooled)
    ways = np.zeros((size + 1, total + 1))
    ways[0, 0] = 1.0
    for value, number in pooled:
        before = ways.copy()
        for taken in range(1, min(number, size) + 1):
            shift = value * taken
            ways[taken:, shift:] += special.comb(number, taken) * before[: size + 1 - taken, : total + 1 - shift]
    return float(min(1.0, ways[size, observed:].sum() / special.comb(count, size)))


def stability_p(ours: ArrayLike, theirs: ArrayLike, multiples: Sequence[float], off: float) -> float:
    """Two-sided p that an arm and the baseline end badly equally often, at common rates or each at multiples of its own
    best rate.

    Best rates are known within ``off`` decades, and where runs begin to fail within less, equal arms differ truly. So
    beyond a tenth of a decade whoever seems less stable is compared at its lower multiples with the other at so many
    multiples higher that the error is made up for; where there are not as many, p is 1.

    Args:
        ours, theirs: [multiples, seeds] of bool, bad ends.
        multiples: ascending; or the common rates.
        off: of the difference of the two best rates, in decades; 0 at common rates, where nothing was tuned.
    """
    a, b = np.asarray(ours, int), np.asarray(theirs, int)
    logs = np.log10(np.asarray(multiples, float))
    shift = 0 if off <= TOLERANCE else next((k for k in range(1, len(logs)) if logs[k] - logs[0] >= off - 1e-9), None)
    if shift is None:
        return 1.0
    kept = len(logs) - shift
    less, more = (more_often_p(x[:kept].sum(0), y[shift:].sum(0)) for x, y in ((a, b), (b, a)))
    return min(1.0, 2 * min(less, more))


def difference_bounds(bad: Sequence[int], n: Sequence[int], level: float = 0.05) -> tuple[float, float]:
    """Bounds of a difference of two chances that hold together with at least 1 - ``level``.

    The difference is first minus second; each chance has its one-sided bounds of Clopper and Pearson 1934 at half of
    ``level / 2``. Wide, but exact in any dependence of the arms.
    """
    (low, high), (their_low, their_high) = (_chance(k, m, level / 4) for k, m in zip(bad, n, strict=True))
    return low - their_high, high - their_low


def equivalence_p(bad: Sequence[int], n: Sequence[int], margin: float) -> float:
    """The smallest level at which the bounds of the difference lie inside plus or minus ``margin``, each one-sided."""
    return _equivalence(tuple(bad), tuple(n), margin)


@lru_cache(65536)
def _equivalence(bad: tuple[int, ...], n: tuple[int, ...], margin: float) -> float:
    def outside(level: float) -> bool:
        low, high = difference_bounds(bad, n, 2 * level)
        return low <= -margin or high >= margin

    if not min(n) or outside(1.0):
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if outside(middle) else (low, middle)
    return high


def _chance(bad: int, n: int, tail: float) -> tuple[float, float]:
    low = float(special.betaincinv(bad, n - bad + 1, tail)) if bad else 0.0
    high = float(special.betainccinv(bad + 1, n - bad, tail)) if bad < n else 1.0
    return low, high
