"""Whole runs: what they leave behind, exact resume, several processes, interruption, refusals."""

import json
import shutil
import sys

import pytest
import torch
import yaml

from resformer.training.launch import default_precision

TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
MIXED = ("--model.residual", "[{attention: peri, mlp: rezero}, gru]", "--model.hidden_dropout", "0.1")


@pytest.fixture(scope="module")
def finished(train):
    result = train("finished", *MIXED, "--train.micro_batch_size", "4")
    assert result.returncode == 0, result.stderr
    return result


def test_a_run_leaves_what_it_promises(train, finished):
    folder, summary = train.folder / "finished", train.summary("finished")
    assert summary["status"] == "completed"
    assert summary["tokens"] == 8 * 8 * 32
    assert summary["val_bits_per_byte"] == pytest.approx(summary["val_loss"] / 0.6931471805599453, rel=1e-6)
    assert {"versions", "data_fingerprint", "seeds", "parameters", "zlib_bits_per_byte"} <= set(summary)
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == ["step-00000004", "step-00000008"]
    steps = [line["step"] for line in train.metrics("finished")]
    assert steps == [2, 4, 4, 6, 8, 8]
    losses = [line["loss"] for line in train.metrics("finished") if "loss" in line]
    assert losses[-1] < losses[0]
    assert "a sample" in finished.stdout
    assert "zlib" in finished.stdout


