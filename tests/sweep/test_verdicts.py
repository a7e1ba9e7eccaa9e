"""What may be said of arms whose truth is known: the rule on simulated sweeps, its controls, looks and gates."""

from dataclasses import replace

import numpy as np
import pytest
import simulation
from simulation import Scenario, Truth, losses, said, simulate, study

from resformer.sweeps.analysis import analyse
from resformer.sweeps.detectable import design_warnings, detectable_difference, smallest_p
from resformer.sweeps.results import Rules

TWO = {"base": Truth(), "a": Truth(), "b": Truth()}


def one(scenario: Scenario, seed: int = 0, drop=lambda result: False, **changes):
    results, rules = simulate(scenario, seed)
    return analyse([result for result in results if not drop(result)], replace(rules, **changes))


def quiet(**arms: Truth) -> Scenario:
    return Scenario("quiet", {"base": Truth(sd=0.005), **arms}, paired=0.002)


def test_better_worse_less_stable_and_more_stable_are_found():
    arms = {"a": Truth(-0.2, -1.8, sd=0.005), "b": Truth(0.2, -2.2, sd=0.005), "c": Truth(cliff=0.2, sd=0.005)}
    verdicts = said(one(quiet(**arms)))
    assert verdicts["a", "L=0", "loss"] == "better"
    assert verdicts["b", "L=0", "loss"] == "worse"
    assert verdicts["c", "L=0", "stability"] == "less stable"
    shaky = quiet(base=Truth(sd=0.005, cliff=0.2), a=Truth(sd=0.005))
    assert said(one(replace(shaky, broken=Truth(failures=1.0))))["a", "L=0", "stability"] == "more stable"


def test_a_baseline_that_fails_everywhere_is_treated_like_any_arm():
    scenario = Scenario("", {"base": Truth(failures=1.0), "a": Truth(failures=0.02)}, broken=Truth(failures=1.0))
    analysis = one(scenario)
    row = analysis.row("base", "L=0")
    assert [(at.bad, at.n) for at in row.bad_ends] == [(8, 8)] * 3
    assert np.isnan(row.loss.mean)  # no failed run is averaged into a loss
    assert analysis.row("a", "L=0").loss_comparison.verdict == "unresolved"
    assert "pairs of sound runs" in analysis.row("a", "L=0").loss_comparison.reason


def test_one_failed_baseline_run_leaves_half_a_nat_to_be_found():
    results, rules = simulate(quiet(a=Truth(-0.5, sd=0.005)), 1)
    rate = analyse(results, rules).row("base", "L=0").bad_ends[0].rate
    failed = [
        replace(r, val_loss=float("nan"), end_state="diverged")
        if (r.arm, r.learning_rate, r.seed) == ("base", rate, 3)
        else r
        for r in results
    ]
    row = analyse(failed, rules).row("a", "L=0")
    assert (row.loss_comparison.verdict, row.loss_comparison.seeds) == ("better", 7)
    assert row.stability_comparison.verdict == "unresolved"


def test_an_accident_is_a_bad_end_and_no_noise_of_the_loss():
    results, rules = simulate(quiet(a=Truth(sd=0.005)), 2)
    rate = analyse(results, rules).row("a", "L=0").bad_ends[0].rate
    hit = [replace(r, val_loss=r.val_loss + 0.5) if (r.arm, r.learning_rate, r.seed) == ("a", rate, 5) else r
           for r in results]  # fmt: skip
    row = analyse(hit, rules).row("a", "L=0")
    assert row.end_states == {"ok": 7, "degraded": 1}
    assert (row.bad_ends[0].bad, row.any_bad.bad) == (1, 1)
    assert row.loss.sd < 0.02
    assert row.loss_comparison.seeds == 7


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"a_a_control": None}, "no A/A control"),
        ({"positive_control": None}, "no positive control"),
        ({"positive_control_points": ["L=9"]}, "no positive control"),
        ({"a_a_control": "b"}, "differs from the baseline"),
        ({"positive_control": "again", "a_a_control": "c"}, "did not fire"),
    ],
)
def test_without_working_controls_nothing_is_said(changes, why):
    scenario = quiet(a=Truth(-0.3, sd=0.005), b=Truth(-0.3, sd=0.005), c=Truth(sd=0.005))
    row = one(scenario, **changes).row("a", "L=0")
    assert row.loss_comparison.verdict == "unresolved"
    assert why in row.loss_comparison.reason


