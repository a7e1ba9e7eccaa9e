"""Intervals and tests for the four to thirty seeds that a sweep can afford.

With so few, percentile bootstrap intervals cover 75 to 84 % where they say 95; t intervals on paired differences and
exact ones on counts keep their word, so they are what is used here.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

CONFIDENCE = 0.95
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` values with its t interval, standard deviation and two-sided p against 0. The last four are
    nan for a single value, about whose spread nothing is known."""

    mean: float
    low: float
    high: float
    sd: float
    p: float
    n: int


def t_estimate(values: ArrayLike, confidence: float = CONFIDENCE) -> Estimate:
    """Mean, interval and one-sample t test of ``values`` [n]; given paired differences, the paired t test."""
    data = np.asarray(values, float)
    n, mean = len(data), float(data.mean()) if len(data) else NAN
    if n < 2:
        return Estimate(mean, NAN, NAN, NAN, NAN, n)
    sd = float(data.std(ddof=1))
    if sd == 0:  # bit-equal runs
        return Estimate(mean, mean, mean, 0.0, 1.0 if mean == 0 else 0.0, n)
    error = sd / np.sqrt(n)
    half = float(special.stdtrit(n - 1, (1 + confidence) / 2) * error)
    return Estimate(mean, mean - half, mean + half, sd, 2 * t_tail(abs(mean), error, n - 1), n)


def t_estimate_of_sound(values: ArrayLike, delta: float) -> Estimate:
    """Mean and interval of runs that were kept since they end no more than ``delta`` above their lower quartile.

    Where runs differ by nearly as much, the cut makes them look closer together than runs are. The interval is wider by
    what a normal distribution's spread loses by that cut.
    """
    found = t_estimate(values)
    if not found.sd > 0:
        return found
    sd = found.sd
    for _ in range(20):
        cut = delta / sd + special.ndtri(0.25)
        hazard = np.exp(-cut * cut / 2) / np.sqrt(2 * np.pi) / special.ndtr(cut)
        sd = found.sd / np.sqrt(1 - cut * hazard - hazard * hazard)
    half = (found.high - found.mean) * float(sd) / found.sd
    return replace(found, low=found.mean - half, high=found.mean + half)


def t_tail(excess: float, error: float, df: int) -> float:
    """P(T > excess / error): one-sided p of a mean that lies ``excess`` on the claimed side of its null."""
    if error == 0:
        return 0.0 if excess > 0 else 1.0
    return float(special.stdtr(df, -excess / error))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p of Holm 1979, in the order given: the chance of one false finding in the family stays below alpha.

    nan (not tested yet) stays nan and counts as a member of the family, which was declared before the first run: so a
    verdict given before the others are finished is one that will stand.
    """
    p = np.asarray(p_values, float)
    order = np.argsort(p)  # nan last
    factors = np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1, np.maximum.accumulate(np.nan_to_num(p[order], nan=1.0) * factors))
    return np.where(np.isnan(p), np.nan, adjusted)


@lru_cache(4096)
def clopper_pearson(events: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval of a chance (Clopper and Pearson 1934): 0 of 4 still allows 60 %. (0, 1) where ``n`` is 0."""
    if not n:
        return 0.0, 1.0
    interval = stats.binomtest(events, n).proportion_ci(confidence, method="exact")
    return float(interval.low), float(interval.high)


def event_rate(events: ArrayLike, thousands: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a mean rate of events per thousand steps, from ``events`` [runs] of runs of ``thousands`` each.

    Runs differ, and spikes come in bursts: where they vary more than a Poisson count would, the exact interval
    (Garwood 1936) of the sum covers far too seldom. So the result spans that interval and the t interval over runs of
    the counts and of their square roots at half the error, which know how runs differ. (0, inf) for no run.
    """
    counts = np.asarray(events, float)
    if not len(counts):
        return 0.0, float("inf")
    total, tail, exposure = float(counts.sum()), (1 - confidence) / 2, thousands * len(counts)
    low = float(special.gammaincinv(total, tail)) / exposure if total else 0.0
    high = float(special.gammainccinv(total + 1, tail)) / exposure
    if len(counts) > 1 and total:
        spread = t_estimate(counts / thousands, 1 - tail)
        roots = t_estimate(np.sqrt((counts + 0.375) / thousands), 1 - tail)  # Anscombe 1948
        extra = roots.sd**2  # E x = (E root)^2 + Var root
        low = min(low, max(0.0, spread.low))
        high = max(high, spread.high, roots.high**2 + extra)
    return low, high
