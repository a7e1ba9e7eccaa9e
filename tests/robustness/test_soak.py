"""The first minutes of the soak beside this file, which prints what it did."""

import os
import subprocess
from pathlib import Path

import pytest
import soak


@pytest.mark.slow
def test_two_minutes_of_faults_lose_nothing(tmp_path, capsys):
    text = str(Path(os.__file__).parent / "[a-c]*.py")
    code = soak.main(minutes=2, text=text, seed=3, steps=400, folder=tmp_path)
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert "lost                    nothing" in printed and " attempts" in printed


def test_a_damaged_run_and_a_full_disk_are_real(tmp_path):
    """What the soak does, it does: a disk that is full, a file that is another, a clock that goes back."""
    disk = soak.Disk(tmp_path / "disk")
    try:
        harness = soak.Soak(soak.Runs(tmp_path), disk, [], 1000)
        (harness.run / "checkpoints" / "step-00000050").mkdir(parents=True)
        (harness.run / "checkpoints" / "step-00000050" / "model.safetensors").write_bytes(bytes(100))
        harness.damage_a_file()
        assert harness.damaged.total() == 1 and harness.ours == {harness.run / "checkpoints" / "step-00000050"}
        assert harness.step() == 50
        if disk.mounted:
            disk.fill()
            with pytest.raises(OSError, match="No space left"):
                (disk.place / "more").write_bytes(bytes(5000))
            disk.empty()
            (disk.place / "more").write_bytes(bytes(5000))
        if harness.clock:
            told = {"LD_PRELOAD": str(harness.clock), "SOAK_AFTER": "0", "SOAK_BACK": "86400"}
            now, then = (
                int(subprocess.run(["date", "+%s"], capture_output=True, text=True, env=os.environ | more).stdout)
                for more in ({}, told)
            )
            assert abs(now - then - 86400) < 60
    finally:
        disk.unmount()
