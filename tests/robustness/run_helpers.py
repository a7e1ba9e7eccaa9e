"""Runs of recipes/train.py, in this process or in their own, and what it means that two are equal."""

from __future__ import annotations

import json
import os
import random
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas
from accelerate.state import AcceleratorState, PartialState
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TRAIN = str(ROOT / "recipes" / "train.py")
WORDS = "the quick brown fox jumps over a lazy dog while seven wizards mix bold potions for queen jade"
SMALL = """
    --model.hidden_size 32 --model.num_hidden_layers 2 --data.tokenizer bytes --data.sequence_length 32
    --train.max_steps 8 --train.batch_size 8 --train.save_every 4 --train.eval_every 2 --train.eval_sequences 8
    --train.log_every 1 --train.draw false
"""
UNLIKE = {"tokens_per_second", "wall_seconds", "seconds"}  # what no two runs share


class Runs:
    """Small runs over one text, in one folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = folder / "text.txt"
        draw = random.Random(0)
        words = WORDS.split()
        self.text.write_text("".join(f"{' '.join(draw.choices(words, k=6))}.\n" for _ in range(1500)))

    def arguments(self, run: str, *flags: str) -> list[str]:
        source = ["--data.source", str(self.text), "--data.cache_dir", str(self.folder / "cache")]
        return [TRAIN, *source, "--run_dir", str(self.folder / run), *SMALL.split(), *flags]

    def here(self, run: str, *flags: str) -> int:
        """Run in this process, so that tests can put faults into it. Returns the exit code; raises its errors."""
        try:
            return runpy.run_path(TRAIN)["main"](self.arguments(run, *flags)[1:])
        finally:
            AcceleratorState._reset_state()
            PartialState._reset_state()

    def start(
        self, run: str, *flags: str, launcher: tuple[str, ...] = (sys.executable,), output: int = subprocess.PIPE
    ) -> subprocess.Popen:
        """Run in a process group of its own."""
        return subprocess.Popen(
            [*launcher, *self.arguments(run, *flags)],
            stdout=output, stderr=output, text=True, env=self.environment(), start_new_session=True,
        )  # fmt: skip

    @staticmethod
    def environment() -> dict[str, str]:
        """Of a run in a process of its own."""
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "RESFORMER_NUM_THREADS": "1"}

    def outside(self, run: str, *flags: str, launcher: tuple[str, ...] = (sys.executable,)) -> tuple[int, str, str]:
        """(exit code, standard output, standard error) of a run in processes of its own."""
        process = self.start(run, *flags, launcher=launcher)
        out, err = process.communicate(timeout=400)
        return process.returncode, out, err

    def metrics(self, run: str) -> list[dict[str, Any]]:
        return read_metrics(self.folder / run)

    def summary(self, run: str) -> dict[str, Any]:
        return json.loads((self.folder / run / "summary.json").read_text())


def torchrun(processes: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes))


def read_metrics(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in strict_json(line).items() if k not in UNLIKE} for line in lines]


def steps_counted(model: Path) -> set[int]:
    """What the connections of a saved model that change with training hold for the steps that were made."""
    tensors = load_file(model / "model.safetensors")
    return {int(tensor) for name, tensor in tensors.items() if name.endswith("_residual.t")}


def strict_json(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def differences(one: Path, two: Path) -> list[str]:
    """Names of what differs between two finished runs: weights, optimiser moments, states, metrics, summary, files."""
    found = []
    files = [{p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()} for run in (one, two)]
    found += [f"only one has {name}" for name in sorted(files[0] ^ files[1])]
    for name in sorted(files[0] & files[1]):
        a, b = one / name, two / name
        if name.endswith(".safetensors"):
            same = a.read_bytes() == b.read_bytes()
        elif name.endswith(("trainer_state.json", "summary.json")):
            values = [
                {k: v for k, v in json.loads(p.read_text()).items() if k not in UNLIKE | {"git_commit"}} for p in (a, b)
            ]
            same = values[0] == values[1]
        elif name == "metrics.jsonl":
            same = read_metrics(one) == read_metrics(two)
        elif name == "layers.parquet":
            tables = [pandas.read_parquet(path) for path in (a, b)]
            same = tables[0].equals(tables[1])
            name += f" ({len(tables[0])} and {len(tables[1])} rows)"
        else:
            continue
        if not same:
            found.append(f"{name} differs")
    return found
