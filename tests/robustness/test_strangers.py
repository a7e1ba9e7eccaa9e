"""What somebody else put into a run's folder: links, pipes, forged facts and names. Nothing of theirs is lost by it."""

import json
import os
import shutil
from pathlib import Path

import pytest

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


def moved_and_linked(folder: Path, disk: Path) -> Path:
    """Move ``folder`` to another disk and leave a link to it. Returns where it is now."""
    there = disk / folder.name
    shutil.move(folder, there)
    folder.symlink_to(there)
    return there


def test_a_model_and_checkpoints_that_were_moved_and_linked_are_left_alone_and_the_run_ends_well(runs, tmp_path):
    run = runs.folder / "moved"
    assert runs.here(run.name, *SHORT) == 0
    theirs = [moved_and_linked(run / name, tmp_path) for name in ("model", "checkpoints/step-00000002")]
    before = [sorted(path.iterdir()) for path in theirs]
    assert runs.here(run.name, *SHORT, "--train.max_steps", "4") == 0
    assert not (run / "model").is_symlink()
    assert (run / "model" / "config.json").exists()
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000004"]
    assert not list(run.glob(".*.old-*"))
    assert [sorted(path.iterdir()) for path in theirs] == before


def test_links_are_replaced_removed_and_cleared_but_never_what_they_point_to(tmp_path):
    """One that points nowhere too."""
    target = tmp_path / "target"
    target.mkdir()
    (target / "file").write_text("mine")
    link = tmp_path / "model"
    for points_to in (target, tmp_path / "nowhere"):
        link.symlink_to(points_to)
        with files.whole_folder(link) as temporary:
            (temporary / "new").touch()
        assert [path.name for path in link.iterdir()] == ["new"]
        shutil.rmtree(link)
        link.symlink_to(points_to)
        files.remove_folder(link)
        link.symlink_to(points_to)
        for name in (".model.old-1", ".step-1.tmp-1"):
            (tmp_path / name).symlink_to(points_to)
        if points_to == target:
            files.remove_leftovers(tmp_path)
            link.unlink()
        else:  # what was being replaced gets its name back
            (tmp_path / ".model.old-1").unlink()
            (tmp_path / ".model.old-1").mkdir()
            files.remove_leftovers(tmp_path)
            assert link.is_dir()
            link.rmdir()
    assert list(tmp_path.iterdir()) == [target]
    assert (target / "file").read_text() == "mine"


def test_a_file_of_the_name_of_a_folder_stays(tmp_path):
    (tmp_path / "model").write_text("mine")
    with pytest.raises(NotADirectoryError, match="move it away"), files.whole_folder(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert (tmp_path / "model").read_text() == "mine"


def test_what_was_set_aside_before_and_moved_and_linked_is_in_nobodys_way(runs, tmp_path):
    run = runs.folder / "aside"
    keep = (*SHORT, "--train.keep_checkpoints", "2")
    assert runs.here(run.name, *keep) == 0
    (tmp_path / "step").mkdir()
    (run / "checkpoints/step-00000002.set-aside").symlink_to(tmp_path / "step")
    assert runs.here(run.name, *keep, "--resume", str(run / "checkpoints/step-00000001")) == 0
    assert not (run / "checkpoints/step-00000002.set-aside").is_symlink()
    assert (tmp_path / "step").exists()


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A folder with checksums."""
    folder = tmp_path / "step-00000002"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    files.write_checksums(folder)
    assert files.damage(folder) is None
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "/dev/zero", "../step-00000002/model.safetensors", "a/../model.safetensors", "..", "", ".",
        "./model.safetensors", "/etc/hostname", "a\0b", "\ud800", "two\nlines", "pipe", "zeros", "folder",
        "no/such", "x" * 5000,
    ],
)  # fmt: skip
def test_checksums_of_what_is_no_file_of_the_folder_are_damage_and_nothing_is_waited_for(checkpoint, name):
    os.mkfifo(checkpoint / "pipe")
    (checkpoint / "zeros").symlink_to("/dev/zero")
    (checkpoint / "folder").mkdir()
    (checkpoint / files.CHECKSUMS).write_text(json.dumps({name: "x"}))
    found = files.damage(checkpoint)
    assert found
    assert "\n" not in found
    assert "changed" not in found  # it was not read


@pytest.mark.parametrize("name", ["pipe", files.CHECKSUMS])
def test_a_pipe_in_a_checkpoint_is_damage(checkpoint, name):
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    assert name in files.damage(checkpoint)


@pytest.mark.parametrize("text", ["[]", "3", "[" * 100_000, "{", '{"model.safetensors": 3}'])
def test_checksums_that_are_none_are_damage(checkpoint, text):
    (checkpoint / files.CHECKSUMS).write_text(text)
    assert files.damage(checkpoint)


def test_a_checkpoint_whose_checksums_name_a_device_is_refused(runs):
    assert runs.here("forged", *SHORT) == 0
    path = runs.folder / "forged/checkpoints/step-00000002"
    (path / files.CHECKSUMS).write_text('{"/dev/zero": "x"}')
    said = refused(lambda: runs.here("of-forged", *SHORT, "--resume", str(path)))
    assert "is damaged: checksums.json names '/dev/zero', which is no file of this folder; give another" in said
