"""Claims: what a criterion decides, what stays of a run, what is asked for wrongly, and each that needs no training."""

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from resformer.claims import CLAIMS, initial, looks, page, program, results
from resformer.claims.claim import Claim, Criterion, Plot, decide
from resformer.claims.looks import Signal
from resformer.claims.studies import Initial
from resformer.claims.terms import COLUMNS, At, AtBest, Chance, Decades, Layers, Minus, Over, Sensitivity, Slope
from resformer.stability import curvature
from resformer.sweeps.inference import Estimate

README = Path(__file__).parents[2] / "resformer" / "claims" / "README.md"


def table(*rows):
    """Of (arm, x, seed, layer, metric, value)."""
    return pd.DataFrame(rows, columns=COLUMNS)


def estimate(low, high):
    return Estimate((low + high) / 2, low, high, 1.0, math.nan, 3)


@pytest.mark.parametrize(
    ("intervals", "verdict"),
    [
        ([(0.1, 0.9)], "reproduced"),
        ([(0.1, 0.9), (0.0, 1.0)], "reproduced"),
        ([(0.1, 1.1)], "unresolved"),
        ([(0.1, 0.9), (0.1, 1.1)], "unresolved"),
        ([(1.1, 1.9)], "not reproduced"),
        ([(0.1, 0.9), (-2, -1)], "not reproduced"),
        ([(-2, -1), (math.nan, math.nan)], "not reproduced"),
        ([(math.nan, math.nan)], "unresolved"),
        ([(0.5, math.inf)], "unresolved"),
    ],
)
def test_all_must_hold_and_one_suffices_to_fail(intervals, verdict):
    criteria = [Criterion("it is", At("m", "a", 1), 0, 1)] * len(intervals)
    assert decide(criteria, [estimate(*pair) for pair in intervals]) == verdict


def test_terms_against_their_definitions():
    rng = np.random.default_rng(0)
    xs, seeds = (2, 4, 8), (0, 1, 2, 3)
    values = {(x, seed): x**1.5 * math.exp(rng.normal(0, 0.1)) for x in xs for seed in seeds}
    frame = table(*((arm, x, seed, -1, "m", value * scale) for (x, seed), value in values.items()
                    for arm, scale in (("a", 1.0), ("b", 10.0 + seed))))  # fmt: skip
    for seed in seeds:
        expected = stats.linregress(np.log(xs), [math.log(values[x, seed]) for x in xs]).slope
        assert Slope("m", "a").values(frame)[seed] == pytest.approx(expected)
        assert Over(At("m", "b", 4), At("m", "a", 4)).values(frame)[seed] == pytest.approx(10 + seed)
        assert Minus(At("m", "b", 4), At("m", "a", 4)).values(frame)[seed] == pytest.approx(
            (9 + seed) * values[4, seed]
        )
    logs = np.log10([10 + seed for seed in seeds])
    found = Decades(Over(At("m", "b", 4), At("m", "a", 4))).estimate(frame, 0.95)
    reach = stats.t.interval(0.95, 3, logs.mean(), stats.sem(logs))
    assert (found.mean, found.low, found.high) == pytest.approx((logs.mean(), *reach))
    with pytest.raises(ValueError, match="no other of a"):
        At("other", "a", 4).values(frame)
    with pytest.raises(ValueError, match="0 values of m of a at 5"):
        At("m", "a", 5).values(frame)


def test_a_gradient_of_zero_has_a_logarithm_that_float32_could_not_tell_from_it():
    frame = table(("a", 1, 0, -1, "m", 0.0), ("b", 1, 0, -1, "m", 1e-3))
    assert Decades(Over(At("m", "a", 1), At("m", "b", 1))).values(frame)[0] == pytest.approx(-45)


def test_the_mean_over_a_part_of_the_depth():
    frame = table(*(("a", 8, 0, layer, "m", float(layer)) for layer in range(-1, 8)))
    assert Layers("m", "a", 8, 0.75, 1).values(frame)[0] == 6.5
    assert Layers("m", "a", 8, 0, 0.25).values(frame)[0] == 0.5


