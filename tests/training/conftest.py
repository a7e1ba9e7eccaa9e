import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = "the quick brown fox jumps over a lazy dog while seven wizards mix bold potions for queen jade"
SMALL = """
    --model.hidden_size 32 --model.num_hidden_layers 2 --data.tokenizer bytes --data.sequence_length 32
    --train.max_steps 8 --train.batch_size 8 --train.save_every 4 --train.eval_every 4 --train.eval_sequences 8
    --train.log_every 2
"""


class Trainer:
    """Runs recipes/train.py as a person does, on a small text of its own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.text = folder / "text.txt"
        words = TEXT.split()
        self.text.write_text("".join(f"{words[i * i % 18]} {words[i * 7 % 18]}.\n" for i in range(3000)))

    def command(self, run: str, *flags: str, launcher: tuple[str, ...] = ()) -> list[str]:
        return [
            *(launcher or (sys.executable,)), str(ROOT / "recipes" / "train.py"),
            "--data.source", str(self.text), "--data.cache_dir", str(self.folder / "cache"),
            "--run_dir", str(self.folder / run), *SMALL.split(), *flags,
        ]  # fmt: skip

    @property
    def environment(self) -> dict[str, str]:
        paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return os.environ | {"PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "RESFORMER_NUM_THREADS": "1"}

    def __call__(self, run: str, *flags: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
        command = self.command(run, *flags, launcher=launcher)
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=self.environment, check=False)

    def metrics(self, run: str) -> list[dict]:
        lines = (self.folder / run / "metrics.jsonl").read_text().splitlines()
        return [{k: v for k, v in json.loads(line).items() if k != "tokens_per_second"} for line in lines]

    def summary(self, run: str) -> dict:
        return json.loads((self.folder / run / "summary.json").read_text())


@pytest.fixture(scope="session")
def train(tmp_path_factory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("runs"))
