"""From the results of a sweep's runs to one row for each arm at each point of the grid. Pure: reads no file."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..stability.endstate import FAILED
from . import curves
from .inference import Estimate, holm, minimum_detectable_difference, t_estimate, tost
from .verdict import Evidence, Verdict, decide, has_fired, is_null


@dataclass(frozen=True)
class Result:
    """A finished run. ``val_loss`` (nats per token) is nan where it diverged, ``initial_loss`` is the one before the
    first update, ``end_state`` one of the five of STABILITY."""

    arm: str
    point: str
    learning_rate: float
    seed: int
    val_loss: float
    initial_loss: float
    end_state: str = "ok"

    @property
    def failed(self) -> bool:
        return self.end_state in FAILED or not np.isfinite(self.val_loss)

    @property
    def clipped(self) -> float:
        return float(curves.clip_losses(self.val_loss, self.initial_loss))


@dataclass(frozen=True)
class Rules:
    """What was declared before the first run: who is compared with whom, on which seeds, and what matters."""

    arms: Sequence[str]
    points: Sequence[str]
    baseline: str
    tuning_seeds: Sequence[int]
    reporting_seeds: Sequence[int]
    a_a_control: str | None = None
    """The A/A arm: the baseline under another name."""
    positive_control: str | None = None
    """The arm known to break."""
    positive_control_points: Sequence[str] | None = None
    """Where it is known to break; by default anywhere."""
    margin: float = 0.01
    """Smallest difference of interest, nats."""
    delta: float = curves.DELTA
    window: tuple[float, float] | None = None
    alpha: float = 0.05


@dataclass
class Row:
    """One arm at one point. Losses in nats per token; differences are arm minus baseline, paired by seed."""

    arm: str
    point: str
    rates: list[float]
    losses: np.ndarray
    """Clipped [rates, tuning seeds]."""
    optimum: curves.Optimum
    largest_stable: float | None
    headroom: float | None
    sensitivity: curves.Sensitivity
    sensitivity_difference: Estimate
    centred_sensitivity: float | None
    loss: Estimate
    """At the arm's own best rate, on the reporting seeds."""
    matched_optimum: Estimate
    """Each at its own best rate."""
    matched_rate: Estimate
    """The arm at the baseline's best rate, the baseline there too."""
    matched_own_rate: Estimate
    """Both at the arm's best rate."""
    mdd: float
    end_states: dict[str, int]
    evidence: Evidence | None = None
    verdict: Verdict = "unresolved"
    reason: str = "not finished"
    notes: list[str] = field(default_factory=list)


@dataclass
class Analysis:
    rows: list[Row]
    a_a_is_null: dict[str, bool | None]
    """By point."""
    positive_control_fired: bool | None
    depth_limits: dict[str, int | None] = field(default_factory=dict)
    sigma_seed: dict[str, float] = field(default_factory=dict)
    """By point: standard deviation over the reporting seeds of the baseline's loss."""

    def row(self, arm: str, point: str) -> Row | None:
        return next((row for row in self.rows if (row.arm, row.point) == (arm, point)), None)


Runs = dict[tuple[str, str], dict[float, dict[int, Result]]]


def analyse(results: Iterable[Result], rules: Rules) -> Analysis:
    """One row for each arm and point of which at least one learning rate is tuned on every tuning seed.

    The best rate is chosen on the tuning seeds and reported on the others, so that no loss is quoted on the seeds that
    chose it. Holm's family is every comparison of the sweep, controls included.
    """
    runs: Runs = defaultdict(lambda: defaultdict(dict))
    for result in results:
        runs[result.arm, result.point][result.learning_rate][result.seed] = result
    rows = [
        row
        for point in rules.points
        for arm in sorted(rules.arms, key=lambda arm: arm != rules.baseline)
        if (row := _row(arm, point, runs, rules)) is not None
    ]
    compared = [row for row in rows if row.evidence is not None]
    evidence = [row.evidence for row in compared if row.evidence is not None]
    adjusted = zip(holm([e.p_holm for e in evidence]), holm([e.tost_holm for e in evidence]), strict=True)
    for row, e, (p, q) in zip(compared, evidence, adjusted, strict=True):
        row.evidence = replace(e, p_holm=float(p), tost_holm=float(q))
    analysis = Analysis(rows, *_controls(compared, rules))
    for row in rows:
        if row.arm == rules.baseline:
            row.verdict, row.reason = "baseline", ""
            analysis.sigma_seed[row.point] = row.loss.sd
        elif row.evidence is not None:
            null = analysis.a_a_is_null.get(row.point)
            row.verdict, row.reason = decide(row.evidence, null, analysis.positive_control_fired, rules.alpha)
    order = {arm: index for index, arm in enumerate(rules.arms)}
    rows.sort(key=lambda row: (rules.points.index(row.point), order[row.arm]))
    return analysis


def tuned(runs: dict[float, dict[int, Result]], rules: Rules) -> tuple[list[float], np.ndarray, np.ndarray]:
    """The rates that every tuning seed finished, ascending, with losses and initial losses [rates, tuning seeds]."""
    rates = sorted(rate for rate, seeds in runs.items() if set(rules.tuning_seeds) <= set(seeds))
    cells = [[runs[rate][seed] for seed in rules.tuning_seeds] for rate in rates]
    losses = np.array([[cell.val_loss for cell in row] for row in cells])
    return rates, losses, np.array([[cell.initial_loss for cell in row] for row in cells])