def test_the_controls_are_no_members_of_the_family():
    analysis = one(Scenario("", TWO, points=2))
    assert analysis.family == 2 * 2 * 2
    assert {row.role for row in analysis.rows} == {"baseline", "arm", "a_a_control", "positive_control"}
    assert all(row.loss_comparison.verdict == "worse" for row in analysis.rows if row.arm == "broken")


def test_a_graded_control_shows_what_a_small_difference_looks_like():
    scenario = quiet(a=Truth(sd=0.005), shorter=Truth(0.05, sd=0.005))
    results, rules = simulate(scenario, 3)
    row = analyse(results, replace(rules, sensitivity_control="shorter")).row("shorter", "L=0")
    assert row.role == "sensitivity_control"
    assert row.loss_comparison.verdict == "worse"
    assert row.loss_comparison.low < 0.05 < row.loss_comparison.high
    assert [at.at for at in row.bad_ends] == ["x1"]


def test_tuned_at_the_edge_an_arm_may_be_better_and_never_worse():
    low = tuple(10**x for x in (-3.5, -3.0, -2.5, -2.0))
    for effect, verdict in ((-1.0, "better"), (0.5, "unresolved")):
        arms = {"base": Truth(sd=0.005, optimum=-2.6), "a": Truth(effect, -1.9, sd=0.005)}
        row = one(Scenario("", arms, paired=0.002, rates=low)).row("a", "L=0")
        assert (row.optimum.interior, row.loss_comparison.verdict) == (False, verdict)


def test_a_part_of_a_sweep_gives_a_part_of_the_table():
    scenario = quiet(a=Truth(-0.3, sd=0.005), b=Truth(sd=0.005))
    analysis = one(scenario, drop=lambda r: r.arm == "b" or (r.arm == "a" and r.seed == 7))
    assert analysis.row("b", "L=0") is None
    row = analysis.row("a", "L=0")
    assert (row.loss_comparison.verdict, row.missing) == ("unresolved", 3)
    assert row.loss_comparison.reason == "1 runs are missing"
    assert analyse([], simulate(scenario, 0)[1]).rows == []


def test_a_verdict_stands_when_seeds_are_added_and_each_look_spends_its_share():
    arms = {"a": Truth(-0.3, sd=0.005), "b": Truth(sd=0.005)}
    early = replace(quiet(**arms), looks=(5, 8))
    results, rules = simulate(early, 4)
    first = [r for r in results if r.seed in (0, 1, 2, 3, 4) or r.seed >= 1000]
    at_first = analyse(first, rules)
    assert at_first.row("a", "L=0").loss_comparison.claims == ["better"]
    assert at_first.row("a", "L=0").loss_comparison.verdict == "better"
    left_off = [r for r in results if not (r.arm == "a" and r.seed in (5, 6, 7))]
    whole = analyse(left_off, rules)  # of which all was said, and no more seeds ran
    assert whole.row("a", "L=0").loss_comparison.verdict == "better"
    assert whole.levels[0] < whole.levels[1]
    assert sum(whole.levels) < 0.05


def test_equal_time_is_a_comparison_of_its_own():
    scenario = quiet(a=Truth(-0.1, sd=0.005))
    results, rules = simulate(scenario, 5)
    row = analyse(results, rules).row("a", "L=0")
    rate = analyse(results, rules).row("base", "L=0").bad_ends[0].rate
    longer = [
        replace(r, arm="base as long as a", val_loss=r.val_loss - 0.15)
        for r in results
        if (r.arm, r.learning_rate) == ("base", rate) and r.seed < 1000
    ]
    timed = replace(rules, arms=[*rules.arms, "base as long as a"], equal_time={("a", "L=0"): "base as long as a"})
    analysis = analyse([*results, *longer], timed)
    row = analysis.row("a", "L=0")
    assert (row.loss_comparison.verdict, row.equal_time.verdict) == ("better", "worse")
    assert analysis.family == 3


