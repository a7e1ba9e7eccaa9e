"""SIGTERM and SIGINT save and end within seconds; a second Ctrl-C ends at once; no process stays behind."""

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from run_helpers import Runs, differences, torchrun

from resformer.files import damage
from resformer.training.checkpoints import checkpoints

# Not compiled, as auto would for so many steps, and would not for the few that follow.
ENDLESS = ("--schedule.name", "constant", "--train.max_steps", "100000", "--train.save_every", "100000",
           "--train.compile", "false")  # fmt: skip
ACCELERATE = (sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--num_processes")


def wait_for_steps(runs: Runs, run: str, process) -> None:
    metrics = runs.folder / run / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)


def family(process) -> list[psutil.Process]:
    me = psutil.Process(process.pid)
    return [me, *me.children(recursive=True)]


def all_gone(processes: list[psutil.Process]) -> bool:
    return not psutil.wait_procs(processes, timeout=60)[1]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_what_was_interrupted_ends_as_if_it_had_not_been(runs, number, code):
    run = f"interrupted-{code}"
    process = runs.start(run, *ENDLESS, "--data.num_workers", "1")
    wait_for_steps(runs, run, process)
    members = family(process)
    os.killpg(process.pid, number)  # what a terminal and a scheduler do: everyone gets it
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert all_gone(members)
    step = runs.summary(run)["step"]
    assert runs.summary(run)["status"] == "interrupted"
    last = checkpoints(runs.folder / run)[-1]
    assert last.name == f"step-{step:08d}"
    assert damage(last) is None
    goal = ("--schedule.name", "constant", "--train.max_steps", str(step + 5), "--train.save_every", "100000",
            "--train.compile", "false")  # fmt: skip
    assert runs.here(run, *goal) == 0
    assert runs.here(f"never-{code}", *goal) == 0
    shutil.rmtree(last)
    assert differences(runs.folder / run, runs.folder / f"never-{code}") == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_before_anything_is_trained_it_just_ends(tmp_path, number, code):
    runs = Runs(tmp_path)
    runs.text.write_text(runs.text.read_text() * 200)  # a cache that takes a while
    process = runs.start("early", "--data.tokenizer", "bpe:2000")
    while not (tmp_path / "cache").exists() or not any((tmp_path / "cache").glob(".*")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert err == ""
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]


def test_a_second_ctrl_c_ends_at_once(tmp_path, monkeypatch):
    """Where saving takes for ever, a second signal does not wait for it."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, time\nreal = os.fsync\n"
        "def fsync(handle):\n"
        f"    open({str(tmp_path / 'saving')!r}, 'w').close() if os.path.exists({str(tmp_path / 'slow')!r}) else None\n"
        f"    time.sleep(600) if os.path.exists({str(tmp_path / 'slow')!r}) else None\n"
        "    real(handle)\n"
        "os.fsync = fsync\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    runs = Runs(tmp_path)
    process = runs.start("twice", *ENDLESS)
    wait_for_steps(runs, "twice", process)
    (tmp_path / "slow").touch()
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "saving").exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == ""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_two_processes_under_accelerate_save_and_end_together(runs, number):
    run = f"pair-{number}"
    process = runs.start(run, *ENDLESS, launcher=(*ACCELERATE, "2", "--multi_gpu"))
    wait_for_steps(runs, run, process)
    members = family(process)
    assert len(members) >= 3
    if number == signal.SIGTERM:
        process.send_signal(number)  # a scheduler tells the launcher
    else:
        os.killpg(process.pid, number)  # a terminal tells all
    _, err = process.communicate(timeout=90)
    assert process.returncode != 0
    assert all_gone(members)
    assert runs.summary(run)["status"] == "interrupted", err
    (last,) = checkpoints(runs.folder / run)
    assert damage(last) is None


@pytest.mark.slow
def test_a_launcher_that_dies_does_not_leave_a_run_behind(runs):
    """accelerate launch with one process hands no signal on; the run notices that it is alone, saves and ends."""
    process = runs.start("orphan", *ENDLESS, launcher=(*ACCELERATE, "1"))
    wait_for_steps(runs, "orphan", process)
    members = family(process)
    process.terminate()
    assert all_gone(members)
    process.communicate(timeout=60)
    assert runs.summary("orphan")["status"] == "interrupted"


@pytest.mark.slow
def test_a_process_that_dies_takes_the_job_down_with_its_error_on_top(runs, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import resformer.training.trainer as step\n"
        "    real = step.train_step\n"
        "    def train_step(*arguments, **named):\n"
        f"        if os.path.exists({str(tmp_path / 'now')!r}):\n"
        "            raise RuntimeError('the second process has had enough')\n"
        "        return real(*arguments, **named)\n"
        "    step.train_step = train_step\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    process = runs.start("mortal", *ENDLESS, launcher=torchrun(2))
    wait_for_steps(runs, "mortal", process)
    members = family(process)
    (tmp_path / "now").touch()
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert all_gone(members)
    assert "the second process has had enough" in err
    first = err.index("Traceback")
    assert err.index("the second process has had enough") < err.find("Traceback", first + 1) % (len(err) + 1), err
    assert "Connection closed by peer" not in err


@pytest.mark.slow
def test_a_killed_process_takes_the_job_down(runs):
    process = runs.start("killed-rank", *ENDLESS, launcher=torchrun(2))
    wait_for_steps(runs, "killed-rank", process)
    members = family(process)
    workers = [one for one in members if "train.py" in " ".join(one.cmdline()) and "run" not in one.cmdline()[2]]
    workers[-1].kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert all_gone(members)
    assert "SIGKILL" in err or "Signal 9" in err
    assert not list(Path(runs.folder / "killed-rank" / "checkpoints").glob(".*"))
