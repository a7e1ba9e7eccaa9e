"""From the results of a sweep's runs to one row for each arm at each point of the grid. Pure: reads no file."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import special

from .curves import Optimum, clip_losses, optimum, reporting_rates
from .detectable import design_warnings, family_size
from .endings import BadEnds, bad_ends, bad_seeds, ended_badly, with_degraded
from .inference import NAN, Estimate, t_estimate_of_sound
from .looks import alpha_at
from .loss_test import loss_test
from .results import Result, Rules
from .sensitivity import Sensitivity, common_window, lr_sensitivity
from .stability_test import difference_bounds, equivalence_p, stability_p
from .verdict import Comparison, Quantity, conclude, take_look

Seeds = Mapping[int, Result]
Runs = Mapping[tuple[str, str], Mapping[float, Seeds]]


@dataclass
class Row:
    """One arm at one point. Losses in nats per token; ``arm - baseline`` where something is a difference.

    Attributes:
        role: baseline, arm, a_a_control, positive_control, sensitivity_control or equal_time (the baseline trained for
            as long as an arm takes).
        rates: the tuned ones, ascending.
        losses: clipped [rates, tuning seeds].
        loss: of the sound reporting runs at the best rate.
        bad_ends: of the reporting runs, at each multiple of the best rate and at each common rate.
        any_bad: chance that a seed ends badly at any of the rates at which stability is asked.
        trains_to: highest of those (a multiple, or a common rate) up to which the median reporting seed trains, with
            the 95 % interval of that median; 0 where it does not even at the first. The last says "at least".
        sensitivity: on the window common to all arms and points, on every seed that ran each of its rates.
        missing: reporting runs that are not there yet.
    """

    arm: str
    point: str
    role: str
    rates: list[float]
    losses: np.ndarray
    optimum: Optimum
    loss: Estimate
    bad_ends: list[BadEnds]
    any_bad: BadEnds
    trains_to: tuple[float, float, float]
    sensitivity: Sensitivity | None
    missing: int
    loss_comparison: Comparison | None = None
    stability_comparison: Comparison | None = None
    equal_time: Comparison | None = None

    @property
    def comparisons(self) -> list[Comparison]:
        found = (self.stability_comparison, self.loss_comparison, self.equal_time)
        return [comparison for comparison in found if comparison is not None]

    @property
    def settled(self) -> bool:
        """Nothing is left for more seeds to say. Controls run on with the baseline, whatever they say."""
        return self.role == "arm" and all(c.verdict != "unresolved" for c in self.comparisons)

    @property
    def end_states(self) -> dict[str, int]:
        """Of the reporting runs at the best rate."""
        return self.bad_ends[0].end_states


@dataclass
class Analysis:
    """``a_a_is_null``: by point, whether the A/A control came out null. ``family``: number of corrected comparisons.
    ``levels``: alpha spent at each look. ``warnings``: what the design cannot answer. ``sigma_seed``: by point,
    standard deviation over seeds of the baseline's sound losses."""

    rows: list[Row]
    a_a_is_null: dict[str, bool | None]
    positive_control_fired: bool | None
    family: int
    levels: list[float]
    warnings: list[str]
    sigma_seed: dict[str, float] = field(default_factory=dict)

    def row(self, arm: str, point: str) -> Row | None:
        return next((row for row in self.rows if (row.arm, row.point) == (arm, point)), None)


