"""The words that a sweep says of an arm, and the family of tests that they come from."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from .detectable import detectable_difference
from .inference import NAN, holm

LossVerdict = Literal["baseline", "better", "equivalent", "worse", "unresolved"]
StabilityVerdict = Literal["baseline", "more stable", "as stable", "less stable", "unresolved"]
Verdict = LossVerdict | StabilityVerdict
Quantity = Literal["loss", "stability", "equal_time"]
WORDS: dict[Quantity, tuple[Verdict, Verdict, Verdict]] = {
    "loss": ("better", "equivalent", "worse"),
    "stability": ("more stable", "as stable", "less stable"),
    "equal_time": ("better", "equivalent", "worse"),
}


@dataclass
class Comparison:
    """An arm against the baseline at one point, in one quantity: what the last complete look says.

    Attributes:
        quantity: loss of sound runs at the best rates (nats), stability (chance that a seed ends badly at any of the
            rates), or the loss against a baseline trained for equal time.
        difference: arm minus baseline.
        low, high: 95 % interval of the true difference.
        sd: of paired differences; nan for stability.
        seeds: pairs of sound runs, or seeds of each arm.
        p: two-sided, of this comparison alone.
        p_adjusted: for the family and for the looks; below alpha something is said.
        equivalence_p, equivalence_adjusted: that the difference is not inside the margin, likewise.
        detectable: true difference (nats) that this verdict finds with power 0.8, after multiplicity; nan for stability
            and where it is not known.
        claims: what each complete look said before the controls were asked.
        missing: runs of this look that are not there yet.
    """

    quantity: Quantity
    difference: float = NAN
    low: float = NAN
    high: float = NAN
    sd: float = NAN
    seeds: int = 0
    p: float = NAN
    p_adjusted: float = NAN
    equivalence_p: float = NAN
    equivalence_adjusted: float = NAN
    detectable: float = NAN
    allowance: float = 0.0
    claims: list[Verdict] = field(default_factory=list)
    missing: int = 0
    verdict: Verdict = "unresolved"
    reason: str = "not finished"

    @property
    def claim(self) -> Verdict:
        """What the tests say over all looks: what was said stands, unless a later look says the opposite."""
        said = {claim for claim in self.claims if claim != "unresolved"}
        return said.pop() if len(said) == 1 else "unresolved"


def take_look(family: Sequence[Comparison], complete: Sequence[bool], level: float, alpha: float) -> None:
    """Add to every comparison of the family that is complete what this look says of it.

    Holm 1979 over the whole declared family at the look's own level; what an earlier look has settled is not tested
    again. Equivalence is a family of its own: of two arms that truly differ nobody can falsely say that they differ.
    """
    settled = [c.claim != "unresolved" for c in family]
    differ = _adjusted([c.p if here else NAN for c, here in zip(family, complete, strict=True)], settled)
    same = _adjusted([c.equivalence_p if here else NAN for c, here in zip(family, complete, strict=True)], settled)
    left = len(family) - sum(done or p < level for done, p in zip(settled, differ, strict=True))
    for comparison, p, q, done in zip(family, differ, same, settled, strict=True):
        if done or (np.isnan(p) and np.isnan(q)):
            continue
        scale = alpha / level
        comparison.p_adjusted, comparison.equivalence_adjusted = min(1.0, p * scale), min(1.0, q * scale)
        if comparison.quantity != "stability":
            own = level / max(1, left + (p < level))
            comparison.detectable = detectable_difference(comparison.sd, comparison.seeds, own, comparison.allowance)
        better, equal, worse = WORDS[comparison.quantity]
        if q < level:
            comparison.claims.append(equal)
        elif p < level:
            comparison.claims.append(better if comparison.difference < 0 else worse)
        else:
            comparison.claims.append("unresolved")


def _adjusted(values: Sequence[float], settled: Sequence[bool]) -> np.ndarray:
    return holm([0.0 if done else value for value, done in zip(values, settled, strict=True)])


def too_few(pairs: int) -> str:
    if not pairs:
        return "no pairs of sound runs"
    return f"only {pairs} pair{'s' if pairs > 1 else ''} of sound runs, which {'are' if pairs > 1 else 'is'} too few"


def conclude(comparison: Comparison, a_a_is_null: bool | None, positive_control_fired: bool | None) -> None:
    """Set verdict and reason: what the tests claim, if the instrument was seen to work.

    Args:
        a_a_is_null: what the A/A control said; none where there is none, or it is not finished.
        positive_control_fired: whether the arm known to break was flagged; none likewise.
    """
    c = comparison
    c.verdict = "unresolved"
    if not c.claims:
        c.reason = f"{c.missing} runs are missing" if c.missing else too_few(c.seeds)
        return
    if c.claim == "unresolved":
        if len({claim for claim in c.claims if claim != "unresolved"}) > 1:
            c.reason = "two looks contradict each other"
        else:
            finds = (
                f"; {c.seeds} pairs find differences from {c.detectable:.2g} nat on"
                if np.isfinite(c.detectable)
                else ""
            )
            c.reason = f"adjusted p {c.p_adjusted:.2g}{finds}"
        return
    for said, what in ((a_a_is_null, "A/A control"), (positive_control_fired, "positive control")):
        if said is None:
            c.reason = f"instrument not validated: no {what} yet"
            return
    if not a_a_is_null:
        c.reason = "instrument not validated: the A/A control differs from the baseline"
    elif not positive_control_fired:
        c.reason = "instrument not validated: the positive control did not fire"
    else:
        c.verdict = c.claim
        equal = c.claim in ("equivalent", "as stable")
        p = c.equivalence_adjusted if equal else c.p_adjusted
        c.reason = f"{'inside the margin, ' if equal else ''}adjusted p {p:.2g}"
