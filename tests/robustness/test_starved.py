"""A full disk, no permission, a folder that is gone: one clear line, exit code 2, the last checkpoint whole."""

import errno
import os
import resource
import subprocess
import sys
import time

import pytest
from run_helpers import Runs, differences

from resformer.files import damage
from resformer.training import finishing, setup
from resformer.training.checkpoints import checkpoints

# Root may write anywhere, but not without the capabilities that say so: then a folder's permissions hold for it too.
AS_ANYONE = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, of 1.3 MB, and how to make it larger."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1300k", "none", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a small file system; the test with a limit on file sizes stands in")
    yield place, lambda: subprocess.run(["mount", "-o", "remount,size=50m", place], check=True)
    subprocess.run(["umount", "-l", place], check=True)


def limited(size: int, what: str = "RLIMIT_FSIZE") -> tuple[str, ...]:
    """A launcher under which no file grows beyond ``size`` bytes (EFBIG, what a quota feels like), or another limit."""
    code = f"import os, resource, sys; resource.setrlimit(resource.{what}, ({size}, {size})); "
    return (sys.executable, "-c", code + "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")


def one_line(err: str, *words: str) -> None:
    lines = [line for line in err.splitlines() if line.strip()]
    assert len(lines) == 1, err
    for word in ("error: ", *words):
        assert word in lines[0]


def test_a_full_disk_stops_the_run_and_room_lets_it_end_as_if_nothing_had_been(tmp_path, small_disk):
    disk, enlarge = small_disk
    runs, flags = Runs(tmp_path), ("--train.max_steps", "16")
    assert runs.here("whole", *flags) == 0
    code, _, err = runs.outside(str(disk / "run"), *flags)
    assert code == 2, err
    one_line(err, "No space left on device", "MB are free", "newest checkpoint is step-")
    assert checkpoints(disk / "run") and not any(map(damage, checkpoints(disk / "run")))
    assert not list((disk / "run" / "checkpoints").glob(".*"))
    enlarge()
    code, _, err = runs.outside(str(disk / "run"), *flags)
    assert code == 0, err
    assert differences(tmp_path / "whole", disk / "run") == []


@pytest.mark.slow
def test_a_disk_that_fills_up_between_two_checkpoints(tmp_path, small_disk):
    disk, enlarge = small_disk
    runs, flags = Runs(tmp_path), ("--schedule.name", "constant", "--train.save_every", "100000")
    process = runs.start(str(disk / "run"), *flags, "--train.max_steps", "100000")
    while not ((disk / "run/metrics.jsonl").exists() and (disk / "run/metrics.jsonl").stat().st_size):
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(OSError, match="No space left"), open(disk / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    one_line(err, "cannot write", "metrics.jsonl", "o space left")
    (disk / "filler").unlink()
    enlarge()
    assert runs.here("whole", *flags) == 0
    assert runs.here(str(disk / "run"), *flags) == 0
    assert differences(tmp_path / "whole", disk / "run") == []


def test_a_file_that_cannot_grow(tmp_path):
    runs, flags = Runs(tmp_path), ("--schedule.name", "constant", "--train.max_steps")
    assert runs.here("whole", *flags, "8") == 0
    assert runs.here("full", *flags, "4") == 0
    checkpoint = tmp_path / "full" / "checkpoints" / "step-00000004"
    code, _, err = runs.outside("full", *flags, "8", launcher=limited(100_000))
    assert code == 2, err
    one_line(err, "cannot save", "step-00000008", "newest checkpoint is step-00000004, whole")
    assert damage(checkpoint) is None
    assert runs.here("full", *flags, "8") == 0
    assert differences(tmp_path / "whole", tmp_path / "full") == []


@pytest.mark.parametrize("writes", ["save_model", "write_json"])
def test_no_room_for_what_a_finished_run_leaves(tmp_path, monkeypatch, writes):
    runs, flags = Runs(tmp_path), ("--train.max_steps", "4")
    assert runs.here("whole", *flags) == 0

    def full(place, *rest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(place))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left on device") as error:
        patch.setattr(finishing, writes, full)
        runs.here("full", *flags)
    assert str(tmp_path / "full" / {"save_model": "model", "write_json": "summary.json"}[writes]) in str(error.value)
    assert damage(tmp_path / "full" / "checkpoints" / "step-00000004") is None
    assert not list((tmp_path / "full").glob(".*.tmp-*"))
    assert runs.here("full", *flags) == 0
    assert differences(tmp_path / "whole", tmp_path / "full") == []


@pytest.mark.parametrize(
    ("number", "advice"), [(errno.ENOSPC, "make room and start"), (errno.EROFS, "another --run_dir")]
)
def test_a_folder_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch, number, advice):
    def fails(place, value):
        raise OSError(number, os.strerror(number), str(place))

    monkeypatch.setattr(setup, "write_yaml", fails)
    with pytest.raises(OSError, match=advice):
        Runs(tmp_path).here("none")


