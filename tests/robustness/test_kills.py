"""SIGKILL at any instant; the program beside this file prints what it did."""

import shutil

import kill_harness
import pytest

from resformer import files


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path, capsys):
    assert kill_harness.main(kills=50, seed=2, folder=tmp_path) == 0, capsys.readouterr().out


def test_a_folder_that_is_dropped_is_never_half_there(tmp_path, monkeypatch):
    folder = tmp_path / "step-00000004"
    folder.mkdir()
    (folder / "file").touch()
    real = shutil.rmtree

    def killed(path, *rest, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed)
        files.remove_folder(folder)
    assert not folder.exists()
    assert shutil.rmtree is real
    files.remove_leftovers(tmp_path)
    assert not list(tmp_path.iterdir())
