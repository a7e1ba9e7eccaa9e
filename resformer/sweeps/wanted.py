"""Which trials a sweep wants, as a pure function of what is finished: so that any executor can go on with it."""

from collections.abc import Collection, Iterable
from itertools import product

import numpy as np

from . import curves
from .analysis import Result, analyse
from .trials import Sweep, Trial


def wanted(sweep: Sweep, results: Iterable[Result], given_up: Collection[Trial] = ()) -> list[Trial]:
    """All trials that follow from the results so far, finished ones included, in the order to run them.

    At each point every arm is tuned over the same rates. While the best rate of an arm that trains at all lies at the
    edge, the grid grows there for every arm of the point, within ``learning_rates.extend_by``. Once it stands still,
    reporting seeds run at the arm's own and at the baseline's best rate; the baseline's at every arm's best rate.
    Nothing is ever pruned. Where ``seeds.looks`` declares several, seeds beyond a look run only if it left something
    open.

    Args:
        given_up: trials that failed for reasons outside the run as often as is allowed; their arm is not waited for.
    """
    results = list(results)
    done = {Trial(r.arm, r.point, r.learning_rate, r.seed): r for r in results}
    for reporting in sweep.looks():
        trials = _up_to(sweep, done, given_up, reporting)
        if any(trial not in done for trial in trials) or _is_decided(sweep, results, reporting):
            break
    return trials


def last_look(sweep: Sweep, results: Iterable[Result]) -> list[int]:
    """The reporting seeds of the last declared look whose trials are all there, or of the first."""
    done = {Trial(r.arm, r.point, r.learning_rate, r.seed): r for r in results}
    complete = [look for look in sweep.looks() if all(trial in done for trial in _up_to(sweep, done, (), look))]
    return complete[-1] if complete else sweep.looks()[0]


def _is_decided(sweep: Sweep, results: list[Result], reporting: list[int]) -> bool:
    controls = sweep.config.controls
    rows = analyse(results, sweep.rules(reporting)).rows
    return all(row.verdict != "unresolved" for row in rows if row.arm not in (controls.baseline, controls.a_a_control))


def _up_to(
    sweep: Sweep, done: dict[Trial, Result], given_up: Collection[Trial], reporting_seeds: list[int]
) -> list[Trial]:
    tuning: list[Trial] = []
    reporting: list[Trial] = []
    for point in sweep.points:
        arms = sweep.arms_at(point)
        rates, best = _tuned_rates(sweep, point, arms, done, given_up)
        tuning += _trials(arms, point, rates, sweep.config.seeds.tuning)
        if sweep.config.seeds.reporting_rates == "all":
            reporting += _trials(arms, point, rates, reporting_seeds)
            continue
        baseline = sweep.config.controls.baseline
        for arm in (arm for arm in arms if arm in best):
            others = best.values() if arm == baseline else [best.get(baseline, best[arm])]
            higher = [_rounded(best[arm] * factor) for factor in sweep.config.learning_rates.multiples]
            its = list(dict.fromkeys([best[arm], *others, *higher]))
            reporting += _trials([arm], point, its, reporting_seeds)
    return tuning + reporting


def bounds(sweep: Sweep) -> tuple[int, int]:
    """The fewest and the most trials that the definition can lead to."""
    config, few, many = sweep.config, 0, 0
    tuning, reporting = len(config.seeds.tuning), len(config.seeds.reporting)
    for point in sweep.points:
        arms, rates = len(sweep.arms_at(point)), len(config.learning_rates.grid)
        most = rates + config.learning_rates.extend_by
        if config.seeds.reporting_rates == "all":
            few, many = few + arms * rates * (tuning + reporting), many + arms * most * (tuning + reporting)
        else:
            at_best, higher = min(reporting, *config.seeds.looks, reporting), len(config.learning_rates.multiples)
            few += arms * (rates * tuning + (1 + higher) * at_best)
            many += arms * most * tuning + (2 * (arms - 1) + min(arms, most) + arms * higher) * reporting
    return few, many


def _tuned_rates(
    sweep: Sweep, point: str, arms: list[str], done: dict[Trial, Result], given_up: Collection[Trial]
) -> tuple[list[float], dict[str, float]]:
    """The point's rates so far, and the best one of each arm once no more are to come."""
    rates = sorted(sweep.config.learning_rates.grid)
    budget = sweep.config.learning_rates.extend_by
    seeds = sweep.config.seeds.tuning
    counted = [arm for arm in arms if not any(trial in given_up for trial in _trials([arm], point, rates, seeds))]
    while True:
        if any(trial not in done for trial in _trials(counted, point, rates, seeds)):
            return rates, {}
        best = {arm: _best(arm, point, rates, seeds, done) for arm in counted}
        edges = {index for index, trains in best.values() if trains}
        grown = list(rates)
        if 0 in edges and budget > 0:
            grown, budget = [_rounded(rates[0] ** 2 / rates[1]), *grown], budget - 1
        if len(rates) - 1 in edges and budget > 0:
            grown, budget = [*grown, _rounded(rates[-1] ** 2 / rates[-2])], budget - 1
        if grown == rates:
            return rates, {arm: rates[index] for arm, (index, _) in best.items()}
        rates = grown
        counted = [arm for arm in counted if not any(t in given_up for t in _trials([arm], point, rates, seeds))]


def _best(arm: str, point: str, rates: list[float], seeds: list[int], done: dict[Trial, Result]) -> tuple[int, bool]:
    """Index of the best rate, and whether any run there trained."""
    cells = [[done[Trial(arm, point, rate, seed)] for seed in seeds] for rate in rates]
    losses = np.array([[cell.val_loss for cell in row] for row in cells])
    index = curves.optimum(rates, losses, [[cell.initial_loss for cell in row] for row in cells]).index
    return index, not all(cell.failed for cell in cells[index])


def _trials(arms: list[str], point: str, rates: list[float], seeds: list[int]) -> list[Trial]:
    return [Trial(arm, point, rate, seed) for seed, rate, arm in product(seeds, rates, arms)]


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
