"""A flipped byte or a missing file is found, named, and the checkpoint before it is used."""

import json
import os
import shutil
import subprocess
import sys
import time

import pytest
import torch
from run_helpers import Runs, differences

from resformer.files import damage, write_checksums


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("integrity"))
    assert runs.here("whole") == 0
    return runs


@pytest.fixture
def unfinished(finished, tmp_path):
    """A run whose last checkpoints are those of the steps 4 and 8 and that has to write its model yet."""
    target = finished.folder / tmp_path.name
    shutil.copytree(finished.folder / "whole", target)
    shutil.rmtree(target / "model")
    return target


def flip(path, offset: int) -> None:
    path.write_bytes(flipped(path.read_bytes(), offset))


def flipped(data: bytes, offset: int) -> bytes:
    changed = bytearray(data)
    changed[offset] ^= 1
    return bytes(changed)


@pytest.mark.parametrize(
    ("name", "offset"), [("model.safetensors", -1), ("optimizers.safetensors", 5000), ("checksums.json", 30)]
)
def test_a_flipped_byte_is_named_and_the_checkpoint_before_is_used(finished, unfinished, name, offset, capsys):
    flip(unfinished / "checkpoints/step-00000008" / name, offset)
    assert finished.here(unfinished.name) == 0
    warning = capsys.readouterr().err
    assert "step-00000008 is damaged" in warning
    assert name in warning or name == "checksums.json"
    assert (unfinished / "checkpoints/step-00000008.set-aside").exists()
    shutil.rmtree(unfinished / "checkpoints/step-00000008.set-aside")
    assert differences(finished.folder / "whole", unfinished) == []


