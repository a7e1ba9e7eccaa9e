"""resformer.train and the run it leaves, as a person in a notebook uses them."""

import os
import signal
import subprocess
import sys
import threading

import pandas as pd
import pytest
import torch
from accelerate.state import PartialState
from face_helpers import tiny
from transformers import AutoTokenizer

import resformer
from resformer.model.residual_placement import PostNorm
from resformer.run import as_run_config
from resformer.sweeping import as_sweep_config
from resformer.training import RunConfig


def test_a_run_shows_what_its_files_say(run):
    assert run.summary["status"] == "completed"
    assert run.metrics.loss.dropna().iloc[-1] == pytest.approx(run.summary["loss"])
    assert list(run.layers.columns) == ["step", "layer", "sublayer", "metric", "value"]
    assert set(run.layers.step) == {0, 2, 4} or {2, 4} <= set(run.layers.step)
    assert run.config.train.max_steps == 4
    assert (run.folder / "report.html").exists()
    assert f"{run.summary['val_loss']:.4f}" in repr(run)


def test_its_model_answers_as_the_loss_of_the_summary_says(run, text):
    model, tokenizer = run.model(), run.tokenizer()
    assert model.config.residual == "post*1,pre*rest"
    assert not model.training
    assert tokenizer("ab").input_ids == AutoTokenizer.from_pretrained(run.folder / "model")("ab").input_ids
    tokens = torch.tensor([tokenizer(text.read_text()[-160:]).input_ids[:16]])
    assert model(input_ids=tokens, labels=tokens).loss.item() == pytest.approx(run.summary["val_loss"], abs=0.3)


def test_a_notebook_shows_tables_and_figures_without_a_network(run):
    page = run._repr_html_()
    assert "post*1,pre*rest" in page and "completed" in page
    figures = run.figures()
    assert "loss" in figures
    drawn = figures._repr_html_()
    assert drawn.count("<svg") == len(figures)
    assert "<script" not in drawn


def test_an_opened_run_is_the_run_that_was_trained(run):
    again = resformer.open_run(str(run.folder))
    pd.testing.assert_frame_equal(again.metrics, run.metrics)
    assert again.summary == run.summary
    with pytest.raises(ValueError, match="no run's folder"):
        resformer.open_run(run.folder.parent)