def test_the_model_loads_with_hugging_face(train, finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

    import resformer  # noqa: F401

    path = train.folder / "finished" / "model"
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    text = pipeline("text-generation", model=model, tokenizer=tokenizer)("the ", max_new_tokens=5, do_sample=True)
    assert text[0]["generated_text"].startswith("the ")
    batch = tokenizer(["the quick", "a"], return_tensors="pt", padding=True)
    assert model.generate(**batch, max_new_tokens=4, num_beams=2).shape[0] == 2


def test_a_finished_run_says_so_and_changes_nothing(train, finished):
    before = (train.folder / "finished" / "summary.json").read_bytes()
    result = train("finished", *MIXED, "--train.micro_batch_size", "4")
    assert result.returncode == 0
    assert "is complete" in result.stdout
    assert (train.folder / "finished" / "summary.json").read_bytes() == before


def test_a_run_killed_before_its_results_stand_writes_them(train, finished):
    whole = train.folder / "finished"
    cut = train.folder / "cut"
    shutil.copytree(whole, cut)
    summary = json.loads((cut / "summary.json").read_text())
    (cut / "summary.json").write_text(json.dumps(summary | {"step": summary["step"] - 1}))  # of an earlier end
    (cut / "report.html").unlink()
    result = train("cut", *MIXED, "--train.micro_batch_size", "4")
    assert result.returncode == 0, result.stderr
    assert (cut / "report.html").exists()
    assert train.summary("cut")["val_loss"] == train.summary("finished")["val_loss"]
    assert train.summary("cut")["step"] == summary["step"]


def test_another_precision_is_refused(train, finished):
    cut = train.folder / "other-precision"
    shutil.copytree(train.folder / "finished", cut)
    (cut / "summary.json").unlink()
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--mixed_precision")
    own = default_precision()
    other = "no" if own == "bf16" else "bf16"
    for precision, words in {other: f"--mixed_precision {own}", "fp16": "fp16"}.items():
        result = train(cut.name, *MIXED, "--train.micro_batch_size", "4", launcher=(*launcher, precision))
        assert result.returncode
        assert sum(line.startswith("error: ") and words in line for line in result.stderr.splitlines()) == 1


@pytest.mark.parametrize("optimizer", ["muon", pytest.param("adamw", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_never_killed(train, finished, optimizer):
    whole, parts = ("finished", "resumed") if optimizer == "muon" else ("whole-adamw", "resumed-adamw")
    flags = (*MIXED, "--train.micro_batch_size", "4", "--optimizer.name", optimizer)
    if optimizer != "muon":
        assert train(whole, *flags).returncode == 0
    shutil.copytree(train.folder / whole, train.folder / parts)
    for gone in ("checkpoints/step-00000008", "model"):
        shutil.rmtree(train.folder / parts / gone)
    (train.folder / parts / "summary.json").unlink()
    assert train(parts, *flags).returncode == 0
    last = "checkpoints/step-00000008"
    one, two = ((train.folder / run / last) for run in (whole, parts))
    assert (one / "model.safetensors").read_bytes() == (two / "model.safetensors").read_bytes()
    assert (one / "optimizers.safetensors").read_bytes() == (two / "optimizers.safetensors").read_bytes()
    assert train.metrics(whole) == train.metrics(parts)


def test_two_processes_equal_one_with_accumulation(train):
    flags = ("--model.residual", "post*1,highway*1", "--train.micro_batch_size", "4")
    one, two = train("one", *flags), train("two", *flags, launcher=TWO)
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    assert train.summary("two")["processes"] == 2
    for a, b in zip(train.metrics("one"), train.metrics("two"), strict=True):
        assert a == pytest.approx(b, rel=1e-6)


def test_divergence_stops_with_everything_saved(train):
    result = train(
        "diverged", "--optimizer.name", "sgd", "--optimizer.learning_rate", "1e6", "--optimizer.max_grad_norm", "0"
    )
    assert result.returncode == 3
    summary = train.summary("diverged")
    assert summary["status"] == "diverged"
    last = train.metrics("diverged")[-1]
    assert last["event"] == "stop"
    assert last["step"] == summary["step"] == last["batch"]  # what is saved is the state before that batch
    assert (train.folder / "diverged" / "checkpoints" / f"step-{summary['step']:08d}").exists()


def test_refusals_are_one_line_exit_two_and_touch_nothing(train, finished):
    before = {p: p.stat().st_mtime_ns for p in (train.folder / "finished").rglob("*") if p.is_file()}
    for flags, named in (
        ((*MIXED, "--train.micro_batch_size", "4", "--seed", "1"), "seed"),
        ((*MIXED, "--data.source", "nowhere.txt"), "nowhere.txt"),
        ((*MIXED, "--data.tokenizer", "./no-such-tokenizer"), "no-such-tokenizer"),
    ):
        result = train("finished", *flags)
        assert result.returncode == 2, (flags, result.stderr)
        lines = [line for line in result.stderr.splitlines() if line.strip()]
        assert len(lines) == 1, result.stderr
        assert named in lines[0]
    assert before == {p: p.stat().st_mtime_ns for p in (train.folder / "finished").rglob("*") if p.is_file()}


def test_trackers_log_what_metrics_say(train):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    result = train("tracked", "--trackers", "[tensorboard]")
    assert result.returncode == 0, result.stderr
    folder = train.folder / "tracked" / "trackers" / "resformer"
    events = EventAccumulator(str(folder))
    events.Reload()
    for name in ("loss", "val_loss", "grad_norm", "learning_rate"):
        expected = [(line["step"], line[name]) for line in train.metrics("tracked") if name in line]
        logged = events.Scalars(name)
        assert [event.step for event in logged] == [step for step, _ in expected]
        assert [event.value for event in logged] == pytest.approx([value for _, value in expected], rel=1e-6)
    (start,) = events.Scalars("stream_rms/001.mlp")
    assert start.step == 0 and start.value > 0
    (final,) = events.Scalars("final/val_loss")
    assert (final.step, final.value) == (8, pytest.approx(train.summary("tracked")["val_loss"]))
    (written,) = folder.glob("*/hparams.yml")
    assert yaml.safe_load(written.read_text())["model.residual"] == "pre"


def test_a_tracker_that_is_not_there_is_one_line(train):
    result = train("untracked", "--trackers", "[tensorbored]")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "tensorbored" in result.stderr


@pytest.mark.slow
def test_the_precision_of_the_launch_is_kept(train, finished):
    launcher = (sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--mixed_precision")
    other = "no" if default_precision() == "bf16" else "bf16"
    assert f"precision {other}" in train("other", launcher=(*launcher, other)).stdout
    assert f"precision {default_precision()}" in finished.stdout


@pytest.mark.parametrize(("able", "expected"), [({"avx2": True}, "no"), ({"avx512_bf16": True}, "bf16"),
                                                ({"neon": True, "bf16": True}, "bf16"), ({}, "no")])  # fmt: skip
def test_a_cpu_that_has_no_bfloat16_trains_in_float32(monkeypatch, able, expected):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert default_precision() == expected
