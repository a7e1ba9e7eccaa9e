"""The rule that may say better or worse, on simulated sweeps whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest

from resformer.sweeps.analysis import Result, Rules, analyse
from resformer.sweeps.verdict import unguarded

POINTS = ["L=2", "L=8"]
RATES = [1e-3, 10**-2.5, 1e-2, 10**-1.5]
ARMS = ["pre", "pre_again", "a", "b", "c", "d", "broken"]


def rules(**changes) -> Rules:
    plain = Rules(
        ARMS, POINTS, "pre", [100], [0, 1, 2], a_a_control="pre_again", positive_control="broken", margin=0.002
    )
    return replace(plain, **changes)


def simulated(seed: int, effects: dict[str, float] | None = None, sd: float = 0.02, rates=RATES) -> list[Result]:
    """Bowls in log rate around 1e-2 with noise shared by the seed and noise of each run's own."""
    noise = np.random.default_rng(seed)
    results = []
    for point in POINTS:
        shared = {s: noise.normal(0, sd) for s in (100, 0, 1, 2)}
        for arm in ARMS:
            for rate in rates:
                for s in shared:
                    loss = 2 + 0.3 * (np.log10(rate) + 2) ** 2 + shared[s] + noise.normal(0, sd)
                    loss += (effects or {}).get(arm, 0.0) + (3.0 if arm == "broken" else 0.0)
                    state = "stuck" if arm == "broken" else "ok"
                    results.append(Result(arm, point, rate, s, loss, 5.5, state))
    return results


def verdicts(analysis) -> dict:
    return {(row.arm, row.point): row.verdict for row in analysis.rows}


def test_false_verdicts_on_simulated_aa_sweeps_are_below_five_percent():
    sweeps, false, equal = 400, 0, 0
    for seed in range(sweeps):
        said = [v for (arm, _), v in verdicts(analyse(simulated(seed), rules())).items() if arm != "broken"]
        false += bool({"better", "worse"} & set(said))
        equal += "equivalent" in said
    assert false / sweeps < 0.05
    assert equal / sweeps < 0.05  # sd ten times the margin: nothing to be sure of


@pytest.mark.parametrize("lucky", ["a", "pre"])
def test_a_badly_tuned_rate_makes_no_verdict(lucky):
    """One arm's tuning seed prefers a rate that is worse for all arms alike: the runs there are, and the arm is not."""
    wrong = RATES[1]
    results = [
        replace(r, val_loss=r.val_loss - 1.0) if (r.arm, r.learning_rate, r.seed) == (lucky, wrong, 100) else r
        for r in simulated(3, sd=0.002)
    ]
    analysis = analyse(results, rules())
    row = analysis.row("a", "L=2")
    away = row.matched_optimum
    assert not away.low <= 0 <= away.high  # found, and not to be believed
    assert away.mean == pytest.approx(0.075 if lucky == "a" else -0.075, abs=0.01)
    assert unguarded(row.evidence)[0] == "unresolved"


def test_a_variant_that_is_worse_at_every_rate_is_worse_whatever_its_rate():
    results = []
    for r in simulated(3, {"a": 0.5}, sd=0.002):
        lucky = (r.arm, r.learning_rate, r.seed) == ("a", RATES[1], 100)
        results.append(replace(r, val_loss=r.val_loss - 1.0) if lucky else r)
    row = analyse(results, rules()).row("a", "L=2")
    assert (row.optimum.rate, row.verdict) == (RATES[1], "worse")


def test_a_real_difference_is_found_with_its_sign():
    effects = {"a": 1.0, "b": -1.0}
    found = [verdicts(analyse(simulated(seed, effects, sd=0.004), rules())) for seed in range(40)]
    for arm, verdict in (("a", "worse"), ("b", "better")):
        assert np.mean([f[arm, "L=2"] == verdict for f in found]) > 0.85  # what an A/A arm at 5 % lets through
    assert np.mean([f["broken", "L=8"] == "unstable" for f in found]) == 1


def test_equivalence_is_said_of_what_is_inside_the_margin():
    found = [verdicts(analyse(simulated(s, sd=0.0002), rules(margin=0.01)))["a", "L=2"] for s in range(40)]
    assert np.mean([verdict == "equivalent" for verdict in found]) > 0.85


@pytest.mark.parametrize(
    ("changes", "effects", "why"),
    [
        ({"a_a_control": None}, {}, "no A/A arm"),
        ({"positive_control": None}, {}, "no positive control"),
        ({}, {"pre_again": 0.5}, "differs from itself"),
        ({"positive_control": "d"}, {}, "did not fire"),
        ({"positive_control_points": ["L=9"]}, {}, "no positive control"),
    ],
)
def test_without_working_controls_nothing_is_said(changes, effects, why):
    analysis = analyse(simulated(1, {"a": 1.0} | effects, sd=0.001), rules(**changes))
    row = analysis.row("a", "L=2")
    assert row.verdict == "unresolved"
    assert why in row.reason
    assert {row.verdict for row in analysis.rows} <= {"baseline", "unresolved", "unstable"}


def test_an_optimum_at_the_edge_forbids_a_verdict():
    edge = [r for r in simulated(1, {"a": 1.0}, sd=0.001) if not (r.arm == "a" and r.learning_rate > 1e-2)]
    row = analyse(edge, rules()).row("a", "L=2")
    assert (row.verdict, row.optimum.interior) == ("unresolved", False)
    assert "edge" in row.reason


def test_a_failed_seed_makes_unstable_and_is_never_dropped_from_the_mean():
    results = simulated(1, {"a": -1.0}, sd=0.001)
    diverged = [
        Result(r.arm, r.point, r.learning_rate, r.seed, float("nan"), 5.5, "diverged")
        if (r.arm, r.seed) == ("a", 2)
        else r
        for r in results
    ]
    row = analyse(diverged, rules()).row("a", "L=2")
    assert row.verdict == "unstable"
    assert row.end_states == {"ok": 2, "diverged": 1}
    assert row.loss.mean == pytest.approx((1 + 1 + 5.5) / 3, abs=0.01)


def test_the_best_rate_is_chosen_on_the_tuning_seeds_only():
    lucky = [
        Result(r.arm, r.point, r.learning_rate, r.seed, 0.5, 5.5) if r.learning_rate == 1e-3 and r.seed == 0 else r
        for r in simulated(1, sd=0.001)
    ]
    assert analyse(lucky, rules()).row("a", "L=2").optimum.rate == 1e-2


def test_a_part_of_a_sweep_gives_a_part_of_the_table():
    results = [r for r in simulated(1, {"a": 1.0}, sd=0.001) if not (r.arm in ("a", "b") and r.seed == 2)]
    partial = [r for r in results if r.arm != "c"]
    analysis = analyse(partial, rules())
    assert analysis.row("c", "L=2") is None
    row = analysis.row("a", "L=2")
    assert (row.verdict, row.matched_optimum.n) == ("unresolved", 2)
    assert "missing" in row.reason
    assert analyse([], rules()).rows == []
