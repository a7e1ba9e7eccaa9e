"""Kill one run again and again, at random moments of every phase, and compare its end with that of a run left alone.

python tests/robustness/kill_harness.py [--kills 60] [--seed 0] [--folder EMPTY_FOLDER]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from run_helpers import Runs, differences, strict_json
from tqdm import tqdm
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import resformer  # noqa: F401
from resformer.files import damage

FLAGS = """
    --data.tokenizer bpe:400 --train.max_steps 300 --train.batch_size 8 --train.micro_batch_size 4
    --model.hidden_dropout 0.1 --train.save_every 3 --train.eval_every 4 --train.eval_sequences 32
    --data.num_workers 1 --train.record_every 4
"""
PHASES = ("start-up", "cache build", "training", "save", "evaluation", "end")


def main(kills: int, seed: int, folder: Path) -> int:
    """Returns 0 if nothing was lost, and prints what was done to the run."""
    random.seed(seed)
    logging.disable_progress_bar()
    runs = Runs(folder)
    runs.text.write_text(runs.text.read_text() * 8)  # so that building its cache takes a while
    began = time.monotonic()
    process = runs.start("undisturbed", *FLAGS.split())
    while not count_lines(folder / "undisturbed") and process.poll() is None:
        time.sleep(0.01)
    start_up = time.monotonic() - began
    _, err = process.communicate()
    assert process.returncode == 0, err
    shutil.rmtree(folder / "cache")

    faults: list[str] = []
    done: Counter[str] = Counter()
    kinds = [random.choice(PHASES[:2]) for _ in range(kills // 5)]
    kinds += [random.choice(("start-up", *PHASES[2:5])) for _ in range(kills - len(kinds) - kills // 15)]
    kinds += ["end"] * (kills // 15)
    for number, kind in enumerate(tqdm(kinds, desc="kills", disable=not sys.stderr.isatty())):
        found_at = kill_once(runs, kind, start_up)
        done[found_at] += 1
        if found_at == "what had ended by itself":
            break
        faults += [f"after kill {number + 1} ({found_at}): {fault}" for fault in torn(folder / "killed")]
    code, _, err = runs.outside("killed", *FLAGS.split())
    faults += [f"the last start ended with {code}: {err[-300:]}"] if code else []
    faults += differences(folder / "undisturbed", folder / "killed") if not code else []

    print(f"seed                    {seed}")
    ended = done.pop("what had ended by itself", 0)
    faults += ["the run ended before the last kill"] * ended
    print(f"kills                   {sum(done.values())}: " + ", ".join(f"{n} in {kind}" for kind, n in done.items()))
    print(f"steps of the run        300, {300 // 3} checkpoints, {300 // 4 - 1} evaluations")
    print(f"torn files, faults      {len(faults)}")
    for fault in faults:
        print(f"  {fault}")
    equal = "weights, moments, metrics, every row of layers.parquet and summary equal"
    print(f"lost                    {'see above' if faults else f'nothing: {equal}'}")
    return 1 if faults else 0


def kill_once(runs: Runs, kind: str, start_up: float) -> str:
    """Start the run, wait for a moment of ``kind``, kill it with all its children. Returns where it stood."""
    run = runs.folder / "killed"
    lines_before, leftovers = count_lines(run), set(hidden(runs))
    moments: dict[str, tuple[Callable[[], bool], float]] = {
        "start-up": (lambda: True, start_up),
        "cache build": (lambda: any((runs.folder / "cache").glob(".*")), 0.35),
        "training": (lambda: count_lines(run) > lines_before, 0.3),
        "save": (lambda: any((run / "checkpoints").glob(".step-*.tmp-*")), 0.06),
        "evaluation": (lambda: count_lines(run) > lines_before and evaluates(run), 0.03),
        "end": (lambda: any(run.glob(".model.tmp-*")), 0.03),
    }
    reached, window = moments[kind]
    if kind == "cache build":  # a kill that came late may have left a whole one
        shutil.rmtree(runs.folder / "cache", ignore_errors=True)
    process = runs.start("killed", *FLAGS.split(), output=subprocess.DEVNULL)
    while process.poll() is None and not reached():
        time.sleep(0.002)
    deadline = time.monotonic() + random.uniform(0, window)
    while time.monotonic() < deadline and not (kind == "start-up" and count_lines(run) > lines_before):
        time.sleep(0.002)
    if process.poll() is not None:
        return "what had ended by itself"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    new = {path.parent.name if path.name[1:5] != "mode" else "end" for path in set(hidden(runs)) - leftovers}
    for place, name in (("cache", "cache build"), ("checkpoints", "save"), ("end", "end")):
        if place in new:
            return name
    if count_lines(run) <= lines_before:
        return "start-up"
    return "evaluation" if evaluates(run) else "training"


def hidden(runs: Runs) -> list[Path]:
    """The folders that are being written, or were when a kill came."""
    killed = runs.folder / "killed"
    return [
        *(runs.folder / "cache").glob(".*"), *(killed / "checkpoints").glob(".step-*"), *killed.glob(".model.*")
    ]  # fmt: skip


def count_lines(run: Path) -> int:
    try:
        return (run / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def evaluates(run: Path) -> bool:
    """The last line is of a step after which an evaluation stands, or the end has come."""
    last = (run / "metrics.jsonl").read_bytes().splitlines()[-1:]
    try:
        line = json.loads(last[0])
    except (IndexError, ValueError):
        return False
    return line["step"] % 4 == 0 and "val_loss" not in line


def torn(run: Path) -> list[str]:
    """What of a killed run's files does not open."""
    found = []
    for path in run.glob("checkpoints/step-*"):
        if wrong := damage(path):
            found.append(f"{path.name}: {wrong}")
        else:
            AutoModelForCausalLM.from_pretrained(path)
    for path in [run / "summary.json"] if (run / "summary.json").exists() else []:
        strict_json(path.read_text())
    text = (run / "metrics.jsonl").read_text() if (run / "metrics.jsonl").exists() else ""
    for line in text.splitlines():
        try:
            strict_json(line)
        except ValueError:
            found.append(f"metrics.jsonl: {line[:40]!r} does not parse")
    if text and not text.endswith("\n"):
        found.append("metrics.jsonl ends within a line")
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.folder:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        sys.exit(main(arguments.kills, arguments.seed, arguments.folder))
    with tempfile.TemporaryDirectory() as temporary:
        sys.exit(main(arguments.kills, arguments.seed, Path(temporary)))