def test_the_same_call_is_the_same_run_and_another_call_another(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    threads, drawn = torch.get_num_threads() + 1, torch.get_rng_state()
    torch.set_num_threads(threads)
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    launched = dict(PartialState._shared_state)
    first = resformer.train(**tiny(text) | {"record_every": 0})
    written = (first.folder / "summary.json").read_bytes()
    second = resformer.train(**tiny(text) | {"record_every": 0})
    other = resformer.train(RunConfig(), **tiny(text) | {"record_every": 0, "run_dir": "mine"}, residual="peri")
    assert second.folder == first.folder
    assert (second.folder / "summary.json").read_bytes() == written
    assert str(other.folder) == "mine"
    assert other.summary["val_loss"] != first.summary["val_loss"]
    # Nothing of a run stays behind in the process.
    assert torch.get_num_threads() == threads
    torch.set_num_threads(threads - 1)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert PartialState._shared_state == launched
    (first.folder / "layers.parquet").unlink()
    with pytest.raises(ValueError, match="recorder was off"):
        _ = first.layers


def test_it_trains_in_a_thread_that_is_not_the_first(text, tmp_path):
    found = []
    thread = threading.Thread(
        target=lambda: found.append(resformer.train(run_dir=str(tmp_path / "run"), **tiny(text) | {"record_every": 0}))
    )
    thread.start()
    thread.join()
    assert found[0].summary["status"] == "completed"


def test_a_file_a_dictionary_and_keywords_say_the_same(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: {residual: peri}\nschedule: {name: wsd}\nrun_dir: here\n")
    keywords = as_run_config(None, {"residual": "peri", "schedule": {"name": "wsd"}, "run_dir": "here"})
    assert as_run_config(file, {}).as_dict() == keywords.as_dict()
    assert as_run_config({"model.residual": "peri", "schedule": {"name": "wsd"}}, {"run_dir": "here"}) == keywords
    assert as_run_config(keywords, {}) == keywords
    assert as_run_config(file, {"max_steps": 7}).train.max_steps == 7
    anew = as_run_config(RunConfig(seed=3), {"seed": 5, "on_divergence": "continue"})
    assert (anew.init_seed, anew.data_seed, anew.train.on_nonfinite) == (5, 5, "skip")
    by_sublayer = as_run_config(None, {"residual": {"attention": "pre", "mlp": "peri"}})
    assert by_sublayer.as_dict()["model"]["residual"] == {"attention": "pre", "mlp": "peri"}
    assert as_run_config(None, {}).run_dir != as_run_config(None, {"residual": "post"}).run_dir


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"reisdual": "pre"}, "did you mean 'residual'"),
        ({"name": "sgd"}, "optimizer.name and schedule.name"),
        ({"max_steps": "many"}, "train.max_steps"),
        ({"max_steps": 0}, "train.max_steps is 0"),
        ({"data": "text.txt"}, "data is a group of keys"),
        ({"residual": "prre"}, "did you mean 'pre'"),
        ({"train.max_stps": 3}, "train.max_steps"),
        ({"residual": "pre", "source": "nowhere.txt"}, "nowhere.txt"),
    ],
)
def test_a_mistake_is_one_line(tmp_path, monkeypatch, keywords, named):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError)) as error:
        resformer.train(**keywords)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_an_interrupted_cell_saves_and_goes_on(text, tmp_path):
    """As Jupyter interrupts a cell: one SIGINT to a process that would answer it with KeyboardInterrupt."""
    keys = tiny(text) | {"max_steps": 200_000, "schedule": {"name": "constant"}, "record_every": 0,
                         "run_dir": str(tmp_path / "run")}  # fmt: skip
    script = f"""
import os, signal, threading, time
import resformer
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin with it ignored
metrics = os.path.join({str(tmp_path / "run")!r}, "metrics.jsonl")
def interrupt():
    while not os.path.exists(metrics) or open(metrics).read().count("learning_rate") < 2:
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt, daemon=True).start()
try:
    resformer.train(**{keys!r})
except KeyboardInterrupt as error:
    print("stopped:", error)
assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
run = resformer.open_run({str(tmp_path / "run")!r})
step = run.summary["step"]
print(run.summary["status"], run.model().config.residual)
again = resformer.train(**{keys!r} | {{"max_steps": step + 2}})
print(again.summary["status"], again.summary["step"] - step)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert "the same call goes on" in done.stdout
    assert "interrupted pre" in done.stdout
    assert "completed 2" in done.stdout


def test_a_class_stands_for_its_import_path():
    path = "resformer.model.residual_placement:PostNorm"
    assert as_run_config(None, {"residual": PostNorm}).model.residual == path
    mixed = as_run_config(None, {"residual": {"attention": "pre", "mlp": PostNorm}}).model.residual
    assert mixed == {"attention": "pre", "mlp": path}


def test_a_sweep_takes_the_keys_of_a_run_as_train_does():
    arms = {"pre": {"residual": "pre"}, "mine": {"residual": PostNorm, "because": "it is mine"}}
    found = as_sweep_config({"arms": arms, "base": {"max_steps": 9}, "grid": {"num_hidden_layers": [1, 2]}}, {})
    assert found.base == {"train.max_steps": 9}
    assert found.grid == {"model.num_hidden_layers": [1, 2]}
    assert found.arms["mine"] == {
        "model.residual": "resformer.model.residual_placement:PostNorm", "because": "it is mine",
    }  # fmt: skip
    with pytest.raises(ValueError, match="there is no key 'residul'"):
        as_sweep_config({"arms": {"pre": {"residul": "pre"}}}, {})
