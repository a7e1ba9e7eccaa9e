"""When a sweep may say better, equivalent, worse: a rule that is strict about when to say nothing."""

import math
from dataclasses import dataclass
from typing import Literal

from .inference import Estimate

Verdict = Literal["baseline", "better", "equivalent", "worse", "unresolved", "unstable"]
VERDICTS: tuple[Verdict, ...] = ("baseline", "better", "equivalent", "worse", "unresolved", "unstable")


@dataclass(frozen=True)
class Evidence:
    """What stands against the baseline for one arm at one point of the grid.

    Attributes:
        difference: of held-out loss, arm minus baseline, each at its own best rate, paired by seed.
        p_holm: two-sided, at each one's best rate or with the loser at the winner's, the larger, adjusted
            over all comparisons of the sweep.
        tost_holm: p of the equivalence test, adjusted likewise.
        failures: reporting runs at the best rate that ended stuck or diverged.
        runs: reporting runs at the best rate.
        baseline_failures: the baseline's.
        interior: both best rates have neighbours on both sides in the grid.
        missing: reporting runs not yet there.
    """

    difference: Estimate
    p_holm: float
    tost_holm: float
    failures: int
    runs: int
    baseline_failures: int
    interior: bool
    missing: int = 0


def unguarded(evidence: Evidence, alpha: float = 0.05) -> tuple[Verdict, str]:
    """The verdict of the tests alone, before the controls and the grid are asked."""
    if evidence.missing:
        return "unresolved", f"{evidence.missing} reporting runs are missing"
    if evidence.failures:
        return "unstable", f"{evidence.failures} of {evidence.runs} runs failed at the best learning rate"
    if evidence.baseline_failures:
        return "unresolved", "the baseline itself failed"
    if evidence.tost_holm < alpha:
        return "equivalent", f"difference inside the margin (TOST, Holm p {evidence.tost_holm:.2g})"
    excludes_zero = evidence.difference.low > 0 or evidence.difference.high < 0
    if excludes_zero and evidence.p_holm < alpha:
        return "worse" if evidence.difference.mean > 0 else "better", f"Holm p {evidence.p_holm:.2g}"
    if math.isnan(evidence.p_holm):
        return "unresolved", "fewer than two pairs of seeds"
    return "unresolved", f"Holm p {evidence.p_holm:.2g}"


def decide(evidence: Evidence, a_a_is_null: bool | None, positive_control_fired: bool | None, alpha: float = 0.05):
    """``(verdict, reason)``.

    Better, worse and equivalent are said only of an instrument that was seen to work: the A/A arm came out null, the
    arm known to break was flagged, and both optima lie inside the grid. An unstable arm is called so in any case.

    Args:
        a_a_is_null: what the A/A arm said; none where there is no such arm, or it is not finished.
        positive_control_fired: whether the arm known to break was flagged; none likewise.
    """
    verdict, reason = unguarded(evidence, alpha)
    if verdict in ("unstable", "unresolved"):
        return verdict, reason
    for said, what in ((a_a_is_null, "A/A arm"), (positive_control_fired, "positive control")):
        if said is None:
            return "unresolved", f"instrument not validated: no {what} yet"
    if not a_a_is_null:
        return "unresolved", "instrument not validated: the A/A arm differs from itself"
    if not positive_control_fired:
        return "unresolved", "instrument not validated: the positive control did not fire"
    if not evidence.interior:
        return "unresolved", "a best learning rate lies at the edge of the grid"
    return verdict, reason


def is_null(evidence: Evidence) -> bool | None:
    """Whether an A/A arm came out null: no failure and an interval that holds 0; none while it is unfinished."""
    if evidence.missing or math.isnan(evidence.difference.low):
        return None
    return not evidence.failures and evidence.difference.low <= 0 <= evidence.difference.high


def has_fired(evidence: Evidence, alpha: float = 0.05) -> bool | None:
    """Whether an arm known to break was flagged, as unstable or as worse; none while it is unfinished."""
    if evidence.missing:
        return None
    return unguarded(evidence, alpha)[0] in ("unstable", "worse")