def test_chances_have_exact_intervals():
    frame = table(
        *((arm, 1, seed, -1, "bad", float(seed < many)) for arm, many in (("a", 6), ("b", 1)) for seed in range(6))
    )
    found = Chance("bad", "a", 1).estimate(frame, 0.95)
    exact = stats.binomtest(6, 6).proportion_ci(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx((1.0, exact.low, exact.high))


def test_sensitivity_is_the_mean_over_rates_less_the_least():
    losses = {0: (3.0, 2.0, 4.0), 1: (3.5, 2.5, 2.0)}
    frame = table(*(("a", rate, seed, -1, "loss", loss) for seed, of in losses.items()
                    for rate, loss in zip((1e-3, 1e-2, 1e-1), of, strict=True)))  # fmt: skip
    assert Sensitivity("a").values(frame).to_dict() == pytest.approx({0: 1.0, 1: 8 / 3 - 2})


def test_no_seed_chooses_the_rate_it_is_read_at():
    """Seed 2 is best at the second rate, where the others are not; without it they are best at the first."""
    steps = {0: (100, 200), 1: (110, 190), 2: (300, 50)}
    frame = table(*(("a", rate, seed, -1, "steps", float(n)) for seed, of in steps.items()
                    for rate, n in zip((1e-3, 1e-2), of, strict=True)))  # fmt: skip
    assert AtBest("steps", "a", "steps").values(frame).to_dict() == {0: 200.0, 1: 190.0, 2: 300.0}


def test_smoothness_of_a_quadratic_is_known(monkeypatch):
    """The loss is ``(2 a^2 - b^2 / 2 + |rest|^2) / 2``: nothing of what is measured is a model's."""
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.tensor([3.0, 4.0] + [0.0] * 8))
    curvatures = torch.tensor([2.0, -0.5] + [1.0] * 8)
    for module in (looks, curvature):
        monkeypatch.setattr(module, "loss_of", lambda model, batch: (curvatures * model.w**2).sum() / 2)
    found = looks.curves(model, {}, looks.Curve(reach=0.01, vectors=1), seed=0)
    gradient = curvatures * model.w.detach()
    step = 0.01 * 5 / gradient.norm() * gradient
    assert found["sharpness"] == pytest.approx(2, rel=1e-3)
    assert found["trace"] == pytest.approx(9.5, rel=1e-5)
    assert found["non_convexity"] == pytest.approx(0.25, rel=1e-3)
    assert found["gradient_change"] == pytest.approx(((curvatures * step).norm() / gradient.norm()).item(), rel=1e-3)
    assert model.w.tolist()[:2] == [3.0, 4.0]


def small(name="small", low=0.0, seeds=2):
    """A claim that takes a moment."""
    return Claim(
        name, "the stream has a size", "nobody, arXiv:0000.00000", "none", "none", "one block",
        Initial({"pre": "pre"}, (1, 2), Signal(), seeds, {"hidden_size": 16, "num_attention_heads": 1}, seconds=60),
        (Criterion("its RMS", At("rms_last", "pre", 1), low=low),), (Plot("rms_last", "the stream", "RMS"),),
        "A size.", "Nothing else.", "nothing",
    )  # fmt: skip


@pytest.fixture
def catalogue(monkeypatch):
    found = {"small": small(), "large": small("large", low=1e9, seeds=3), "medium": small("medium", seeds=4)}
    for module in (program, page):
        monkeypatch.setattr(module, "CLAIMS", found)
    return found


def test_what_was_run_stays_and_what_is_torn_or_of_another_definition_is_run_again(catalogue, tmp_path, capsys):
    both = program.chosen(["small", "large"])
    assert program.run_claims(both, tmp_path) == 0
    assert "verdict      reproduced" in (said := capsys.readouterr().out) and "verdict      not reproduced" in said
    files = {name: tmp_path / name / "result" / "result.json" for name in catalogue}
    first = {name: file.stat().st_mtime_ns for name, file in files.items() if file.exists()}
    program.run_claims(both, tmp_path)
    assert {name: files[name].stat().st_mtime_ns for name in first} == first
    files["small"].write_text(files["small"].read_text()[:40])
    program.run_claims(both, tmp_path)
    assert "small: its earlier result is torn (result.json has changed" in capsys.readouterr().err
    assert files["large"].stat().st_mtime_ns == first["large"]
    assert results.read(catalogue["small"], tmp_path / "small", "laptop")[0].result.verdict == "reproduced"
    catalogue["large"] = small("large", low=0.0, seeds=3)
    program.run_claims(program.chosen(["large"]), tmp_path)
    assert "large: its earlier result is of another definition" in capsys.readouterr().err
    html = (tmp_path / "index.html").read_text()
    assert "2 of 3 claims: 2 reproduced." in html and "Not run yet: medium." in html
    assert html.index('<table id="claims"') < html.index('id="small"')
    assert "A size. Nothing else." in html
    assert (tmp_path / "figures" / "small.svg").exists() and "small" in (tmp_path / "claims.md").read_text()


