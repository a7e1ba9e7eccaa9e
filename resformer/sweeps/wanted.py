"""Which trials a sweep wants, as a pure function of what is finished: so that any executor can go on with it."""

from collections.abc import Collection, Iterable
from itertools import product

from . import curves
from .analysis import analyse, tuned
from .results import Result, Rules
from .trials import Sweep, Trial


def wanted(sweep: Sweep, results: Iterable[Result], given_up: Collection[Trial] = ()) -> list[Trial]:
    """All trials that follow from the results so far, finished ones included, in the order to run them.

    At each point every arm is tuned over the same rates. While the best rate of an arm that trains at all lies at the
    edge, the grid grows there for every arm of the point, within ``learning_rates.extend_by``. Once it stands still,
    reporting seeds run at multiples of the arm's best rate and at the common rates, look by look: after each, an arm of
    which everything is said (and that is no control) runs no more seeds. Nothing else is ever pruned. The baseline
    trained for longer is not tuned; it runs at the baseline's best rate.

    Args:
        given_up: trials that failed for reasons outside the run as often as is allowed; their arm is not waited for.
    """
    results = list(results)
    done = {Trial(r.arm, r.point, r.learning_rate, r.seed): r for r in results}
    rules, seeds = sweep.rules(), sweep.config.seeds
    tuning: list[Trial] = []
    reporting: dict[tuple[str, str], list[float]] = {}
    for point in sweep.points:
        arms = sweep.arms_at(point)
        tuned_arms = [arm for arm in arms if arm not in rules.companions]
        rates, best = _tuned_rates(sweep, point, tuned_arms, done, given_up)
        if rules.baseline in best:
            best |= {arm: best[rules.baseline] for arm in arms if arm in rules.companions}
        tuning += _trials(tuned_arms, point, rates, seeds.tuning)
        for arm in arms:
            grid = rates if seeds.reporting_rates == "all" and arm in tuned_arms else []
            if arm in best or grid:
                its = curves.reporting_rates(best[arm], rules.multiples_of(arm)) if arm in best else []
                common = rules.common_of(arm) if arm in best else ()
                reporting[arm, point] = sorted({*its, *common, *grid})
    return tuning + _look_by_look(rules, reporting, results, done)


def _look_by_look(
    rules: Rules, rates: dict[tuple[str, str], list[float]], results: list[Result], done: dict[Trial, Result]
) -> list[Trial]:
    found: list[Trial] = []
    going, before = list(rates), 0
    for look, n in enumerate(rules.reached, start=1):
        seeds = list(rules.reporting_seeds[before:n])
        new = [trial for arm, point in going for trial in _trials([arm], point, rates[arm, point], seeds)]
        found += sorted(new, key=lambda trial: seeds.index(trial.seed))
        if n == rules.reached[-1] or any(trial not in done for trial in new):
            break
        counted = set(rules.reporting_seeds[:n]) | set(rules.tuning_seeds)
        so_far = [r for r in results if r.seed in counted]
        decided = {(row.arm, row.point) for row in analyse(so_far, rules.until(look)).rows if row.settled}
        going, before = [key for key in going if key not in decided], n
    return found


def bounds(sweep: Sweep) -> tuple[int, int]:
    """The fewest and the most trials that the definition can lead to: a best rate may be one of the grid or not."""
    few, many = 0, 0
    rates, seeds, rules = sweep.config.learning_rates, sweep.config.seeds, sweep.rules()
    everywhere = seeds.reporting_rates == "all"
    for point in sweep.points:
        for arm in sweep.arms_at(point):
            if arm in rules.companions:
                few, many = few + len(seeds.reporting), many + len(seeds.reporting)
                continue
            fixed = {*rules.common_of(arm), *(rates.grid if everywhere else ())}
            best = len(rules.multiples_of(arm))
            first = rules.all_looks[0] if arm in rules.compared else len(seeds.reporting)
            few += len(rates.grid) * len(seeds.tuning) + max(best, len(fixed)) * first
            most = best + len(fixed) + (rates.extend_by if everywhere else 0)
            many += (len(rates.grid) + rates.extend_by) * len(seeds.tuning) + most * len(seeds.reporting)
    return few, many


def _tuned_rates(
    sweep: Sweep, point: str, arms: list[str], done: dict[Trial, Result], given_up: Collection[Trial]
) -> tuple[list[float], dict[str, curves.Optimum]]:
    """The point's rates so far, and the best one of each arm once no more are to come."""
    rates = sorted(sweep.config.learning_rates.grid)
    budget = sweep.config.learning_rates.extend_by
    seeds, rules = sweep.config.seeds.tuning, sweep.rules()
    counted = [arm for arm in arms if not any(trial in given_up for trial in _trials([arm], point, rates, seeds))]
    while True:
        if any(trial not in done for trial in _trials(counted, point, rates, seeds)):
            return rates, {}
        best = {arm: _best(arm, point, rates, done, rules) for arm in counted}
        edges = {optimum.index for optimum, trains in best.values() if trains}
        grown = list(rates)
        if 0 in edges and budget > 0:
            grown, budget = [curves.rounded(rates[0] ** 2 / rates[1]), *grown], budget - 1
        if len(rates) - 1 in edges and budget > 0:
            grown, budget = [*grown, curves.rounded(rates[-1] ** 2 / rates[-2])], budget - 1
        if grown == rates:
            return rates, {arm: optimum for arm, (optimum, _) in best.items()}
        rates = grown
        counted = [arm for arm in counted if not any(t in given_up for t in _trials([arm], point, rates, seeds))]


def _best(
    arm: str, point: str, rates: list[float], done: dict[Trial, Result], rules: Rules
) -> tuple[curves.Optimum, bool]:
    """The best rate, and whether any run at its rung trained."""
    runs = {rate: {seed: done[Trial(arm, point, rate, seed)] for seed in rules.tuning_seeds} for rate in rates}
    best = tuned(runs, rules)
    assert best is not None  # all of its tuning runs are finished
    return best, not all(run.failed for run in runs[rates[best.index]].values())


def _trials(arms: list[str], point: str, rates: list[float], seeds: list[int]) -> list[Trial]:
    return [Trial(arm, point, rate, seed) for seed, rate, arm in product(seeds, rates, arms)]
