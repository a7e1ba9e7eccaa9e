"""Claims of trained models: each is a sweep that can be, what is read of its runs, and what is asked of a model."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.claims import CLAIMS, edge, page
from resformer.claims.edge import FullBatch
from resformer.claims.studies import SIZES
from resformer.claims.swept import BLOCKS, RATE, WARMUP, Trained, last_look, steps_to
from resformer.claims.terms import COLUMNS
from resformer.claims.trained_looks import Lesions, Profile, Reads, Withheld
from resformer.stability import curvature
from resformer.stability.lesion import lesion
from resformer.stability.propagation import random_batch
from resformer.sweeping import as_sweep_config
from resformer.sweeps.trials import Sweep

TRAINED = [claim for claim in CLAIMS.values() if isinstance(claim.study, Trained)]


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.name)
def test_it_is_a_sweep_that_can_be(claim, tmp_path):
    for size in claim.study.sizes:
        assert size in SIZES
        config = as_sweep_config(claim.study.definition(tmp_path, size), {})
        points = 1 if claim.study.x == RATE else len(claim.study.values[size])
        assert len(Sweep(config).runs) == len(claim.study.arms) * points
        assert claim.study.minutes(size) > 0


@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.name)
def test_its_criteria_ask_for_arms_and_x_that_are_run(claim):
    """A table of invented numbers at every arm, x, seed and layer of the study has all that its criteria read."""
    study = claim.study
    metrics = ("loss", "excess", "failed", "gradient_spikes", "steps_to_bar", "early_share", "useful_share",
               "withheld_early", "withheld_recent", "non_convexity", "gradient_change", "lesion_increase",
               *study.recorded)  # fmt: skip
    for size in study.sizes:
        layers = range(-1, 1 if study.x == RATE else min(int(max(study.values[size])), 30))
        rows = [(arm, x, seed, layer, metric, 0.0 if metric == "failed" else 1.0 + seed / 9)
                for arm in study.arms for x in study.values[size] for seed in range(study.seeds)
                for layer in layers for metric in metrics]  # fmt: skip
        assert len(claim.judged(pd.DataFrame(rows, columns=COLUMNS)).estimates) == len(claim.criteria)


def test_steps_to_a_loss_are_counted_on_a_smoothed_curve():
    losses = [4.0] * 20 + [1.0] + [4.0] * 9 + [2.0] * 20  # one lucky batch is no arrival
    metrics = pd.DataFrame({"step": range(1, 51), "loss": losses})
    assert steps_to(metrics, 2.5) == 38  # the last ten steps hold eight of 2.0 and two of 4.0: 2.4
    assert steps_to(metrics, 1.0) == 50


def test_the_last_look_is_of_streams_after_blocks():
    frame = pd.DataFrame(
        [(10, 0, "mlp", "stream_rms", 1.0), (20, 0, "attention", "stream_rms", 2.0), (20, 0, "mlp", "stream_rms", 3.0),
         (20, -1, "embedding", "stream_rms", 4.0), (20, 0, "mlp", "kurtosis", 5.0)],
        columns=["step", "layer", "sublayer", "metric", "value"])  # fmt: skip
    assert list(last_look(frame, ("stream_rms",))) == [(0, "stream_rms", 3.0), (-1, "stream_rms", 4.0)]


def model_of(residual, seed=0):
    torch.manual_seed(seed)
    config = ResformerConfig(vocab_size=31, hidden_size=16, num_attention_heads=2, num_hidden_layers=8,
                             residual=residual, initializer_range=0.3)  # fmt: skip
    return ResformerForCausalLM(config).eval()


@pytest.fixture(scope="module")
def pre():
    return model_of("pre")


@pytest.fixture(scope="module")
def batch():
    return random_batch(31, 12, seed=0)


def asked(look, model, batch):
    return {(layer, metric): value for layer, metric, value in look(model, batch, 0)}


def test_a_plain_stream_is_read_evenly(pre, batch):
    """Every weight is 1, so that the reach of the i-th site is the mean of 1 to i + 1."""
    found = asked(Reads(), pre, batch)
    for layer in range(8):
        assert found[layer, "reach"] == pytest.approx((2 * layer + 3) / 2, rel=1e-5)
    assert 0 < found[-1, "last_share"] < found[-1, "early_share"] < 1


def test_a_lesion_of_a_block_is_the_sum_of_those_of_its_branches(pre, batch):
    parts = [row for row in lesion(pre, batch) if row[2] == "lesion_increase" and row[0] == 3]
    assert len(parts) == 2
    assert asked(Lesions(), pre, batch)[3, "lesion_increase"] == pytest.approx(sum(row[3] for row in parts))


def test_what_is_withheld_is_what_was_written_there(pre, batch):
    """Blocks that write nothing have nothing to withhold."""
    silent = model_of("pre")
    with torch.no_grad():
        for block in silent.model.layers[4:6]:  # the quarter before the last one
            block.attention.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    found = asked(Withheld(), silent, batch)
    assert found[-1, "withheld_recent"] == pytest.approx(0, abs=1e-6)
    assert abs(found[-1, "withheld_early"]) > 1e-3
    assert abs(asked(Withheld(), pre, batch)[-1, "withheld_recent"]) > 1e-3


@pytest.mark.parametrize("kind", ["hyper", "denseformer"])
def test_what_has_no_single_stream_is_not_asked_what_is_withheld(kind, batch):
    assert not asked(Withheld(), model_of(kind), batch)


def test_a_profile_has_the_weights_own_loss_in_its_middle(pre, batch):
    found = asked(Profile(points=5), pre, batch)
    with torch.no_grad():
        own = pre(**batch).loss.item()
    assert found[2, "loss_along"] == pytest.approx(own, rel=1e-5) and len(found) == 5
    assert len({round(value, 4) for value in found.values()}) == 5


def test_the_edge_against_adam_written_anew(monkeypatch):
    """Of a quadratic all is known: H is diagonal and Adam's second moments follow from its own recursion."""
    start, curvatures, rate, steps = np.array([1.0, -2.0, 3.0, 0.5]), np.array([3.0, 1.0, 0.5, 2.0]), 0.05, 30
    model = torch.nn.Module()
    model.w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float32))
    diagonal = torch.tensor(curvatures, dtype=torch.float32)
    for module in (edge, curvature):
        monkeypatch.setattr(module, "loss_of", lambda model, batch: (diagonal * model.w**2).sum() / 2)
    found = dict(edge.settled(model, {}, rate, steps))
    w, m, v, shares, losses = start, np.zeros(4), np.zeros(4), [], []
    for step in range(1, steps + 1):
        losses.append((curvatures * w**2).sum() / 2)
        gradient = curvatures * w
        m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
        rms = np.sqrt(v / (1 - 0.999**step)) + 1e-7
        w = w - rate * m / (1 - 0.9**step) / rms
        if step in {round(steps * (1 - share / 3)) for share in np.linspace(0, 1, edge.LOOKS)}:
            shares.append((curvatures / rms).max() * rate / 38)
    assert found["of_the_edge"] == pytest.approx(np.mean(shares), rel=1e-3)
    assert found["fell"] == pytest.approx(losses[0] - losses[-1], rel=1e-3)


