"""Intervals and tests for the three to ten seeds that a sweep can afford.

With so few, percentile bootstrap intervals cover 75 to 84 % where they say 95; t intervals on paired differences keep
their word, so they are what is used here.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike
from scipy import optimize, stats

CONFIDENCE, POWER = 0.95, 0.8


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
    n, mean = len(data), float(data.mean()) if len(data) else float("nan")
    if n < 2:
        nan = float("nan")
        return Estimate(mean, nan, nan, nan, nan, n)
    sd = float(data.std(ddof=1))
    if sd == 0:  # bit-equal runs
        return Estimate(mean, mean, mean, 0.0, 1.0 if mean == 0 else 0.0, n)
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1) * sd / np.sqrt(n))
    p = float(2 * stats.t.sf(abs(mean) / (sd / np.sqrt(n)), n - 1))
    return Estimate(mean, mean - half, mean + half, sd, p, n)


def tost(differences: ArrayLike, margin: float) -> float:
    """p that |difference| >= ``margin``: two one-sided paired t tests (Schuirmann 1987). Small says equivalent."""
    data = np.asarray(differences, float)
    if len(data) < 2:
        return float("nan")
    mean, error = float(data.mean()), float(data.std(ddof=1) / np.sqrt(len(data)))
    if error == 0:
        return 0.0 if abs(mean) < margin else 1.0
    return float(stats.t.sf((margin - abs(mean)) / error, len(data) - 1))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjusted p of Holm 1979, in the order given: the chance of one false finding in the family stays below alpha.

    nan (not tested) stays nan and does not count as a member of the family.
    """
    p = np.asarray(p_values, float)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested])]
    adjusted = np.full(len(p), np.nan)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)))
    return adjusted


def minimum_detectable_difference(sd: float, n: int, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """The true difference that a paired t test on ``n`` pairs whose differences have ``sd`` finds with ``power``."""
    return float("nan") if n < 2 or not np.isfinite(sd) else _detectable_effect(n, confidence, power) * sd


@lru_cache
def _detectable_effect(n: int, confidence: float, power: float) -> float:
    """In standard deviations. The noncentral t is that of the true sign; the chance of the wrong one is nil here."""
    critical = stats.t.ppf((1 + confidence) / 2, n - 1)

    def shortfall(effect: float) -> float:
        return float(stats.nct.sf(critical, n - 1, effect * np.sqrt(n)) - power)

    largest = 1.0
    while shortfall(largest) < 0:
        largest *= 2
    return float(optimize.brentq(shortfall, 0.0, largest))


def wilson(failures: int, n: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Interval of a failure rate (Wilson 1927): 0 of 3 still allows 56 %."""
    interval = stats.binomtest(failures, n).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)


def poisson_rate(events: int, thousands: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Exact interval (Garwood 1936) of a rate of events, here per thousand steps, from ``events`` in ``thousands``."""
    tail = (1 - confidence) / 2
    low = stats.chi2.ppf(tail, 2 * events) / 2 if events else 0.0
    return float(low / thousands), float(stats.chi2.isf(tail, 2 * events + 2) / 2 / thousands)
