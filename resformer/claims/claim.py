"""A claim: what is said and by whom, what we do about it, and by which criterion it stands or falls."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

from ..sweeps.inference import Estimate
from .studies import Study
from .terms import Term

Verdict = Literal["reproduced", "not reproduced", "unresolved"]
ERROR = 0.05
"""Chance that a claim gets a false verdict: shared by the numbers of its criterion."""


@dataclass(frozen=True)
class Criterion:
    """That the true value of ``term`` lies from ``low`` to ``high``; a side that is not bounded is infinite."""

    says: str
    term: Term
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def words(self) -> str:
        if self.low == float("-inf"):
            return f"{self.says} at most {self.high:g}"
        if self.high == float("inf"):
            return f"{self.says} at least {self.low:g}"
        return f"{self.says} from {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Plot:
    """What is drawn of the table: a metric over x, or over the layers at ``layers_at``; of a ``share``, which is 0 or 1
    in each run, the mean."""

    metric: str
    title: str
    y: str
    x: str = "blocks"
    log_x: bool = True
    log_y: bool = True
    layers_at: float | None = None
    share: bool = False


@dataclass(frozen=True)
class Claim:
    """One entry of the catalogue.

    Attributes:
        name: by which a person asks for it.
        says: the claim, a sentence.
        source: authors, year, arXiv id.
        paper: their set-up and number.
        number: their number alone.
        ours: our set-up, in words.
        study: what is built or trained, and what is measured there.
        criteria: all of them must hold; written down before the first run.
        plots: of its figure.
        sees, shows_not: two sentences of plain words for under the figure.
        settles: what would settle it where this cannot, or what was left out.
    """

    name: str
    says: str
    source: str
    paper: str
    number: str
    ours: str
    study: Study
    criteria: tuple[Criterion, ...]
    plots: tuple[Plot, ...]
    sees: str
    shows_not: str
    settles: str

    @property
    def definition(self) -> str:
        """Twelve digits of all that the verdict rests on: set-up, measurement, criteria."""
        return hashlib.sha256(repr((self.study, self.criteria)).encode()).hexdigest()[:12]

    def judged(self, table: pd.DataFrame) -> Judgement:
        """What the table of the study says. Raises ValueError, one line, where a number is missing in it."""
        confidence = 1 - ERROR / len(self.criteria)
        found = [criterion.term.estimate(table, confidence) for criterion in self.criteria]
        return Judgement(decide(self.criteria, found), found)


@dataclass(frozen=True)
class Judgement:
    """``estimates`` has one for each criterion, with intervals that hold together at 95 %."""

    verdict: Verdict
    estimates: list[Estimate] = field(default_factory=list)


def decide(criteria: Sequence[Criterion], estimates: Sequence[Estimate]) -> Verdict:
    """``reproduced`` where every interval lies within its bounds, ``not reproduced`` where one lies wholly outside;
    an interval that reaches over a bound, or that there is none (one seed, a value that is no number), decides nothing.
    """
    pairs = list(zip(criteria, estimates, strict=True))
    if any(found.high < asked.low or found.low > asked.high for asked, found in pairs):
        return "not reproduced"
    if all(asked.low <= found.low and found.high <= asked.high for asked, found in pairs):
        return "reproduced"
    return "unresolved"
