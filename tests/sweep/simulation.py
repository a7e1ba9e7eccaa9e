"""Sweeps whose truth is known: outcomes drawn from curves over log rate, and what the project's own rule says of them.

``python -m tests.sweep.simulation 2000`` prints the table of false verdicts, power and coverage.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

import numpy as np

from resformer.sweeps.analysis import Analysis, analyse
from resformer.sweeps.curves import optimum, reporting_rates
from resformer.sweeps.results import Result, Rules

HALF_DECADES = tuple(10**x for x in np.arange(-3.5, -0.9, 0.5))
INITIAL = 5.5
Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]


def normal(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return draw.standard_normal(shape)


def heavy(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Student's t of 3 degrees of freedom, of unit variance."""
    return draw.standard_t(3, shape) / np.sqrt(3)


def skewed(draw: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Gamma of shape 2 (skewness 1.4), of mean 0 and unit variance."""
    return (draw.gamma(2.0, 1.0, shape) - 2) / np.sqrt(2)


@dataclass(frozen=True)
class Truth:
    """One arm. Losses in nats, places in decades.

    Attributes:
        effect: of the best achievable loss, against the baseline's 2.
        optimum: log10 of the best rate.
        curvature: nats per decade squared; above the optimum times ``lopsided``.
        sd: of a run's own noise; ``shared`` of what a seed's runs share over all rates, within an arm.
        failures: chance that a run diverges, whatever its rate; ``accidents`` that it ends 0.4 nat up.
        cliff: decades above the optimum where half of the runs diverge, ``width`` the scale of the logistic curve.
        seed_failures: chance that all runs of a seed above its best rate diverge together.
    """

    effect: float = 0.0
    optimum: float = -2.0
    curvature: float = 1.0
    lopsided: float = 1.0
    sd: float = 0.03
    shared: float = 0.0
    failures: float = 0.0
    accidents: float = 0.0
    cliff: float = 9.0
    width: float = 0.07
    seed_failures: float = 0.0
    noise: Noise = normal


@dataclass(frozen=True)
class Scenario:
    """``arms``: truth by name; the baseline is ``base``. ``equal``: no arm differs truly, so that every better, worse,
    more or less stable is false. ``paired``: sd of what a seed's runs share over all arms."""

    name: str
    arms: Mapping[str, Truth]
    seeds: int = 8
    tuning: int = 2
    looks: tuple[int, ...] = ()
    rates: tuple[float, ...] = HALF_DECADES
    points: int = 1
    paired: float = 0.015
    margin: float = 0.03
    false: frozenset[str] = frozenset({"better", "worse", "more stable", "less stable"})
    wanted: tuple[str, str] | None = None
    """An arm and the verdict that it should get; its frequency is the power."""
    extra: Mapping[str, object] = field(default_factory=dict)
    broken: Truth | None = None
    """The positive control; by default the baseline, 1.7 nat worse."""

    def rules(self) -> Rules:
        names = ["base", "again", *self.arms, "broken"] if "base" not in self.arms else ["again", *self.arms, "broken"]
        whole = Rules(
            arms=names,
            points=[f"L={k}" for k in range(self.points)],
            baseline="base",
            tuning_seeds=[1000 + k for k in range(self.tuning)],
            reporting_seeds=list(range(self.seeds)),
            a_a_control="again",
            positive_control="broken",
            looks=self.looks,
            margin=self.margin,
        )
        return replace(whole, **self.extra)

    def truths(self) -> dict[str, Truth]:
        base = self.arms.get("base", Truth())
        others = {name: truth for name, truth in self.arms.items() if name != "base"}
        return {"base": base, "again": base, **others, "broken": self.broken or replace(base, effect=1.7)}


def losses(truth: Truth, rates: np.ndarray, seeds: np.ndarray, shared: np.ndarray, draw: np.random.Generator):
    """Held-out losses [rates, seeds], nan where diverged."""
    x = np.log10(rates) - truth.optimum
    steep = truth.curvature * np.where(x > 0, truth.lopsided, 1.0)
    shape = (len(rates), len(seeds))
    own = truth.sd * truth.noise(draw, shape) + truth.shared * truth.noise(draw, (1, len(seeds)))
    values = 2 + truth.effect + (steep * x**2)[:, None] + own + shared[seeds]
    values += 0.4 * (draw.random(shape) < truth.accidents)
    chance = 1 / (1 + np.exp(-(x - truth.cliff) / truth.width))
    gone = (draw.random(shape) < truth.failures) | (draw.random(shape) < chance[:, None])
    gone |= (draw.random((1, len(seeds))) < truth.seed_failures) & (x > 0.15)[:, None]
    return np.where(gone, np.nan, values)


def simulate(scenario: Scenario, seed: int) -> tuple[list[Result], Rules]:
    """The results of one sweep: tuned on a grid, reported at multiples of the fitted best rate, as the plan does."""
    draw, rules = np.random.default_rng(seed), scenario.rules()
    grid, results = np.array(scenario.rates), []
    tuning, reporting = np.arange(scenario.tuning), scenario.tuning + np.arange(scenario.seeds)
    for point in rules.points:
        shared = scenario.paired * draw.standard_normal(scenario.tuning + scenario.seeds)
        for arm, truth in scenario.truths().items():
            tuned = losses(truth, grid, tuning, shared, draw)
            its = reporting_rates(optimum(grid, tuned, INITIAL, rules.delta), rules.multiples_of(arm))
            at = np.array(sorted({*its, *rules.common_of(arm)}))
            blocks = [(grid, tuned, rules.tuning_seeds)]
            blocks.append((at, losses(truth, at, reporting, shared, draw), rules.reporting_seeds))
            for rates, values, seeds in blocks:
                for rate, row in zip(rates.tolist(), values.tolist(), strict=True):
                    for number, value in zip(seeds, row, strict=True):
                        state = "ok" if value == value else "diverged"
                        results.append(Result(arm, point, rate, number, value, INITIAL, state))
    return results, rules


def said(analysis: Analysis) -> dict[tuple[str, str, str], str]:
    """Verdict by arm, point and quantity, controls left out."""
    rows = (row for row in analysis.rows if row.role == "arm")
    return {(row.arm, row.point, c.quantity): c.verdict for row in rows for c in row.comparisons}


@dataclass
class Found:
    """Of ``sweeps`` simulated ones: how many said anything false, how many what was wanted, and how often an A/A
    control voided a point; coverage of the intervals by name."""

    sweeps: int = 0
    false: int = 0
    power: int = 0
    voided: int = 0
    covered: dict[str, list[int]] = field(default_factory=dict)

    def interval(self, count: int) -> tuple[float, float]:
        """95 %, of Wilson."""
        p, n, z = count / self.sweeps, self.sweeps, 1.96
        middle, half = p + z * z / (2 * n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def study(scenario: Scenario, sweeps: int, first: int = 0) -> Found:
    found, truths = Found(), scenario.truths()
    for seed in range(first, first + sweeps):
        analysis = analyse(*simulate(scenario, seed))
        verdicts = said(analysis)
        found.sweeps += 1
        found.false += any(
            verdict in scenario.false and (scenario.wanted is None or arm != scenario.wanted[0])
            for (arm, _, _), verdict in verdicts.items()
        )
        if scenario.wanted:
            found.power += any(
                (arm, verdict) == scenario.wanted for (arm, point, _), verdict in verdicts.items() if point == "L=0"
            )
        found.voided += any(null is False for null in analysis.a_a_is_null.values())
        _cover(found.covered, analysis, truths, scenario)
    return found


@lru_cache
def _of_sound_runs(truth: Truth, paired: float, delta: float) -> float:
    """How far the mean loss of runs that are not degraded lies from the mean loss of all, in nats: the printed loss is
    that of sound runs."""
    draw, many = np.random.default_rng(0), (200_000,)
    noise = truth.sd * truth.noise(draw, many) + truth.shared * truth.noise(draw, many) + paired * normal(draw, many)
    return float(noise[noise <= np.quantile(noise, 0.25) + delta].mean())


def _cover(covered: dict[str, list[int]], analysis: Analysis, truths: Mapping[str, Truth], scenario: Scenario) -> None:
    """Whether the intervals of the first compared arm hold the truth."""
    row = next(row for row in analysis.rows if row.role == "arm")
    truth, base = truths[row.arm], truths["base"]
    at = row.optimum.rate
    if truth.accidents == 0 and row.loss.n > 1:
        x = np.log10(at) - truth.optimum
        mean = 2 + truth.effect + truth.curvature * (truth.lopsided if x > 0 else 1.0) * x * x
        mean += _of_sound_runs(truth, scenario.paired, scenario.rules().delta)
        covered.setdefault("loss", []).append(row.loss.low <= mean <= row.loss.high)
    comparison = row.loss_comparison
    if comparison is not None and np.isfinite(comparison.p):
        covered.setdefault("difference", []).append(comparison.low <= truth.effect - base.effect <= comparison.high)
    if np.isfinite(row.optimum.low) and truth.lopsided == 1:
        covered.setdefault("best rate", []).append(row.optimum.low <= 10**truth.optimum <= row.optimum.high)


def _off_grid(number: int, **changes: float) -> dict[str, Truth]:
    """``number`` arms equal in their best loss, whose optima lie anywhere between two rungs; the baseline on one."""
    places = -2.0 + 0.25 * np.sin(1.0 + 2.3 * np.arange(number))
    return {"base": Truth(**changes), **{f"a{k}": Truth(optimum=float(x), **changes) for k, x in enumerate(places)}}


def _cliffs(number: int) -> dict[str, Truth]:
    """Arms whose best rates lie off the grid and that all begin to fail at one rate, 0.02."""
    fail_at = float(np.log10(0.02))
    return {name: replace(truth, cliff=fail_at - truth.optimum) for name, truth in _off_grid(number).items()}


def _equal(number: int, **changes) -> dict[str, Truth]:
    return {"base": Truth(**changes), **{f"a{k}": Truth(**changes) for k in range(number)}}


GPU = _off_grid(6, sd=0.003, curvature=0.2)
LOSS_ONLY = frozenset({"better", "worse"})
EVERYTHING = frozenset({"better", "worse", "more stable", "less stable"})
COMMON = {"multiples": (1.0,), "common": (1e-2, 3e-2)}
NULLS = [
    *(Scenario(f"optima on the grid, {n} seeds", _equal(6), n, points=2) for n in (3, 4, 8, 16)),
    *(Scenario(f"optima off the grid, {n} seeds", _off_grid(6), n, points=2) for n in (4, 8, 16, 30)),
    *(
        Scenario(
            f"optima on different rungs, sd 0.08, {n} seeds",
            {"base": Truth(sd=0.08), **{f"a{k}": Truth(sd=0.08, optimum=-2.5 + 0.5 * (k % 3)) for k in range(6)}}, n,
        )
        for n in (4, 8, 16)
    ),
    *(
        Scenario(
            f"accidents of 0.4 nat in 10 % of the runs of all but the baseline, {n} seeds",
            {"base": Truth(), **{f"a{k}": Truth(accidents=0.1) for k in range(6)}}, n, false=LOSS_ONLY,
        )
        for n in (4, 8)
    ),
    *(Scenario(f"every arm fails in 5 % of its runs, {n} seeds", _equal(6, failures=0.05), n) for n in (4, 8, 16)),
    Scenario("every arm fails in 30 % of its runs, 8 seeds", _equal(6, failures=0.3), 8),
    Scenario("like a GPU: sd 0.003, curvature 0.2, off the grid, 5 seeds",
             GPU, 5, paired=0.002, margin=0.01),
    Scenario("like a GPU, 16 seeds", GPU, 16, paired=0.002, margin=0.01),
    Scenario("heavy tails (t of 3 df), 6 seeds", _off_grid(6, noise=heavy), 6),
    Scenario("skewed noise (gamma of shape 2), 6 seeds", _off_grid(6, noise=skewed), 6),
    Scenario("unequal spreads: baseline 0.02, arms 0.07", _off_grid(6, sd=0.07) | {"base": Truth(sd=0.02)}),
    Scenario("unequal spreads of skewed noise",
             _off_grid(6, sd=0.06, noise=skewed) | {"base": Truth(sd=0.02, noise=skewed)}),
    Scenario("noise of a seed shared over rates", _off_grid(6, sd=0.01, shared=0.04), 8),
    Scenario("two seeds, one tuning seed", _off_grid(6), 2, tuning=1),
    Scenario("one tuning seed", _off_grid(6), 8, tuning=1),
    Scenario("one compared arm", _off_grid(1), 8),
    Scenario("thirty compared arms", _off_grid(30), 8),
    Scenario("a cliff 0.45 decades above the optimum", _off_grid(6, cliff=0.45), 8),
    Scenario("a sharp cliff at twice the best rate", _off_grid(6, cliff=0.30, width=0.02), 8),
    Scenario("curves three times as steep above the optimum", _off_grid(6, lopsided=3.0), 16),
    Scenario("seeds fail at all high rates together", _equal(6, seed_failures=0.3), 8),
    *(
        Scenario(f"{name}, stability at common rates", arms, n, extra=COMMON, false=false)
        for name, arms, n, false in (
            ("equal cliffs, optima off the grid, 8 seeds", _cliffs(6), 8, EVERYTHING),
            ("equal cliffs, optima off the grid, 16 seeds", _cliffs(6), 16, EVERYTHING),
            ("every arm fails in 30 % of its runs, 8 seeds", _equal(6, failures=0.3), 8, EVERYTHING),
            ("seeds fail at all high rates together", _equal(6, seed_failures=0.3), 8, EVERYTHING),
        )
    ),
    Scenario("looks at 4, 6 and 8 seeds, then at 10 and 12", _off_grid(6), 12, looks=(4, 6, 8, 10, 12),
             extra={"declared_looks": 3}),
]  # fmt: skip
ALTERNATIVES = [
    Scenario("0.10 nat better, on the grid", _equal(3) | {"a0": Truth(-0.1)}, wanted=("a0", "better")),
    Scenario("0.10 nat better, off the grid", _off_grid(3) | {"a0": Truth(-0.1, -1.8)}, wanted=("a0", "better")),
    Scenario("0.10 nat worse, off the grid", _off_grid(3) | {"a0": Truth(0.1, -1.8)}, wanted=("a0", "worse")),
    Scenario("0.02 nat better, like a GPU", GPU | {"a0": Truth(-0.02, -1.8, 0.2, sd=0.003)}, paired=0.002, margin=0.01,
             wanted=("a0", "better")),
    Scenario("the baseline fails in 60 % of its runs", _equal(3) | {"base": Truth(failures=0.6)},
             wanted=("a0", "more stable"), broken=Truth(failures=1.0),
             false=frozenset({"better", "worse", "less stable"})),  # every arm is more stable than such a baseline
    Scenario("an arm fails in 60 % of its runs", _equal(3) | {"a0": Truth(failures=0.6)}, wanted=("a0", "less stable")),
    Scenario("a cliff at twice an arm's best rate", _equal(3) | {"a0": Truth(cliff=0.3)},
             wanted=("a0", "less stable")),
    Scenario("a cliff at twice an arm's best rate, stability at common rates", _equal(3) | {"a0": Truth(cliff=0.3)},
             wanted=("a0", "less stable"), extra=COMMON),
    Scenario("half of the runs fail at 0.03, stability at common rates", _equal(3) | {"a0": Truth(cliff=0.48)},
             wanted=("a0", "less stable"), extra=COMMON),
    Scenario("equal arms, sd 0.003", _equal(3, sd=0.003), paired=0.002, wanted=("a0", "equivalent")),
]  # fmt: skip


def table(sweeps: int, scenarios: list[Scenario] | None = None) -> str:
    """Markdown: one line for each scenario."""
    lines = [
        "| situation | any false verdict (95 %) | power | A/A voids | coverage |",
        "| --- | --- | --- | --- | --- |",
    ]
    for scenario in scenarios or [*NULLS, *ALTERNATIVES]:
        lines.append(line(scenario, study(scenario, sweeps)))
        print(lines[-1], flush=True)
    return "\n".join(lines)


def line(scenario: Scenario, found: Found) -> str:
    low, high = found.interval(found.false)
    power = f"{found.power / found.sweeps:.2f}" if scenario.wanted else ""
    coverage = ", ".join(f"{name} {np.mean(held):.3f}" for name, held in found.covered.items())
    return (
        f"| {scenario.name} | {found.false / found.sweeps:.3f} [{low:.3f}, {high:.3f}] | {power} "
        f"| {found.voided / found.sweeps:.3f} | {coverage} |"
    )


if __name__ == "__main__":
    table(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