def _row(arm: str, point: str, runs: Runs, rules: Rules) -> Row | None:
    mine, theirs = runs.get((arm, point)), runs.get((rules.baseline, point))
    if mine is None or theirs is None:
        return None
    (rates, losses, initial), (their_rates, their_losses, their_initial) = tuned(mine, rules), tuned(theirs, rules)
    if not rates or not their_rates:
        return None
    best = curves.optimum(rates, losses, initial, rules.delta)
    their_best = curves.optimum(their_rates, their_losses, their_initial, rules.delta)
    failed = np.array([[mine[rate][seed].failed for seed in rules.tuning_seeds] for rate in rates])
    stable = curves.largest_stable_rate(rates, losses, initial, failed, rules.delta)

    here = _reported(mine, best.rate, rules)
    baseline, matched = _reported(theirs, their_best.rate, rules), _reported(mine, their_best.rate, rules)
    baseline_here = _reported(theirs, best.rate, rules)
    difference = _differences(here, baseline)
    spread, at_one_rate = t_estimate(difference), t_estimate(_differences(matched, baseline))
    at_own_rate = t_estimate(_differences(here, baseline_here))
    states: dict[str, int] = {}
    for run in here.values():
        states[run.end_state] = states.get(run.end_state, 0) + 1
    row = Row(
        arm, point, rates, curves.clip_losses(losses, initial), best, stable,
        curves.headroom(stable, best.rate), *_sensitivities(mine, theirs, rules),
        curves.centred_lr_sensitivity(rates, losses, initial),
        t_estimate([run.clipped for run in here.values()]), spread, at_one_rate, at_own_rate,
        minimum_detectable_difference(spread.sd, spread.n), states,
    )  # fmt: skip
    if arm != rules.baseline:
        runs_there = [here, baseline] + ([matched, baseline_here] if best.rate != their_best.rate else [])
        row.evidence = Evidence(
            spread, _either_rate(spread, at_one_rate, at_own_rate), tost(difference, rules.margin),
            sum(run.failed for run in here.values()), len(here), sum(run.failed for run in baseline.values()),
            best.interior and their_best.interior, sum(len(rules.reporting_seeds) - len(runs) for runs in runs_there),
        )  # fmt: skip
    return row


def _either_rate(own: Estimate, at_baseline_rate: Estimate, at_own_rate: Estimate) -> float:
    """p that survives a best rate which the tuning seeds got wrong: the loser may take the winner's rate.

    Between equal arms of which one was tuned to a neighbouring rate there is a real difference, and the more seeds
    report it the surer it is found. So whoever seems worse, the arm or the baseline, is held against the other at
    the other's best rate as well, and where it does better there, the larger p counts.
    """
    sign = np.sign(own.mean)
    second = at_baseline_rate if sign > 0 else at_own_rate
    if sign * second.mean >= sign * own.mean:
        return own.p
    return max(own.p, second.p) if sign * second.mean > 0 else 1.0


def _reported(runs: dict[float, dict[int, Result]], rate: float, rules: Rules) -> dict[int, Result]:
    at = runs.get(rate, {})
    return {seed: at[seed] for seed in rules.reporting_seeds if seed in at}


def _differences(ours: dict[int, Result], theirs: dict[int, Result]) -> list[float]:
    return [run.clipped - theirs[seed].clipped for seed, run in ours.items() if seed in theirs]


def _sensitivities(mine: dict, theirs: dict, rules: Rules) -> tuple[curves.Sensitivity, Estimate]:
    """S on every seed that finished every tuned rate in both arms, and the paired difference of S."""
    grids = [set(tuned(runs, rules)[0]) for runs in (mine, theirs)]
    shared = sorted(grids[0] & grids[1]) or sorted(grids[0])
    both = [runs for runs in (mine, theirs) if set(shared) <= set(runs)]
    seeds = [
        seed
        for seed in (*rules.tuning_seeds, *rules.reporting_seeds)
        if all(seed in runs[rate] for runs in both for rate in shared)
    ]
    window = rules.window
    if window is not None and not any(window[0] <= rate <= window[1] for rate in shared):
        window = None

    def sensitivity(runs: dict) -> curves.Sensitivity:
        cells = [[runs[rate][seed] for seed in seeds] for rate in shared]
        losses = np.array([[cell.val_loss for cell in row] for row in cells])
        return curves.lr_sensitivity(shared, losses, [[c.initial_loss for c in row] for row in cells], window)

    ours = sensitivity(mine)
    if len(both) < 2:
        return ours, t_estimate([])
    return ours, t_estimate(ours.per_seed - sensitivity(theirs).per_seed)


def _controls(compared: list[Row], rules: Rules) -> tuple[dict[str, bool | None], bool | None]:
    """Whether the A/A arm is null at each point, and whether the arm known to break was flagged at any of its own."""
    null = {r.point: is_null(r.evidence) for r in compared if r.arm == rules.a_a_control and r.evidence}
    points = rules.positive_control_points or rules.points
    fired = [
        has_fired(row.evidence, rules.alpha)
        for row in compared
        if row.arm == rules.positive_control and row.point in points and row.evidence
    ]
    if any(fired):
        return null, True
    return null, None if not fired or None in fired else False