def test_a_design_that_cannot_answer_says_what_would_suffice():
    names = [f"a{k}" for k in range(30)]
    few = Rules(
        arms=["base", *names], points=["p"], baseline="base", tuning_seeds=[1000], reporting_seeds=[0, 1, 2, 3, 4]
    )
    stability, loss, tuning = design_warnings(few)
    assert "7 seeds" in stability
    assert "standard deviations" in loss
    assert "two tuning seeds" in tuning
    assert smallest_p(8) <= 0.045 / 60 < smallest_p(6)
    assert design_warnings(replace(few, tuning_seeds=[1000, 1001], reporting_seeds=list(range(9)))) == []
    assert design_warnings(replace(few, arms=["base"])) == []


@pytest.mark.parametrize(("n", "level"), [(4, 0.05), (8, 0.0075), (12, 0.001)])
def test_the_smallest_detectable_difference_has_its_power_at_its_own_level(n, level):
    smallest = detectable_difference(1.0, n, level)
    draws = np.random.default_rng(n).normal(smallest, 1.0, (20000, n))
    t = draws.mean(1) / draws.std(1, ddof=1) * n**0.5
    from scipy import stats

    assert np.mean(t > stats.t.isf(level / 2, n - 1)) == pytest.approx(0.8, abs=0.02)
    assert detectable_difference(1.0, n, level, 0.3) == pytest.approx(smallest + 0.3)


def test_simulated_losses_are_what_was_ordered():
    draw = np.random.default_rng(0)
    values = losses(Truth(0.5, -2.0, failures=0.2), np.array([1e-2, 1e-1]), np.arange(4000), np.zeros(4000), draw)
    assert np.nanmean(values, axis=1) == pytest.approx([2.5, 3.5], abs=0.01)
    assert np.isnan(values).mean() == pytest.approx(0.2, abs=0.02)


NAMES = ("optima off the grid, 16 seeds", "every arm fails in 5 % of its runs, 8 seeds", "like a GPU, 16 seeds")
QUICKLY = [scenario for scenario in simulation.NULLS if scenario.name in NAMES]


@pytest.mark.parametrize("scenario", QUICKLY, ids=lambda scenario: scenario.name)
def test_false_verdicts_are_rare(scenario):
    found = study(scenario, 40)
    assert found.false <= 5  # at a true 5 %, more than that in 1 of 70
    assert np.mean(found.covered["difference"]) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("scenario", simulation.NULLS, ids=lambda scenario: scenario.name)
def test_any_false_verdict_is_said_in_at_most_five_percent(scenario):
    found = study(scenario, 2000)
    print(simulation.line(scenario, found))
    assert found.false / found.sweeps <= 0.05
    assert found.interval(found.false)[1] < 0.065
    assert found.voided / found.sweeps < 0.065
    for name, held in found.covered.items():
        assert np.mean(held) >= 0.93, name


@pytest.mark.slow
@pytest.mark.parametrize("scenario", simulation.ALTERNATIVES, ids=lambda scenario: scenario.name)
def test_what_is_true_is_found(scenario):
    found = study(scenario, 1000)
    print(simulation.line(scenario, found))
    assert found.interval(found.false)[1] < 0.065
    if "0.10 nat" in scenario.name:
        assert found.power / found.sweeps >= 0.8


def test_at_common_rates_stability_rests_on_no_tuning():
    """An arm that fails at 0.03 and a baseline that does not, whose best rates are known to half a rung only."""
    rates = tuple(10**x for x in (-3.0, -2.5, -2.0, -1.5))
    arms = {"base": Truth(optimum=-2.3), "a": Truth(optimum=-1.95, cliff=0.2)}
    at_multiples = Scenario("", arms, rates=rates)
    assert said(one(at_multiples))["a", "L=0", "stability"] == "unresolved"
    analysis = one(replace(at_multiples, extra={"multiples": (1.0,), "common": (1e-2, 3e-2)}))
    row = analysis.row("a", "L=0")
    assert row.stability_comparison.verdict == "less stable"
    assert [at.at for at in row.bad_ends] == ["x1", "0.01", "0.03"]
    assert row.any_bad.bad >= row.bad_ends[2].bad >= 6
    assert row.trains_to[0] == 0.01
    assert [at.at for at in analysis.row("broken", "L=0").bad_ends] == ["x1"]
    at_multiples = said(one(replace(at_multiples, arms=arms | {"a": Truth(optimum=-1.95)})))
    assert at_multiples["a", "L=0", "stability"] != "less stable"
