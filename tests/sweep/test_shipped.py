"""The sweeps in recipes/sweeps: each can be run, has both controls, and the zoo has every kind."""

import math
from pathlib import Path

import pytest

from resformer.model.specification import KINDS
from resformer.sweeps.analysis import analyse
from resformer.sweeps.config import parse_sweep
from resformer.sweeps.detectable import design_warnings
from resformer.sweeps.results import Result
from resformer.sweeps.trials import Sweep, Trial
from resformer.sweeps.wanted import bounds, wanted

FILES = sorted((Path(__file__).parents[2] / "recipes" / "sweeps").glob("*.yaml"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_is_a_sweep_with_an_aa_arm_and_an_arm_known_to_break(file):
    sweep = Sweep(parse_sweep(["--config", str(file)]))
    controls = sweep.config.controls
    assert sweep.folder.name == file.stem
    assert sweep.arms[controls.a_a_control] == sweep.arms[controls.baseline]
    assert sweep.arms[controls.positive_control] == {"model.residual": "plain"}
    changed = {arm for arm, keys in sweep.arms.items() if set(keys) - {"model.residual"}}
    assert changed == set(sweep.because)  # whoever gets something of its own says why


def test_they_are_what_was_promised_in_both_sizes():
    names = {"quick", "lr-sensitivity", "depth-ladder", "zoo"}
    assert {file.stem for file in FILES} == names | {f"{name}-gpu" for name in names}


@pytest.mark.parametrize("name", ["zoo", "zoo-gpu"])
def test_the_zoo_has_every_kind(name):
    file = next(file for file in FILES if file.stem == name)
    arms = parse_sweep(["--config", str(file)]).arms.values()
    residuals = {arm["model.residual"] for arm in arms}
    assert residuals >= set(KINDS) - {"prores"}  # its warm-up is one of far longer runs by default
    assert {residual.split("(")[0] for residual in residuals} == set(KINDS)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_each_has_seeds_enough_for_what_it_compares(file):
    rules = Sweep(parse_sweep(["--config", str(file)])).rules()
    assert bool(design_warnings(rules)) == (file.stem == "zoo")  # a survey, and its dry run says what it cannot answer
    assert rules.sensitivity_control == "pre short"


def finished(sweep: Sweep, place: float) -> dict[Trial, Result]:
    """All that a sweep wants, where the loss is a parabola over the logarithm of the rate with its vertex there."""
    results: dict[Trial, Result] = {}
    while missing := [trial for trial in wanted(sweep, results.values()) if trial not in results]:
        for trial in missing:
            far = math.log10(trial.learning_rate) - place
            effect = {"highway": -0.1, "plain": 1.5}.get(trial.arm, 0.0)
            loss = 2 + effect + far * far + 0.01 * math.sin(trial.seed + 10 * far)
            results[trial] = Result(trial.arm, trial.point, trial.learning_rate, trial.seed, loss, 5.5, "ok")
    return results


def test_at_equal_time_an_arm_is_compared_with_the_baseline_trained_for_longer():
    file = next(file for file in FILES if file.stem == "lr-sensitivity")
    config = parse_sweep(["--config", str(file)])
    sweep = Sweep(config)
    results = finished(sweep, -2.1)
    few, many = bounds(sweep)
    assert few <= len(results) <= many
    analysis = analyse(results.values(), sweep.rules())
    best = {row.arm: row.optimum.rate for row in analysis.rows}
    longer = {(trial.learning_rate, trial.seed) for trial in results if trial.arm == "pre for as long as highway"}
    assert longer == {(best["pre"], seed) for seed in config.seeds.reporting}
    rows = {row.arm: row for row in analysis.rows}
    assert rows["highway"].equal_time.verdict == "better"
    assert rows["post"].equal_time is None and rows["pre for as long as highway"].role == "equal_time"


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ({"highway": "nobody"}, "there is no arm 'nobody'"),
        ({"highway": "pre"}, "'pre' is the baseline or a control"),
        ({"highway": "post", "post": "deepnorm"}, "post cannot be compared and compared with"),
    ],
)
def test_equal_time_between_arms_that_cannot_be_is_one_line(pairs, said):
    config = parse_sweep(["--config", str(next(file for file in FILES if file.stem == "lr-sensitivity"))])
    config.controls.equal_time = pairs
    with pytest.raises(ValueError, match=said) as refused:
        config.check()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["quick", "lr-sensitivity", "depth-ladder"])
@pytest.mark.parametrize("place", [-2.0, -2.23, -3.5])
def test_as_many_trials_as_the_plan_says(name, place):
    """However the optima lie: on a rung, between two, or at the edge."""
    sweep = Sweep(parse_sweep(["--config", str(next(file for file in FILES if file.stem == name))]))
    results = finished(sweep, place)
    few, many = bounds(sweep)
    assert few <= len(results) <= many
