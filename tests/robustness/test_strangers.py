"""What somebody else put into a run's folder: links, pipes, forged facts and names. Nothing of theirs is lost by it."""

import os

import pytest
from run_helpers import Runs

from resformer import files

SHORT = (
    "--train.max_steps", "2", "--train.save_every", "1", "--train.keep_checkpoints", "1", "--train.record_every", "0",
    "--train.compile", "false", "--schedule.name", "constant",
)  # fmt: skip


def refused(call) -> str:
    """The one line that ``call`` is refused with."""
    with pytest.raises((ValueError, OSError)) as refusal:
        call()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_a_lock_that_is_a_link_is_refused_and_what_it_points_to_stays(runs, tmp_path):
    precious = tmp_path / "precious.txt"
    precious.write_text("mine")
    run = runs.folder / "linked-lock"
    run.mkdir()
    (run / ".lock").symlink_to(precious)
    said = refused(lambda: runs.here(run.name, *SHORT))
    assert f"cannot write to {run} (.lock is a symbolic link, remove it)" in said
    assert precious.read_text() == "mine"
    assert not files.is_held(run / ".lock")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "nowhere")
    assert "symbolic link" in refused(lambda: runs.here(run.name, *SHORT))
    assert not (tmp_path / "nowhere").exists()


def test_a_lock_empties_no_file_and_waits_for_no_pipe(tmp_path):
    lock = tmp_path / ".lock"
    lock.write_text("whose?")
    with files.locked(lock, wait=False):
        assert lock.read_text() == "whose?"
    assert lock.read_text() == "whose?"
    os.mkfifo(tmp_path / "pipe")
    assert not files.is_held(tmp_path / "pipe")