def test_every_file_of_a_checkpoint_is_watched_from_its_first_byte_to_its_last(unfinished):
    path = unfinished / "checkpoints/step-00000008"
    files = [file for file in path.rglob("*") if file.is_file()]
    assert {"config.json", "tokenizer.json", "modeling_resformer.py"} < {file.name for file in files}
    for file in files:
        whole = file.read_bytes()
        for data in (*(flipped(whole, at) for at in (0, len(whole) // 2, -1)), whole[:-1], whole + b" ", b""):
            file.write_bytes(data)
            found = damage(path)
            if file.name == "checksums.json" and data.strip() == whole.strip():
                continue  # blanks behind the JSON
            assert found, (file, len(data))
            assert file.relative_to(path).as_posix() in found or file.name == "checksums.json"
        file.unlink()
        assert damage(path) == f"{file.relative_to(path).as_posix()} is missing"
        file.write_bytes(whole)
    assert damage(path) is None


@pytest.mark.parametrize("name", ["metrics.jsonl", "layers.parquet", "config.yaml"])
@pytest.mark.parametrize("harm", ["gone", "empty", "cut", "flipped"])
def test_what_becomes_of_a_log_or_of_the_configuration_costs_nothing(finished, unfinished, name, harm):
    path = unfinished / name
    whole = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "flipped": flipped(whole, 200)}[harm])
    assert finished.here(unfinished.name) == 0
    assert differences(finished.folder / "whole", unfinished) == []
    assert name != "config.yaml" or path.read_bytes() == whole.replace(b"/whole", f"/{unfinished.name}".encode())


@pytest.mark.parametrize("text", ["", "model: [", "train: {max_steps: 9}"])
def test_before_the_first_checkpoint_a_damaged_configuration_is_refused_and_may_be_removed(finished, unfinished, text):
    shutil.rmtree(unfinished / "checkpoints")
    (unfinished / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"remove (it|\S+config.yaml)") as refusal:
        finished.here(unfinished.name)
    assert "\n" not in str(refusal.value)
    (unfinished / "config.yaml").unlink()
    assert finished.here(unfinished.name) == 0
    assert differences(finished.folder / "whole", unfinished) == []


@pytest.mark.parametrize("name", ["model.safetensors", "checksums.json"])
def test_a_missing_file_is_named_and_the_checkpoint_before_is_used(finished, unfinished, name, capsys):
    (unfinished / "checkpoints/step-00000008" / name).unlink()
    assert finished.here(unfinished.name) == 0
    assert f"step-00000008 is damaged: {name} is missing" in capsys.readouterr().err
    shutil.rmtree(unfinished / "checkpoints/step-00000008.set-aside")
    assert differences(finished.folder / "whole", unfinished) == []


def test_without_a_whole_checkpoint_it_does_not_begin_anew_in_silence(finished, unfinished):
    before = (unfinished / "metrics.jsonl").read_bytes()
    for step in (4, 8):
        flip(unfinished / f"checkpoints/step-{step:08d}/model.safetensors", 1000)
    with pytest.raises(ValueError, match="no undamaged checkpoint; remove"):
        finished.here(unfinished.name)
    assert (unfinished / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_that_is_asked_for_must_be_whole(finished, unfinished):
    path = unfinished / "checkpoints/step-00000004"
    flip(path / "config.json", 10)
    with pytest.raises(ValueError, match=r"step-00000004 is damaged: config.json has changed"):
        finished.here(unfinished.name, "--resume", str(path))


def test_going_back_to_an_older_checkpoint_sets_the_later_ones_aside(finished, unfinished, capsys):
    assert finished.here(unfinished.name, "--resume", str(unfinished / "checkpoints/step-00000004")) == 0
    assert "step-00000008 is beyond step 4" in capsys.readouterr().err
    shutil.rmtree(unfinished / "checkpoints/step-00000008.set-aside")
    assert differences(finished.folder / "whole", unfinished) == []


def test_a_pickle_in_place_of_numbers_is_not_opened(finished, unfinished):
    """Code in a checkpoint does not run, even where the checksums were made to fit."""

    class Trap:
        def __reduce__(self):
            return open, (str(unfinished / "sprung"), "w")

    path = unfinished / "checkpoints/step-00000008"
    torch.save([Trap()], path / "optimizers.safetensors")
    write_checksums(path)
    with pytest.raises(ValueError, match=r"cannot resume from .*step-00000008"):
        finished.here(unfinished.name)
    assert not (unfinished / "sprung").exists()


def test_nothing_is_unpickled(finished, unfinished, tmp_path, monkeypatch):
    """Python itself is told to refuse: every unpickling of an object asks for ``pickle.find_class``."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event == 'pickle.find_class':\n"
        "        raise PermissionError(f'unpickled {arguments}')\n"
        "sys.addaudithook(refuse)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    shutil.rmtree(unfinished / "checkpoints/step-00000008")
    code, out, err = finished.outside(unfinished.name)
    assert code == 0, err
    assert "going on from" in out
    assert differences(finished.folder / "whole", unfinished) == []
    answer = subprocess.run(
        [sys.executable, "-c", "import pickle; pickle.loads(pickle.dumps(print))"], capture_output=True, text=True
    )
    assert "unpickled" in answer.stderr  # the hook does see one


def test_moments_of_another_optimiser_are_not_loaded_in_part(finished, unfinished):
    checkpoint = unfinished / "checkpoints/step-00000004"
    with pytest.raises(ValueError, match=r"optimizers.safetensors holds AdamW/.*, which no optimiser of this run has"):
        finished.here("sgd-of-muon", "--resume", str(checkpoint), "--optimizer.name", "sgd")


def test_weights_of_another_model_are_not_loaded_in_part(finished, unfinished):
    with pytest.raises(ValueError, match=r"cannot resume from .*step-00000004"):
        finished.here("other", "--resume", str(unfinished / "checkpoints/step-00000004"), "--model.residual", "rezero")


def test_a_corpus_that_changed_is_refused_with_both_fingerprints(finished, unfinished):
    theirs = json.loads((unfinished / "summary.json").read_text())["data_fingerprint"]
    text = finished.text.read_text()
    try:
        finished.text.write_text(text.replace("fox", "cat"))
        with pytest.raises(ValueError, match=rf"other data \(fingerprint {theirs[:16]}, .* is now [0-9a-f]{{16}}\)"):
            finished.here(unfinished.name)
    finally:
        finished.text.write_text(text)
    assert finished.here(unfinished.name) == 0


def test_what_a_kill_left_half_written_is_cleared_and_what_was_being_replaced_comes_back(finished, unfinished):
    checkpoints = unfinished / "checkpoints"
    (checkpoints / ".step-00000012.tmp-99999").mkdir()
    (unfinished / ".summary.json.tmp-99999").write_text("{")
    (checkpoints / "step-00000008").rename(checkpoints / ".step-00000008.old-99999")
    assert finished.here(unfinished.name) == 0
    assert differences(finished.folder / "whole", unfinished) == []


def test_a_run_that_is_still_alive_keeps_its_folder(finished):
    process = finished.start("alive", "--train.max_steps", "100000", "--train.log_every", "1")
    try:
        metrics = finished.folder / "alive" / "metrics.jsonl"
        while not (metrics.exists() and metrics.stat().st_size):
            assert process.poll() is None
            time.sleep(0.1)
        code, _, err = finished.outside("alive", "--train.max_steps", "100000", "--train.log_every", "1")
        assert code == 2
        assert "in use by a run that has not ended" in err
        assert len(err.splitlines()) == 1
    finally:
        process.kill()
        process.communicate()


def test_more_steps_are_possible_where_the_schedule_does_not_depend_on_them(tmp_path):
    runs = Runs(tmp_path)
    constant = ("--schedule.name", "constant", "--schedule.warmup_steps", "6")
    assert runs.here("long", *constant) == 0
    assert runs.here("longer", *constant, "--train.max_steps", "4") == 0
    assert runs.here("longer", *constant, "--train.max_steps", "8") == 0
    assert differences(tmp_path / "long", tmp_path / "longer") == []
    assert runs.here("cosine", "--train.max_steps", "4") == 0
    with pytest.raises(ValueError, match=r"train.max_steps = 4, not 8 \(schedule.name cosine spreads"):
        runs.here("cosine", "--train.max_steps", "8")