def test_arms_alone_are_drawn_side_by_side_and_others_over_x():
    frame = pd.DataFrame([(arm, 4, seed, -1, "loss", 2.0 + seed) for arm in "ab" for seed in range(3)], columns=COLUMNS)
    claim = next(claim for claim in TRAINED if claim.name == "seed-noise")
    stored = SimpleNamespace(table=frame, result=SimpleNamespace(verdict="unresolved", estimates=[]))

    def marks():
        spec = page.figure(claim, stored).panels[0].chart.to_dict()
        return {layer["mark"]["type"] for layer in spec["layer"]}

    assert marks() == {"point", "tick"}
    stored.table = pd.concat([frame, frame.assign(x=8)])
    assert "line" in marks()


@pytest.fixture
def tiny(tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(f"line {i * i % 97} of some {i % 7} words\n" for i in range(3000)))
    return {"data.source": str(text), "data.cache_dir": str(tmp_path / "cache"), "data.sequence_length": 16,
            "data.tokenizer": "bytes", "data.validation_fraction": 0.1, "model.hidden_size": 16,
            "model.num_attention_heads": 2, "train.batch_size": 4, "train.compile": False,
            "schedule.warmup_steps": 1}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("claim", TRAINED, ids=lambda claim: claim.name)
def test_it_runs_at_a_tiny_size(claim, tiny, tmp_path):
    """At both sizes, as far as the machinery goes: a dozen steps, or its warm-up, and at most four blocks."""
    study = claim.study
    for size in study.sizes:
        few = {size: (4,) if study.x == BLOCKS else study.values[size][:2]}
        warmups = [arm.get(WARMUP, 0) for arm in study.arms.values()] + list(few[size] if study.x == WARMUP else ())
        steps = {size: max(12, *warmups)}
        small = dataclasses.replace(study, seeds=2, steps=steps, values=few, base={**study.base, **tiny})
        found = small.table(tmp_path / size, size)
        assert set(found.arm) == set(study.arms) and set(found.seed) == {0, 1}
        assert {"loss", "excess", "failed"} <= set(found.metric)
        assert np.isfinite(found[found.metric == "loss"].value).all()


@pytest.mark.slow
def test_a_study_goes_on_where_it_stood_and_is_looked_at_anew(tiny, tmp_path):
    study = Trained({"pre": {"model.residual": "pre"}}, {"gpu": (1,)}, seeds=3, base=tiny, looks=(Profile(points=3),),
                    recorded=("stream_rms",), steps={"gpu": 4}, bar=100.0)  # fmt: skip
    found = study.table(tmp_path / "one", "gpu")
    assert {"loss", "failed", "steps_to_bar", "loss_along", "stream_rms"} <= set(found.metric)
    assert sorted(found.seed.unique()) == [0, 1, 2] and set(found.x) == {1}
    summaries = sorted(tmp_path.glob("one/*/trials/*/summary.json"))
    before = [file.stat().st_mtime_ns for file in summaries]
    assert len(before) == 3 and study.table(tmp_path / "one", "gpu").equals(found)
    assert [file.stat().st_mtime_ns for file in summaries] == before


@pytest.mark.slow
def test_the_edge_of_a_small_model_is_a_number(tmp_path):
    keys = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "sequences": 4, "sequence_length": 16,
            "steps": 20}  # fmt: skip
    found = FullBatch((1e-3,), 2, {"laptop": keys}, seconds=5).table(tmp_path, "laptop")
    assert (found[found.metric == "of_the_edge"].value > 0).all() and (found[found.metric == "fell"].value > 0).all()
