"""The instruments of a run: what they leave behind, and that they change nothing else."""

import shutil
import sys

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from resformer.stability.metrics import metric
from resformer.training.probing import open_target

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
FLAGS = ("--model.residual", "highway*1,hyper(n=2)*1", "--train.micro_batch_size", "4", "--train.record_every", "2")


def layers(train, run) -> pd.DataFrame:
    return pd.read_parquet(train.folder / run / "layers.parquet")


@pytest.fixture(scope="module")
def recorded(train):
    result = train("recorded", *FLAGS)
    assert result.returncode == 0, result.stderr
    return result


def test_a_run_records_the_stream_and_shows_it(train, recorded):
    table = layers(train, "recorded")
    assert list(table.columns) == ["step", "layer", "sublayer", "metric", "value"]
    assert sorted(table[table.metric == "stream_rms"].step.unique()) == [0, 2, 4, 6, 8]
    assert sorted(table[table.metric == "train_loss"].step) == list(range(1, 9))
    assert not table.duplicated(["step", "layer", "sublayer", "metric"]).any()
    logged = {line["step"]: line for line in train.metrics("recorded") if "loss" in line}
    losses = table[table.metric == "train_loss"].set_index("step").value
    assert losses[8] == logged[8]["loss"]
    assert logged[8]["layers/accumulated_update"] > 0
    page = (train.folder / "recorded" / "report.html").read_text()
    assert "report.html" in recorded.stdout
    assert 'id="stream"' in page
    assert "http://" not in page.split("<script>")[0]
    assert train.summary("recorded")["end_state"] in ("ok", "stuck")


def test_a_run_writes_no_number_that_the_glossary_lacks(train, recorded):
    summary = train.summary("recorded")
    numbers = {name for part in (summary, summary["spikes"]) for name, value in part.items()
               if isinstance(value, (int, float))}  # fmt: skip
    logged = {name for line in train.metrics("recorded") for name in line}
    for name in (set(layers(train, "recorded").metric) | logged | numbers) - {"step", "processes"}:
        assert metric(name)


def test_recording_changes_no_weight(train, recorded):
    assert train("unrecorded", *FLAGS[:-1], "0").returncode == 0
    one, two = (train.folder / run / "model" / "model.safetensors" for run in ("recorded", "unrecorded"))
    assert one.read_bytes() == two.read_bytes()
    assert not (train.folder / "unrecorded" / "report.html").exists()


def test_a_resumed_run_records_what_a_whole_one_does(train, recorded):
    shutil.copytree(train.folder / "recorded", train.folder / "rerecorded")
    for gone in ("checkpoints/step-00000008", "model"):
        shutil.rmtree(train.folder / "rerecorded" / gone)
    assert train("rerecorded", *FLAGS).returncode == 0
    pd.testing.assert_frame_equal(layers(train, "recorded"), layers(train, "rerecorded"))
    for key in ("end_state", "spikes", "clip_rate", "initial_loss"):
        assert train.summary("recorded")[key] == train.summary("rerecorded")[key]


def test_two_processes_record_what_one_does(train, recorded):
    assert train("recorded-by-two", *FLAGS, launcher=TWO).returncode == 0
    one, two = layers(train, "recorded"), layers(train, "recorded-by-two")
    places = ["step", "layer", "sublayer", "metric"]
    pd.testing.assert_frame_equal(one[places], two[places])
    start = one.step == 0
    # Not bit for bit: each process has half the threads.
    assert two[start].value.to_numpy() == pytest.approx(one[start].value.to_numpy(), rel=1e-4, abs=1e-6)
    # After the first step gradients were summed in another order; ratios of what is almost 0 are left out.
    assert two.value.to_numpy() == pytest.approx(one.value.to_numpy(), rel=1e-2, abs=1e-4)


@pytest.mark.slow
def test_a_diverging_run_keeps_its_history_up_to_the_last_step(train):
    flags = ("--optimizer.name", "sgd", "--optimizer.learning_rate", "1e3", "--optimizer.max_grad_norm", "0",
             "--train.max_steps", "60", "--schedule.warmup_steps", "10")  # fmt: skip
    result = train("exploding", *FLAGS, *flags)
    assert result.returncode == 3, result.stderr
    summary, table = train.summary("exploding"), layers(train, "exploding")
    assert summary["end_state"] == "diverged"
    diverged = summary["divergence_step"]
    assert diverged == summary["step"] + 1 > 3  # the batch that failed was not stepped on
    assert sorted(table[table.metric == "train_gradient_norm"].step) == list(range(1, diverged + 1))
    assert "It diverged from step" in (train.folder / "exploding" / "report.html").read_text()


@pytest.mark.slow
def test_the_curvature_probe_takes_the_optimiser_s_own_second_moments(train, recorded):
    assert open_target(str(train.folder / "recorded")).second_moments() is None  # Muon moves its matrices
    result = train("of-adamw", *FLAGS, "--optimizer.name", "adamw")
    assert result.returncode == 0, result.stderr
    target = open_target(str(train.folder / "of-adamw"))
    found = target.second_moments()
    saved = load_file(target.checkpoint / "optimizers.safetensors")
    corrected = {
        name: saved[f"AdamW/{name}/exp_avg_sq"] / (1 - 0.95 ** float(saved[f"AdamW/{name}/step"]))
        for name, _ in target.model.named_parameters()
    }
    parts = found.split([p.numel() for p in target.model.parameters()])
    for part, moment in zip(parts, corrected.values(), strict=True):
        assert torch.equal(part, moment.flatten())
    earlier = open_target(str(target.checkpoint.parent / "step-00000004"))
    assert not torch.equal(earlier.second_moments(), found)
