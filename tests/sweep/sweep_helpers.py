"""A sweep in a second: a training program whose losses follow from its configuration, and a definition for it."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]
WORDS = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "while", "seven", "wizards"]

# Writes what a run writes. An arm's weight_decay says how it behaves: 0.5 dies hard, 0.6 dies once, 0.7 diverges,
# 0.8 refuses, 0.9 hangs twice with seed 9.
PROGRAM = """
import json, math, os, random, signal, sys, time
from pathlib import Path
from resformer.stability.table import LayerTable
from resformer.data import load_corpus
from resformer.training.launch import default_precision
from resformer.files import write_json, write_yaml

def main(config):
    folder = Path(config.run_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_yaml(folder / "config.yaml", config.as_dict())
    kind, rate = config.optimizer.weight_decay, config.optimizer.learning_rate
    with open(folder / "runs", "a") as file:
        file.write("x")
    if kind == 0.8:
        raise ValueError("no such thing")
    if kind == 0.5 or (kind == 0.6 and len((folder / "runs").read_text()) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    stopped = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.append(1))
    if kind == 0.9 and config.seed == 9 and len((folder / "runs").read_text()) < 3:
        time.sleep(600)
    print("training", config.run_dir)
    for _ in range(int(os.environ.get("TENTHS", "0"))):
        time.sleep(0.1)
        if stopped:
            write_json(folder / "summary.json", {"status": "interrupted"})
            return 143
    noise = random.Random(f"{config.init_seed} {config.model.residual} {config.model.num_hidden_layers}").gauss(0, 1e-3)
    loss = 2 + 0.3 * (math.log10(rate) + 2.5) ** 2 + noise + {"post": 0.5, "plain": 5.0}.get(config.model.residual, 0)
    lines = [{"step": s, "tokens": 64 * s, "loss": 5.5 + (loss - 5.5) * s / 4} for s in range(1, 5)]
    for line in lines[1:]:
        line["tokens_per_second"] = 640.0 + config.model.num_hidden_layers
    if kind == 0.7:
        lines, loss = lines[:2], None
    table, last = LayerTable(folder / "layers.parquet", 0), config.model.num_hidden_layers - 1
    for step in (0, len(lines)):
        rows = [(-1, "embedding", "stream_rms", 1.0), (-1, "embedding", "stream_gradient_rms", 1.0)]
        for layer in range(last + 1):
            for half, sublayer in enumerate(("attention", "mlp"), start=1):
                rows.append((layer, sublayer, "stream_rms", 2.0 ** (2 * layer + half)))
                rows.append((layer, sublayer, "stream_gradient_rms", 1 + abs(noise)))
            rows += [(layer, "mlp", "gradient_norm.down_proj", 4.0 - layer), (layer, "mlp", "internal.gate", 0.5)]
        table.append(step, rows)
    table.write()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\\n" for line in lines))
    write_json(folder / "summary.json", {
        "status": "diverged" if loss is None else "completed", "step": len(lines), "tokens": 64 * len(lines),
        "val_loss": loss, "unigram_entropy": 3.3, "wall_seconds": 0.1, "parameters": 100,
        "residual": config.model.residual,
        "floating_point_operations": 1e6, "data_source": "t", "device": "d",
        "data_fingerprint": load_corpus(config.data).fingerprint, "precision": default_precision(),
    })
    return 3 if loss is None else 0
"""


def definition(folder: Path, **changes) -> dict:
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("".join(f"{WORDS[i * i % 12]} {WORDS[i * 7 % 12]}.\n" for i in range(2000)))
    whole = {
        "sweep_dir": str(folder / "sweep"),
        "base": {
            "model": {"hidden_size": 32, "num_hidden_layers": 1},
            "data.source": str(text), "data.cache_dir": str(folder / "cache"), "data.tokenizer": "bytes",
            "data.sequence_length": 32,
            "train": {"max_steps": 4, "batch_size": 2},
        },
        "arms": {
            "pre": {"model.residual": "pre"},
            "again": {"model.residual": "pre"},
            "post": {"model.residual": "post"},
            "plain": {"model.residual": "plain"},
        },
        "grid": {"model.num_hidden_layers": [1, 2]},
        "learning_rates": {"grid": [1e-3, 3e-3, 1e-2], "extend_by": 2, "multiples": [1]},
        "seeds": {"tuning": [9], "reporting": [0, 1, 2, 3, 4, 5]},
        "program": "quick:main",
        "controls": {"a_a_control": "again", "positive_control": "plain"},
    }  # fmt: skip
    return whole | changes


def command(folder: Path, whole: dict, *flags: str) -> list[str]:
    """recipes/sweep.py as a person calls it, with the quick program in place of the Trainer."""
    file, quick = folder / "sweep.yaml", folder / "quick.py"
    file.write_text(yaml.safe_dump(whole, sort_keys=False))
    quick.write_text(PROGRAM)
    start = (
        f"import sys; sys.path[:0] = {[str(ROOT / 'recipes'), str(folder)]!r}; import sweep; "
        "from resformer.programs import run_program; run_program(sweep.main)"
    )
    return [sys.executable, "-c", start, "--config", str(file), *flags]


def environment(**extra: str) -> dict[str, str]:
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    own = {"RESFORMER_TRUST": "quick", "PYTHONPATH": paths}  # the program of `definition`, which only its file names
    return os.environ | own | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | extra


def sweep(folder: Path, whole: dict, *flags: str, **extra: str) -> subprocess.CompletedProcess:
    line = command(folder, whole, *flags)
    return subprocess.run(line, capture_output=True, text=True, timeout=300, env=environment(**extra), check=False)
