"""What somebody else put into a run's folder: links, pipes, forged facts and names. Nothing of theirs is lost by it."""

import json
import math
import os
import shutil
import threading
from pathlib import Path

import pytest

from resformer import files
from resformer.training import finishing
from resformer.training.checkpoints import STATE, Progress, read_state
from resformer.training.config import run_config
from resformer.training.resuming import load

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


def test_pipes_in_place_of_files_of_a_run_are_replaced_and_not_read(runs):
    run = runs.folder / "pipes"
    assert runs.here(run.name, *SHORT) == 0
    pipes, read = [run / name for name in ("metrics.jsonl", "config.yaml", "summary.json")], []

    def feed(pipe: Path) -> None:
        with pipe.open("w") as file:  # returns when somebody reads it
            read.append(pipe.name)
            file.write("x")

    shutil.rmtree(run / "checkpoints")
    for pipe in pipes:
        pipe.unlink()
        os.mkfifo(pipe)
        threading.Thread(target=feed, args=(pipe,), daemon=True).start()
    assert not finishing.is_complete(run, Progress(step=2))
    assert runs.here(run.name, *SHORT) == 0
    assert read == []
    assert all(pipe.is_file() for pipe in pipes)


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


@pytest.fixture(scope="module")
def state(runs) -> tuple[Path, str]:
    """A whole checkpoint, and what its trainer_state.json says."""
    assert runs.here("state", *SHORT) == 0
    path = runs.folder / "state/checkpoints/step-00000002"
    return path, (path / STATE).read_text()


def told(state: tuple[Path, str], text: str) -> Path:
    """The checkpoint, whose trainer_state.json is ``text`` and has the right checksum."""
    path, _ = state
    (path / STATE).write_text(text)
    files.write_checksums(path)
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("step", "two"), ("step", None), ("step", True), ("step", 2.0), ("step", -1), ("step", 10**400), ("step", [2]),
        ("seconds", math.nan), ("seconds", math.inf), ("seconds", -1), ("seconds", "1"), ("loss", math.nan),
        ("loss", "low"), ("metrics_lines", -1), ("batches_passed_over", -1), ("batches_passed_over", 10**20),
        ("rollbacks", None), ("init_from_hash", 3), ("extra_state", []), ("extra_state", None), ("processes", 0),
        ("processes", "1"), ("micro_batch_size", None), ("precision", 16), ("shard", "no"), ("data_fingerprint", 7),
        ("stranger", 1), ("two\nlines", 1),
    ],
)  # fmt: skip
def test_a_state_of_other_types_is_refused_and_the_key_is_named(state, key, value):
    path = told(state, json.dumps(json.loads(state[1]) | {key: value}))
    assert repr(key)[1:-1] in refused(lambda: read_state(path))


def test_a_state_without_one_of_its_keys_is_refused_unless_that_may_be_null(state):
    whole = json.loads(state[1])
    progress, circumstances = read_state(told(state, state[1]))
    assert vars(progress) | vars(circumstances) == whole
    for key in whole:
        path = told(state, json.dumps({name: value for name, value in whole.items() if name != key}))
        if key in ("loss", "init_from_hash"):
            assert getattr(read_state(path)[0], key) is None
        else:
            assert f"has no {key}" in refused(lambda path=path: read_state(path))


@pytest.mark.parametrize("text", ["[]", '"step"', "3", "{", "[" * 100_000, "\0"])
def test_a_state_that_holds_no_keys_is_refused(state, text):
    path = told(state, text)
    assert STATE in refused(lambda: read_state(path))


@pytest.mark.parametrize("watch", [[], {}, "none", {"steps": "two"}, {"loss": []}, {"loss": {}}, {"not_finite": None}])
def test_a_run_does_not_go_on_from_forged_facts(runs, state, watch):
    told_of_it = json.loads(state[1])
    whole = told_of_it["extra_state"]["watch"]
    told_of_it["extra_state"]["watch"] = whole | watch if isinstance(watch, dict) and watch else watch
    path = told(state, json.dumps(told_of_it))
    model = corpus = accelerator = None  # it does not come to these
    call = lambda: load(path, model, [], corpus=corpus, accelerator=accelerator, micro_batch_size=4)  # noqa: E731
    said = refused(call)
    assert f"cannot resume from {path} ({STATE}: extra_state.watch is of another form" in said


def test_a_run_with_a_forged_state_ends_in_one_line(runs, state):
    path = told(state, json.dumps(json.loads(state[1]) | {"step": "two"}))
    said = refused(lambda: runs.here("state", *SHORT))
    assert f"cannot resume from {path} ({STATE}: step is 'two'" in said
    told(state, state[1])
    (path.parents[1] / "summary.json").write_text("[]")
    assert runs.here("state", *SHORT) == 0


@pytest.mark.parametrize("key", ["data.source", "data.cache_dir", "data.tokenizer", "run_dir", "resume"])
def test_a_name_that_is_not_utf8_is_refused_before_anything_is_written(runs, tmp_path, key):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/s\xff")
    if key == "data.source":
        shutil.copy(runs.text, name)
    before = sorted(os.listdir(runs.folder)), os.listdir(tmp_path)
    said = refused(lambda: runs.here("not-utf8", *SHORT, f"--{key}", name))
    assert said.startswith(f"{key} is '{tmp_path}/s\\udcff', which is not UTF-8; rename it")
    assert (sorted(os.listdir(runs.folder)), os.listdir(tmp_path)) == before


@pytest.mark.parametrize("key", ["trackers", "model.residual"])
def test_no_key_holds_what_is_not_utf8(key):
    value = "\udcff"
    assert "\n" not in refused(lambda: run_config({key: [value] if key == "trackers" else value}))
