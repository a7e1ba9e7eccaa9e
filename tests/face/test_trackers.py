"""Trackers are told what the files of a run say: what it was given, each metric, each layer, the final figures."""

import json
import os
import sqlite3
import subprocess
import sys

import pytest
from accelerate import tracking
from face_helpers import tiny

import resformer
from resformer.keys import flat
from resformer.stability.rows import WHOLE


class Recording(tracking.GeneralTracker):
    """Keeps what it is told, as any tracker of accelerate's is."""

    name = "recording"
    requires_logging_directory = False
    told: dict[str, list] = {}

    def __init__(self, run_name: str, **options):
        super().__init__()
        self.told.update(started=[run_name], configurations=[], lines=[], finished=[])

    @property
    def tracker(self):
        return self.told

    def store_init_configuration(self, values: dict):
        self.told["configurations"].append(values)

    def log(self, values: dict, step: int | None = None, **options):
        self.told["lines"].append((step, values))

    def finish(self):
        self.told["finished"].append(True)


class Failing(Recording):
    name = "failing"

    def start(self):
        raise RuntimeError("no key\nno door")


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setattr(tracking, "LOGGER_TYPE_TO_CLASS", tracking.LOGGER_TYPE_TO_CLASS)
    for one in (Recording, Failing):
        monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, one.name, one)


def test_a_tracker_is_told_what_the_files_of_the_run_say(registered, text, tmp_path):
    told = tiny(text) | {"draw": False, "trackers": ["recording"], "run_dir": str(tmp_path / "run")}
    run = resformer.train(residual="pre*1,hyper*1", **told)
    told = Recording.told
    assert told["started"] == ["resformer"] and told["finished"]
    (configuration,) = told["configurations"]
    expected = flat(run.config.as_dict())
    assert set(configuration) == set(expected)
    assert all(json.loads(json.dumps(configuration[k])) in (v, json.dumps(v)) for k, v in expected.items())
    heard = {(step, name): value for step, values in told["lines"] for name, value in values.items()}
    for line in run.metrics.to_dict("records"):
        for name, value in line.items():
            if name != "step" and value == value:  # what a line does not have is NaN in the table
                assert name == "tokens" or heard[line["step"], name] == value
    layers = run.layers[~run.layers.metric.isin(["train_loss", "train_gradient_norm", "clip_coefficient"])]
    deep = layers[layers.layer != WHOLE]
    assert {(row.layer, row.sublayer) for row in deep.itertuples()} >= {(0, "attention"), (0, "mlp"), (1, "mlp")}
    for row in deep.itertuples():
        assert heard[row.step, f"{row.metric}/{row.layer:03d}.{row.sublayer}"] == row.value
    summary = {name: value for name, value in run.summary.items() if isinstance(value, (int, float, str))}
    assert {"val_loss", "val_bits_per_byte", "end_state", "parameters"} <= set(summary)
    for name, value in summary.items():
        assert heard[4, f"final/{name}"] == value


def test_a_tracker_that_does_not_start_is_one_line(registered, text, tmp_path):
    with pytest.raises(ValueError, match="no key"):
        resformer.train(run_dir=str(tmp_path / "run"), trackers=["failing"], **tiny(text))


@pytest.mark.slow
def test_trackio_and_wandb_keep_it_on_this_machine(text, tmp_path):
    for name in ("trackio", "wandb"):
        pytest.importorskip(name)
    script = f"""
import resformer
resformer.train(run_dir={str(tmp_path / "run")!r}, trackers=["trackio", "wandb"], draw=False, **{tiny(text)!r})
"""
    own = {"TRACKIO_DIR": str(tmp_path / "trackio"), "WANDB_MODE": "offline"}
    subprocess.run([sys.executable, "-c", script], env=os.environ | own, check=True, capture_output=True, timeout=300)
    run = resformer.open_run(tmp_path / "run")
    with sqlite3.connect(tmp_path / "trackio" / "resformer.db") as store:
        lines = [(step, json.loads(values)) for step, values in store.execute("select step, metrics from metrics")]
    heard = {(step, name): value for step, values in lines for name, value in values.items()}
    losses = run.metrics.dropna(subset=["loss"])
    assert [heard[step, "loss"] for step in losses.step] == pytest.approx(list(losses.loss))
    assert heard[4, "final/val_loss"] == pytest.approx(run.summary["val_loss"])
    (kept,) = (tmp_path / "run" / "trackers" / "wandb").glob("offline-run-*/run-*.wandb")
    for name in ("learning_rate", "stream_rms/001.mlp", "final/val_loss", "model.residual"):
        assert name.encode() in kept.read_bytes()
        assert name == "model.residual" or any(name == heard_name for _, heard_name in heard)
