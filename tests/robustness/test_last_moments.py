"""What comes after all is saved, and what comes before anything is: no wrong code, no sleeping process."""

import os
import shutil
import socket
import subprocess
import sys
import time

import psutil
import pytest
from run_helpers import Runs, torchrun

RECORDED = ("--train.max_steps", "2", "--train.draw", "true")


def with_sitecustomize(folder, monkeypatch, code: str) -> None:
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))


@pytest.mark.slow
def test_a_picture_library_that_kills_its_process_costs_a_warning(tmp_path, monkeypatch):
    with_sitecustomize(
        tmp_path,
        monkeypatch,
        "import os, sys\n"
        "def end(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'vl_convert':\n"
        f"        open({str(tmp_path / 'tried')!r}, 'a').close()\n"
        "        os.kill(os.getpid(), 5)\n"
        "sys.addaudithook(end)\n",
    )
    runs = Runs(tmp_path)
    code, _, err = runs.outside("run", *RECORDED)
    assert code == 0, err
    assert (tmp_path / "tried").exists()
    assert runs.summary("run")["status"] == "completed"
    (line,) = [line for line in err.splitlines() if line.startswith("warning")]
    assert "report.html has no figures" in line
    (tmp_path / "tried").unlink()
    shutil.rmtree(tmp_path / "run" / "model")
    code, _, err = runs.outside("run", *RECORDED[:2])
    assert code == 0 and "warning" not in err
    assert not (tmp_path / "tried").exists()


def test_a_page_is_drawn_where_nothing_dies(tmp_path):
    runs = Runs(tmp_path)
    code, out, err = runs.outside("run", *RECORDED)
    assert code == 0, err
    page = tmp_path / "run" / "report.html"
    assert page.exists()
    assert str(page) in out


@pytest.mark.slow
@pytest.mark.parametrize("after", [0.5, 5.0])
def test_ranks_end_with_a_launcher_that_is_killed_while_they_start(tmp_path, after):
    runs = Runs(tmp_path)
    process = runs.start("orphans", launcher=torchrun(2), output=subprocess.DEVNULL)
    while len(children := psutil.Process(process.pid).children(recursive=True)) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    time.sleep(after)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(children, timeout=200)  # once all is imported, which takes what it takes
    for one in alive:
        one.kill()
    assert not alive


def test_a_rank_does_not_wait_for_ever_for_one_that_never_comes(tmp_path, monkeypatch):
    """Launched by hand: no launcher looks after it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name, value in (("RANK", 0), ("LOCAL_RANK", 0), ("WORLD_SIZE", 2), ("MASTER_PORT", port)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    process = Runs(tmp_path).start("alone", "--train.patience", "3", launcher=(sys.executable,))
    _, err = process.communicate(timeout=200)
    assert process.returncode == 1, err
    assert "another process of this job has ended or hangs" in err
    assert "Traceback" not in err