def test_a_limit_on_the_address_space_costs_the_figures_and_a_warning(tmp_path):
    """The picture library's engine reserves more than 12 GB and aborts where that is not to be had."""
    runs, told = Runs(tmp_path), ("--train.record_every", "4", "--train.compile", "false")
    assert runs.here("whole", *told) == 0
    code, _, err = runs.outside("limited", *told, "--train.draw", "true", launcher=limited(12 * 2**30, "RLIMIT_AS"))
    assert code == 0, err
    warnings = [line for line in err.splitlines() if "report.html" in line]
    assert len(warnings) == 1 and "warning" in warnings[0] and "ulimit -v" in warnings[0], err
    assert (tmp_path / "limited" / "report.html").stat().st_size and not (tmp_path / "limited" / "figures").exists()
    assert runs.metrics("limited") == runs.metrics("whole")
    assert runs.summary("limited")["status"] == "completed"


@pytest.mark.slow
def test_a_full_disk_while_the_cache_is_built(tmp_path):
    runs = Runs(tmp_path)
    code, _, err = runs.outside("none", launcher=limited(20_000))
    assert code == 2, err
    one_line(err, "cannot write the cache folder", "data.cache_dir")
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert runs.here("none") == 0


def test_a_folder_that_may_not_be_written(tmp_path):
    runs, anyone = Runs(tmp_path), AS_ANYONE if os.geteuid() == 0 else ()
    if anyone and subprocess.run([*anyone, "true"], capture_output=True).returncode:
        pytest.skip("root may not give up its rights here")
    assert runs.here("theirs", "--train.max_steps", "4") == 0
    for path in (*(tmp_path / "theirs").rglob("*"), tmp_path / "theirs"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = (tmp_path / "theirs" / "summary.json").read_bytes()
    code, _, err = runs.outside("theirs", "--train.max_steps", "4", launcher=(*anyone, sys.executable))
    assert code == 2, err
    one_line(err, "ermission")
    assert (tmp_path / "theirs" / "summary.json").read_bytes() == before


def test_a_run_folder_that_is_gone_is_not_made_again_in_silence(tmp_path):
    runs = Runs(tmp_path)
    process = runs.start("gone", "--train.max_steps", "100000", "--train.save_every", "200")
    metrics = tmp_path / "gone" / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert process.poll() is None
        time.sleep(0.1)
    (tmp_path / "gone").rename(tmp_path / "elsewhere")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    one_line(err, "gone")
    assert not (tmp_path / "gone").exists()


def test_the_limit_is_real(tmp_path):
    code = f"open({str(tmp_path / 'file')!r}, 'wb').write(bytes(200_000))"
    answer = subprocess.run([*limited(100_000), "-c", code], capture_output=True, text=True)
    assert "File too large" in answer.stderr
    assert (tmp_path / "file").stat().st_size <= 100_000
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_what_a_full_disk_is_called_and_what_to_do_about_it(tmp_path):
    code = (
        "import errno; from pathlib import Path\n"
        "from resformer.files import replacing; from resformer.programs import run_program\n"
        "def main():\n"
        f"    with replacing(Path({str(tmp_path / 'layers.parquet')!r})):\n"
        "        raise OSError(errno.ENOSPC, 'Error writing bytes. Detail: [errno 28] No space left')\n"
        "run_program(main)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.returncode == 2
    one_line(answer.stderr, "layers.parquet", "make room and start again")
    assert "Detail" not in answer.stderr