def analyse(results: Iterable[Result], rules: Rules) -> Analysis:
    """One row for each arm and point of which at least one learning rate is tuned on every tuning seed.

    The best rate is chosen on the tuning seeds and everything is reported on the others, so that nothing is quoted on
    the seeds that chose. The family is every comparison that was declared, finished or not, controls excluded.
    """
    runs = _table(with_degraded(results, rules.delta))
    companions = {(name, point): arm for (arm, point), name in rules.equal_time.items()}
    optima: dict[tuple[str, str], Optimum] = {}
    for point in rules.points:
        for arm in rules.arms:
            if (arm, point) not in companions and (best := tuned(runs.get((arm, point), {}), rules)) is not None:
                optima[arm, point] = best
        for name, where in companions:
            if where == point and (rules.baseline, point) in optima:
                optima[name, point] = optima[rules.baseline, point]
    cells = [(arm, point) for point in rules.points for arm in rules.arms if (arm, point) in optima]
    window = common_window(
        (_tuned_rates(runs.get(key, {}), rules) for key in cells if key not in companions), rules.window
    )
    rows = [_row(arm, point, runs.get((arm, point), {}), optima[arm, point], window, rules) for arm, point in cells]
    analysis = Analysis(
        rows, {}, None, family_size(rules), alpha_at(rules.all_looks, rules.declared_looks, rules.alpha),
        design_warnings(rules),
    )  # fmt: skip
    comparing = _Comparing(runs, optima, rules)
    _decide(analysis, comparing, rules)
    for row in rows:
        if row.role == "baseline":
            analysis.sigma_seed[row.point] = row.loss.sd
    return analysis


def tuned(runs: Mapping[float, Seeds], rules: Rules) -> Optimum | None:
    """The best rate of an arm at a point; none where no rate is finished on every tuning seed."""
    rates = _tuned_rates(runs, rules)
    if not rates:
        return None
    losses, initial = _losses(runs, rates, rules.tuning_seeds)
    return optimum(rates, losses, initial, rules.delta)


def _table(results: Iterable[Result]) -> Runs:
    runs: dict[tuple[str, str], dict[float, dict[int, Result]]] = defaultdict(lambda: defaultdict(dict))
    for result in results:
        runs[result.arm, result.point][result.learning_rate][result.seed] = result
    return runs


def _tuned_rates(runs: Mapping[float, Seeds], rules: Rules) -> list[float]:
    return sorted(rate for rate, seeds in runs.items() if all(seed in seeds for seed in rules.tuning_seeds))


def _reported(runs: Mapping[float, Seeds], rates: Sequence[float], seeds: Sequence[int]) -> list[Seeds]:
    """Of each rate the runs of these seeds that are there."""
    at_rates = [runs.get(rate, {}) for rate in rates]
    return [{seed: at[seed] for seed in seeds if seed in at} for at in at_rates]


