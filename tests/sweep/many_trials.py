"""A sweep of many trials of about a second each in one worker: its memory, and the time that is not the trials'.

python tests/sweep/many_trials.py [--seeds 48] [--text FILE] [--folder EMPTY_FOLDER]

48 reporting seeds make 1,000 trials of the grid, and more at the best rates that lie between two of them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import yaml
from sweep_helpers import ROOT, environment

SWEEP = {
    "base": {
        "model": {"hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2},
        "data": {"tokenizer": "bytes", "sequence_length": 32, "validation_fraction": 0.002},
        "optimizer": {"name": "adamw"},
        "schedule": {"warmup_steps": 3},
        "train": {
            "max_steps": 12, "batch_size": 8, "eval_every": 12, "eval_sequences": 16, "save_every": 12,
            "record_every": 6,
        },
    },
    "arms": {
        "pre": {"model.residual": "pre"}, "pre again": {"model.residual": "pre"}, "post": {"model.residual": "post"},
        "plain": {"model.residual": "plain"},
    },
    "learning_rates": {"grid": [1e-3, 3e-3, 1e-2, 3e-2, 1e-1], "extend_by": 0, "multiples": [1]},
    "controls": {"baseline": "pre", "a_a_control": "pre again", "positive_control": "plain"},
    "executor": {"workers": 1},
    "keep": "figures",
}  # fmt: skip


@dataclass
class Many:
    """Trials in the order in which they ended: megabytes at the peak of each, its seconds, and those of the whole."""

    peaks: list[float]
    seconds: list[float]
    wall: float

    def peak(self, number: int) -> float:
        """Median of the ten trials up to trial ``number``, from 1."""
        return median(self.peaks[max(0, number - 10) : number])


def many_trials(folder: Path, seeds: int, text: str) -> Many:
    """Run the sweep in ``folder`` to its end."""
    told = SWEEP | {"sweep_dir": str(folder / "sweep")}
    told["seeds"] = {"tuning": [1000, 1001], "reporting": list(range(seeds)), "reporting_rates": "all"}
    told["base"]["data"] |= {"source": text, "cache_dir": str(folder / "cache")}
    file = folder / "many.yaml"
    file.write_text(yaml.safe_dump(told))
    began = time.monotonic()
    command = [sys.executable, str(ROOT / "recipes" / "sweep.py"), "--config", str(file)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return read(folder / "sweep", time.monotonic() - began)


def read(sweep: Path, wall: float) -> Many:
    files = sorted(sweep.glob("trials/*/attempts.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    attempts = [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
    assert all(one["exit_code"] in (0, 3) for found in attempts for one in found), "a trial failed"
    return Many(
        [max(one["peak_memory"] for one in found) / 2**20 for found in attempts],
        [sum(one["seconds"] for one in found) for found in attempts],
        wall,
    )


def told_of(found: Many) -> str:
    number, trials = len(found.peaks), sum(found.seconds)
    looks = [at for at in (10, 50, 100, 200, 500, 1000) if at < number] + [number]
    lines = [
        f"trials                  {number:,}, median {median(found.seconds):.2f} s",
        f"whole sweep             {found.wall:,.0f} s, of which {trials:,.0f} s in trials, "
        f"{1000 * (found.wall - trials) / number:,.0f} ms a trial beside them",
        *(f"worker at trial {at:<8,}{found.peak(at):,.0f} MB" for at in looks),
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    python = Path(os.__file__).parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=48)
    parser.add_argument("--text", default=f"{python}/[a-c]*.py", help="by default a part of Python's standard library")
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        place = arguments.folder or Path(temporary)
        place.mkdir(parents=True, exist_ok=True)
        print(told_of(many_trials(place, arguments.seeds, arguments.text)))
