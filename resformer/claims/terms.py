"""The numbers that a criterion is about: each a small term that reads one number per seed out of a study's table.

A table has the columns ``arm, x, seed, layer, metric, value``: x is what the study varies (blocks, a rate, steps of
warm-up), layer is -1 where a value is of the whole model.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import chi2

from ..sweeps.inference import NAN, Estimate, clopper_pearson, t_estimate

COLUMNS = ["arm", "x", "seed", "layer", "metric", "value"]
SMALLEST = 1e-45
"""What a logarithm takes for zero: the least that float32 can tell from it."""


@dataclass(frozen=True)
class Term:
    """One number for each seed, and what they say together."""

    def values(self, table: pd.DataFrame) -> pd.Series:
        """By seed. Raises ValueError, one line, where the table does not have it."""
        raise NotImplementedError

    def estimate(self, table: pd.DataFrame, confidence: float) -> Estimate:
        """The mean over seeds with its t interval."""
        return t_estimate(self.values(table).to_numpy(float), confidence)


@dataclass(frozen=True)
class At(Term):
    """A metric of an arm at one x (and one layer): the value that is there."""

    metric: str
    arm: str
    x: float
    layer: int = -1

    def values(self, table):
        here = _of(table, self.metric, self.arm)
        here = here[(here.x == self.x) & (here.layer == self.layer)]
        if here.empty or here.seed.duplicated().any():
            raise ValueError(f"{len(here)} values of {self.metric} of {self.arm} at {self.x:g}, layer {self.layer}")
        return here.set_index("seed").value.sort_index()


@dataclass(frozen=True)
class Layers(Term):
    """Mean of a metric of an arm at one x over the layers from one share of the depth to another."""

    metric: str
    arm: str
    x: float
    first: float = 0.0
    last: float = 1.0

    def values(self, table):
        here = _of(table, self.metric, self.arm)
        here = here[(here.x == self.x) & (here.layer >= 0)]
        place = (here.layer + 0.5) / (here.layer.max() + 1)
        return here[(place >= self.first) & (place <= self.last)].groupby("seed").value.mean()


@dataclass(frozen=True)
class Slope(Term):
    """Of the logarithm of a metric over the logarithm of x: the exponent of a power law, by least squares."""

    metric: str
    arm: str

    def values(self, table):
        here = _of(table, self.metric, self.arm)
        logs = here.assign(x=np.log(here.x), value=np.log(here.value.clip(lower=SMALLEST)))
        fits = {seed: np.polyfit(of.x, of.value, 1)[0] for seed, of in logs.groupby("seed")}
        return pd.Series(fits).sort_index()


@dataclass(frozen=True)
class Over(Term):
    """One term divided by another, seed by seed."""

    above: Term
    below: Term

    def values(self, table):
        return self.above.values(table) / self.below.values(table)


@dataclass(frozen=True)
class Decades(Term):
    """Decimal logarithm of a term: what differs by factors has no mean before it."""

    of: Term

    def values(self, table):
        return np.log10(self.of.values(table).clip(lower=SMALLEST))


@dataclass(frozen=True)
class Minus(Term):
    """One term less another, paired by seed."""

    left: Term
    right: Term

    def values(self, table):
        return self.left.values(table) - self.right.values(table)


@dataclass(frozen=True)
class Sensitivity(Term):
    """Learning-rate sensitivity: the mean over all x, learning rates, of a loss that is clipped at that of the start,
    less the least of them (Wortsman et al. 2023, arXiv:2309.14322)."""

    arm: str
    metric: str = "loss"

    def values(self, table):
        by_seed = _of(table, self.metric, self.arm).groupby("seed").value
        return by_seed.mean() - by_seed.min()


@dataclass(frozen=True)
class AtBest(Term):
    """A metric of an arm where ``by`` is least: at the x that the mean over all other seeds chooses, so that no seed
    chooses for itself."""

    metric: str
    arm: str
    by: str = "loss"

    def values(self, table):
        chosen = _of(table, self.by, self.arm).pivot_table(index="seed", columns="x", values="value")
        best = {seed: chosen.drop(index=seed).mean().idxmin() for seed in chosen.index}
        return pd.Series({seed: At(self.metric, self.arm, x).values(table)[seed] for seed, x in best.items()})


@dataclass(frozen=True)
class Spread(Term):
    """Standard deviation over seeds of a term, with the interval of the chi-squared distribution."""

    of: Term

    def values(self, table):
        return self.of.values(table)

    def estimate(self, table, confidence):
        data = self.values(table).to_numpy(float)
        sd, df, tail = float(np.std(data, ddof=1)), len(data) - 1, (1 - confidence) / 2
        low, high = (sd * float(np.sqrt(df / chi2.ppf(q, df))) for q in (1 - tail, tail))
        return Estimate(sd, low, high, sd, NAN, len(data))


@dataclass(frozen=True)
class Chance(Term):
    """That ``event`` (a metric of 0 and 1) happens to an arm at one x, with its exact interval."""

    event: str
    arm: str
    x: float

    def values(self, table):
        return At(self.event, self.arm, self.x).values(table)

    def estimate(self, table, confidence):
        happened = self.values(table).to_numpy(float)
        count, n = int(happened.sum()), len(happened)
        low, high = clopper_pearson(count, n, confidence)
        return Estimate(count / n, low, high, NAN, NAN, n)


def _of(table: pd.DataFrame, metric: str, arm: str) -> pd.DataFrame:
    found = table[(table.metric == metric) & (table.arm == arm)]
    if found.empty:
        raise ValueError(f"the study has no {metric} of {arm}")
    return found