def _losses(runs: Mapping[float, Seeds], rates: Sequence[float], seeds: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Losses, nan for a failed run, and initial losses, both [rates, seeds]."""
    cells = [[runs[rate][seed] for seed in seeds] for rate in rates]
    losses = np.array([[np.nan if cell.failed else cell.val_loss for cell in row] for row in cells])
    return losses, np.array([[cell.initial_loss for cell in row] for row in cells])


def _row(
    arm: str, point: str, runs: Mapping[float, Seeds], best: Optimum, window: tuple[float, float] | None, rules: Rules
) -> Row:
    multiples, common, seeds = rules.multiples_of(arm), rules.common_of(arm), rules.reporting_seeds
    rates = [*reporting_rates(best, multiples), *common]
    places = [*(f"x{multiple:g}" for multiple in multiples), *(f"{rate:g}" for rate in common)]
    reported = _reported(runs, rates, seeds)
    asked = reported[len(multiples) :] if common else reported
    tuned_rates = _tuned_rates(runs, rules)
    losses, initial = _losses(runs, tuned_rates, rules.tuning_seeds)
    whole = [seed for seed in seeds if all(seed in at for at in asked)]
    return Row(
        arm, point, _role(arm, rules), tuned_rates, clip_losses(losses, initial), best,
        t_estimate_of_sound([run.val_loss for run in reported[0].values() if not ended_badly(run)], rules.delta),
        [bad_ends(place, rate, at.values()) for place, rate, at in zip(places, rates, reported, strict=True)],
        bad_seeds([sum(ended_badly(at[seed]) for at in asked) for seed in whole]),
        _trains_to([[at[seed] for at in asked] for seed in whole], common or multiples, best.loss + rules.delta),
        _sensitivity(runs, tuned_rates, window, rules),
        sum(len(seeds) - len(at) for at in reported),
    )  # fmt: skip


def _role(arm: str, rules: Rules) -> str:
    if arm in rules.equal_time.values():
        return "equal_time"
    roles = {rules.baseline: "baseline", rules.a_a_control: "a_a_control", rules.positive_control: "positive_control",
             rules.sensitivity_control: "sensitivity_control"}  # fmt: skip
    return roles.get(arm, "arm")


def _trains_to(seeds: Sequence[Sequence[Result]], places: Sequence[float], limit: float) -> tuple[float, float, float]:
    """Median over ``seeds`` of the highest place up to which all runs are sound and end below ``limit``, with the
    interval from order statistics; nan where there are no seeds, and from 0 where there are too few for an interval."""
    if not seeds:
        return (NAN,) * 3
    reached = []
    for runs in seeds:
        good = [not ended_badly(run) and run.val_loss <= limit for run in runs]
        steps = int(np.cumprod(good).sum())
        reached.append(places[steps - 1] if steps else 0.0)
    ordered, n = sorted(reached), len(reached)
    below = 0  # order statistics below-th and (n + 1 - below)-th
    while below + 1 <= n / 2 and 2 * float(special.bdtr(below, n, 0.5)) <= 0.05:
        below += 1
    low, high = (ordered[below - 1], ordered[n - below]) if below else (0.0, float(places[-1]))
    return ordered[(n - 1) // 2], low, high


def _sensitivity(
    runs: Mapping[float, Seeds], rates: Sequence[float], window: tuple[float, float] | None, rules: Rules
) -> Sensitivity | None:
    if window is None:
        return None
    inside = [rate for rate in rates if window[0] * (1 - 1e-9) <= rate <= window[1] * (1 + 1e-9)]
    if not inside:
        return None
    all_seeds = (*rules.tuning_seeds, *rules.reporting_seeds)
    seeds = [seed for seed in all_seeds if all(seed in runs[rate] for rate in inside)]
    losses, initial = _losses(runs, inside, seeds)
    return lr_sensitivity(inside, losses, initial, window)


@dataclass
class _Comparing:
    """The tests of an arm against the baseline on the first ``n`` reporting seeds."""

    runs: Runs
    optima: Mapping[tuple[str, str], Optimum]
    rules: Rules

    def update(self, comparison: Comparison, arm: str, point: str, n: int) -> bool:
        """Write what the first ``n`` seeds say into the comparison; False, and nothing written, if runs are missing."""
        theirs = self.rules.equal_time[arm, point] if comparison.quantity == "equal_time" else self.rules.baseline
        seeds, common = self.rules.reporting_seeds[:n], self.rules.common_of(arm)
        multiples = self.rules.multiples_of(arm)
        if comparison.quantity != "stability":
            multiples, common = self.rules.multiples[:1], ()
        both = [self._at(name, point, multiples, common, seeds) for name in (arm, theirs)]
        missing = sum(len(seeds) - len(at) for rates in both for at in rates)
        if missing or len(seeds) < n:
            comparison.missing = missing
            return False
        comparison.missing = 0
        if comparison.quantity == "stability":
            missed = [self.optima[name, point].off for name in (arm, theirs)]
            # At common rates nothing was tuned; and to one that trains at no rate no rate is the wrong one.
            off = math.hypot(*missed) if all(missed) and not common else 0.0
            self._stability(comparison, both[0], both[1], common or multiples, off)
        else:
            self._loss(comparison, both[0][0], both[1][0], *(self._regret(name, point) for name in (arm, theirs)))
        return True

    def _at(
        self, arm: str, point: str, multiples: Sequence[float], common: Sequence[float], seeds: Sequence[int]
    ) -> list[Seeds]:
        """Runs by seed, at each common rate if there are any, else at each multiple of the best rate."""
        if (arm, point) not in self.optima:
            return [{} for _ in common or multiples]
        rates = common or reporting_rates(self.optima[arm, point], multiples)
        return _reported(self.runs.get((arm, point), {}), rates, seeds)

    def _regret(self, arm: str, point: str) -> float:
        """Of an arm known to break it is not asked: it breaks where it trains best, often at the edge of the grid."""
        return 0.0 if arm == self.rules.positive_control else self.optima[arm, point].regret

    def _loss(self, c: Comparison, ours: Seeds, theirs: Seeds, our_regret: float, their_regret: float) -> None:
        sound = [seed for seed in ours if not (ended_badly(ours[seed]) or ended_badly(theirs[seed]))]
        differences = [ours[seed].val_loss - theirs[seed].val_loss for seed in sound]
        found = loss_test(differences, our_regret, their_regret, self.rules.margin)
        c.difference, c.low, c.high, c.sd, c.seeds = found.difference, found.low, found.high, found.sd, found.pairs
        c.p, c.equivalence_p, c.allowance = found.p, found.equivalence_p, found.allowance

    def _stability(
        self, c: Comparison, ours: Sequence[Seeds], theirs: Sequence[Seeds], places: Sequence[float], off: float
    ) -> None:
        ends = [np.array([[ended_badly(run) for run in at.values()] for at in arm]) for arm in (ours, theirs)]
        bad, n = [int(arm.any(0).sum()) for arm in ends], [arm.shape[1] for arm in ends]
        c.difference, c.seeds = bad[0] / n[0] - bad[1] / n[1], n[0]
        c.low, c.high = difference_bounds(bad, n)
        c.p = stability_p(ends[0], ends[1], places, off)
        c.equivalence_p = equivalence_p(bad, n, self.rules.stability_margin)


def _decide(analysis: Analysis, comparing: _Comparing, rules: Rules) -> None:
    family: list[tuple[Comparison, str, str]] = []
    for point in rules.points:
        for arm in rules.compared:
            row = analysis.row(arm, point)
            kinds: list[Quantity] = ["loss", "stability"]
            if (arm, point) in rules.equal_time:
                kinds.append("equal_time")
            made = {kind: Comparison(kind) for kind in kinds}
            family += [(comparison, arm, point) for comparison in made.values()]
            if row is not None:
                row.loss_comparison, row.stability_comparison = made["loss"], made["stability"]
                row.equal_time = made.get("equal_time")
    for n, level in zip(rules.reached, analysis.levels, strict=False):
        complete = [comparing.update(comparison, arm, point, n) for comparison, arm, point in family]
        take_look([comparison for comparison, _, _ in family], complete, level, rules.alpha)
    _controls(analysis, comparing, rules)
    for comparison, _, point in family:
        conclude(comparison, analysis.a_a_is_null.get(point), analysis.positive_control_fired)


def _controls(analysis: Analysis, comparing: _Comparing, rules: Rules) -> None:
    """The controls by the same tests, outside the family: each at alpha over its own points and quantities.

    The A/A control voids a sound sweep no more often than alpha in all.
    """
    fired: list[bool | None] = []
    at = rules.positive_control_points if rules.positive_control_points is not None else rules.points
    for row in analysis.rows:
        if row.role not in ("a_a_control", "positive_control", "sensitivity_control"):
            continue
        pair = row.loss_comparison, row.stability_comparison = Comparison("loss"), Comparison("stability")
        done = [False, False]
        for n in rules.reached:  # the latest complete look replaces what earlier ones said
            complete = [comparing.update(comparison, row.arm, row.point, n) for comparison in pair]
            done = [before or now for before, now in zip(done, complete, strict=True)]
        level = rules.alpha / len(at if row.role == "positive_control" else rules.points)
        take_look(pair, done, level, rules.alpha)
        for comparison in pair:
            conclude(comparison, True, True)
        said = [comparison.claim for comparison in pair]
        if row.role == "a_a_control":
            differs = {"better", "worse", "more stable", "less stable"} & set(said)
            analysis.a_a_is_null[row.point] = not differs if all(done) else None
        elif row.role == "positive_control" and row.point in at:
            breaks = row.any_bad.low > 0.5  # in most of its seeds, whatever the baseline does
            fired.append(None if not all(done) else breaks or bool({"worse", "less stable"} & set(said)))
    if any(fired):
        analysis.positive_control_fired = True
    elif fired and None not in fired:
        analysis.positive_control_fired = False
