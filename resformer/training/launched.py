"""Runs of ``train.py`` in processes of their own, for what one process cannot measure."""

import json
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from ..programs import RECIPES


def launched_run(configuration: str, processes: int, told: dict[str, Any], cpu: bool) -> dict[str, Any]:
    """A run on random text under one of ``recipes/accelerate``.

    Args:
        configuration: its name.
        told: keys of the run.
        cpu: hide the GPUs from it.

    Returns:
        ``exit_code``, and the run's summary; or ``error``, the end of what it said.
    """
    paths = os.pathsep.join([str(RECIPES.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": paths} | ({"CUDA_VISIBLE_DEVICES": ""} if cpu else {})
    with TemporaryDirectory() as folder:
        letters = torch.randint(ord("a"), ord("z"), (2**18,), generator=torch.Generator().manual_seed(0))
        Path(folder, "text.txt").write_bytes(bytes(letters.tolist()))
        told = told | {
            "data.source": f"{folder}/text.txt", "data.tokenizer": "bytes", "data.cache_dir": f"{folder}/cache",
            "train.draw": False, "run_dir": f"{folder}/run",
        }  # fmt: skip
        launch = ["--config_file", RECIPES / "accelerate" / f"{configuration}.yaml", "--num_processes", processes]
        words = [*launch, "--main_process_port", 0, RECIPES / "train.py"]
        words += [word for key, value in told.items() for word in (f"--{key}", value)]
        run = subprocess.run(
            [sys.executable, "-m", "accelerate.commands.launch", *map(str, words)],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        if run.returncode:
            return {"exit_code": run.returncode, "error": run.stderr[-2000:]}
        return {"exit_code": 0} | json.loads(Path(folder, "run", "summary.json").read_text(encoding="utf-8"))