def test_time_that_does_not_suffice_is_said_before_anything_runs(catalogue, tmp_path):
    with pytest.raises(ValueError, match=r"takes about 3.0 minutes, not 2.5; give --minutes 3, or ask for small large"):
        program.run_claims(program.chosen(catalogue), tmp_path, minutes=2.5)
    assert not list(tmp_path.iterdir())


def test_one_that_cannot_be_run_leaves_the_others_alone(catalogue, tmp_path, capsys):
    broken = dataclasses.replace(catalogue["small"].study, arms={"pre": "pree"})
    catalogue["small"] = dataclasses.replace(catalogue["small"], study=broken)
    assert program.run_claims(program.chosen(["small", "large"]), tmp_path) == 1
    assert "small could not be run" in capsys.readouterr().err
    assert (tmp_path / "large" / "result").exists() and not (tmp_path / "small" / "result").exists()


def test_an_interrupted_one_is_a_line_and_goes_on_later(catalogue, tmp_path, capsys, monkeypatch):
    def interrupted(self, folder, size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Initial, "table", interrupted)
        assert program.run_claims(program.chosen(["small"]), tmp_path) == 130
    assert "small was interrupted; the same call goes on with it" in capsys.readouterr().err
    assert program.run_claims(program.chosen(["small"]), tmp_path) == 0


def test_what_several_claims_share_is_counted_once(catalogue):
    catalogue["again"] = dataclasses.replace(catalogue["small"], name="again")
    both = [catalogue["small"], catalogue["again"]]
    assert program.minutes_of(both, "laptop") == catalogue["small"].study.minutes("laptop") == 1.0


def test_a_claim_that_needs_a_gpu_says_so_and_is_left_out_of_all():
    with pytest.raises(ValueError, match="hyper-loss cannot be checked at the size laptop; give --size gpu"):
        program.chosen(["hyper-loss"])
    assert "hyper-loss" not in program.of_size("laptop") and "hyper-loss" in program.of_size("gpu")
    assert re.search(r"^hyper-loss +gpu only", program.listed(), re.M)
    assert program.chosen(["hyper-loss"], "gpu")[0].study.minutes("gpu") > 0


def test_all_fit_into_two_hours():
    assert program.minutes_of(program.chosen(program.of_size("laptop")), "laptop") < 120


def test_an_unknown_claim_or_size_names_the_nearest():
    with pytest.raises(ValueError, match="no claim 'rank-colapse'; did you mean 'rank-collapse'"):
        program.chosen(["rank-colapse"])
    with pytest.raises(ValueError, match="no size 'gpus'; did you mean 'gpu'"):
        program.chosen([], "gpus")


def test_every_claim_says_what_a_reader_needs():
    for claim in CLAIMS.values():
        assert "arXiv:" in claim.source or "repository" in claim.source, claim.name
        assert claim.shows_not.startswith("Not shown:") and claim.sees.endswith("."), claim.name
        assert claim.criteria and claim.plots and claim.settles, claim.name
        for criterion in claim.criteria:
            assert criterion.low < criterion.high and math.isfinite(max(criterion.low, -criterion.high)), claim.name
        assert claim.name in program.listed()


def recorded():
    """Verdicts by claim, from the table of the room's README."""
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|.*\| (reproduced|not reproduced|unresolved) \|", README.read_text(), re.M)
    return dict(rows)


def test_the_readme_has_a_verdict_of_every_claim_that_was_run():
    assert {claim.name for claim in initial.CLAIMS} <= recorded().keys() <= CLAIMS.keys()


QUICK = 4.0
"""Seconds; the longer ones are among the slow tests."""


@pytest.mark.parametrize(
    "claim",
    [pytest.param(claim, id=claim.name, marks=[pytest.mark.slow] if claim.study.seconds > QUICK else [])
     for claim in initial.CLAIMS],
)  # fmt: skip
def test_a_claim_without_training_has_the_recorded_verdict(claim, tmp_path):
    assert results.make(claim, tmp_path, "laptop").result.verdict == recorded()[claim.name]
