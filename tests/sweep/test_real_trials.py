"""Trials of recipes/train.py in a worker that has run others before: what a process of their own would have given."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from sweep_helpers import ROOT, definition, environment

from resformer.files import write_yaml
from resformer.keys import flat
from resformer.sweeps.config import ExecutorConfig, parse_sweep
from resformer.sweeps.executor_local import LocalExecutor
from resformer.sweeps.outcomes import TornTrial, read_outcome
from resformer.sweeps.running import make_job
from resformer.sweeps.state import State
from resformer.sweeps.trials import Sweep, Trial

TRAIN = str(ROOT / "recipes" / "train.py")
PROGRAM = "resformer.training:Trainer"


def real_sweep(folder: Path, executor: dict | None = None) -> Sweep:
    whole = definition(folder, executor=executor or {}, program=PROGRAM)
    whole["base"] |= {"train.max_steps": 6, "train.batch_size": 4, "model.hidden_dropout": 0.1}
    file = folder / "real.yaml"
    file.write_text(yaml.safe_dump(whole))
    return Sweep(parse_sweep(["--config", str(file)]))


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines]


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    executors = []

    def make(**options) -> LocalExecutor:
        executors.append(LocalExecutor(ExecutorConfig(workers=1, **options)))
        return executors[-1]

    yield make
    for executor in executors:
        executor.close()


def run(executor: LocalExecutor, job) -> int:
    executor.submit(job)
    deadline = time.monotonic() + 240
    ended: list = []
    while not ended and time.monotonic() < deadline:
        ended = executor.wait(5)
    return ended[0].exit_code if ended else -1


@pytest.mark.slow
def test_a_worker_s_third_trial_equals_a_process_of_its_own(tmp_path, worker):
    sweep, executor = real_sweep(tmp_path), worker()
    trials = [Trial("plain", "num_hidden_layers=2", 1e-2, 9), Trial("post", "num_hidden_layers=1", 3e-3, 0),
              Trial("pre", "num_hidden_layers=2", 3e-3, 1)]  # fmt: skip
    assert [run(executor, make_job(State(sweep), trial)) for trial in trials] == [0, 0, 0]
    assert len(executor.workers) == 1
    folder = sweep.run_dir(trials[-1])
    write_yaml(tmp_path / "alone.yaml", sweep.run_config(trials[-1]).as_dict())
    alone = [sys.executable, TRAIN, "--config", str(tmp_path / "alone.yaml"), "--run_dir", str(tmp_path / "alone")]
    environ = environment(RESFORMER_NUM_THREADS="1")
    subprocess.run(alone, check=True, capture_output=True, env=environ, timeout=300)
    assert metrics(folder) == metrics(tmp_path / "alone")
    weights = [(at / "model" / "model.safetensors").read_bytes() for at in (folder, tmp_path / "alone")]
    assert weights[0] == weights[1]
    assert "a sample" in (folder / "log.txt").read_text()


def test_the_aa_arm_shares_the_data_and_not_the_weights(tmp_path):
    sweep = real_sweep(tmp_path)
    trials = [Trial(arm, "num_hidden_layers=1", 3e-3, 1) for arm in ("pre", "again")]
    baseline, again = (flat(sweep.run_config(trial).as_dict()) for trial in trials)
    different = {key for key in baseline if baseline[key] != again[key]}
    assert different == {"init_seed", "dropout_seed", "run_dir"}


@pytest.mark.slow
def test_a_trial_of_two_processes_equals_one_of_one(tmp_path, worker):
    (tmp_path / "two").mkdir()
    sweep, twice = real_sweep(tmp_path), real_sweep(tmp_path / "two", {"processes": 2})
    trial = Trial("post", "num_hidden_layers=2", 3e-3, 0)
    one, two = worker(), worker(processes=2)
    job, other = make_job(State(sweep), trial), make_job(State(twice), trial)
    for config in (job.config, other.config):
        config.model.hidden_dropout, config.train.micro_batch_size = 0.0, 2  # the same sums on both sides
    assert (run(one, job), run(two, other)) == (0, 0)
    assert json.loads((Path(other.config.run_dir) / "summary.json").read_text())["processes"] == 2
    for a, b in zip(metrics(Path(job.config.run_dir)), metrics(Path(other.config.run_dir)), strict=True):
        assert a == pytest.approx(b, rel=1e-5)


def test_a_run_whose_first_gradient_is_not_finite_has_ended(tmp_path):
    """It made no step and logged none: what it began at stands in its summary alone, as in 200 blocks without skips."""
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 0, "tokens": 0, "event": "stop", "batch": 0, "finite_loss": true}\n'
    )
    summary = {"status": "diverged", "step": 0, "tokens": 0, "val_loss": None, "initial_loss": 5.58,
               "wall_seconds": 15.0, "unigram_entropy": 3.24,
               "end_state": "diverged", "spikes": {"loss": [], "grad_norm": []}}  # fmt: skip
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    trial = Trial("plain", "", 3e-3, 0)
    found = read_outcome(trial, tmp_path).result
    assert found.failed and found.end_state == "diverged" and found.clipped == found.initial_loss == 5.58
    (tmp_path / "summary.json").write_text(json.dumps(summary | {"status": "completed", "step": 9, "val_loss": 2.0}))
    with pytest.raises(TornTrial, match="lacks step 1"):
        read_outcome(trial, tmp_path)
