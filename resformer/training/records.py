"""What a run says while it trains: metrics.jsonl, the trackers, and the bar or the lines on the screen."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from .files import write_atomically


class Recorder:
    """Writes one line of metrics.jsonl per logged step, on the main process only.

    Args:
        file: the metrics.jsonl to append to; lines beyond ``step`` (of a run that was killed) are dropped.
        step: optimiser steps done.
        max_steps: where the bar ends.
    """

    def __init__(self, file: Path, accelerator: Accelerator, step: int, max_steps: int):
        self.accelerator = accelerator
        self.main = accelerator.is_main_process
        if self.main:
            kept = [line for line in _lines(file) if line["step"] <= step]
            write_atomically(file, "".join(json.dumps(line) + "\n" for line in kept))
            self.file = open(file, "a", encoding="utf-8")  # noqa: SIM115
        self.bar = tqdm(
            total=max_steps, initial=step, unit="step", disable=not (self.main and sys.stderr.isatty()), leave=False
        )
        self.tokens_at: int | None = None
        self.clock = time.perf_counter()

    def log(self, step: int, tokens: int, **values: Any) -> None:
        """One line. ``tokens`` counts all tokens trained on so far."""
        now = time.perf_counter()
        if "loss" in values:
            if self.tokens_at is not None:
                values["tokens_per_second"] = (tokens - self.tokens_at) / (now - self.clock)
                self.bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")
            self.tokens_at, self.clock = tokens, now
        if self.main:
            self.file.write(json.dumps({"step": step, "tokens": tokens, **values}) + "\n")
            self.file.flush()
        self.accelerator.log(values, step=step)

    def advance(self) -> None:
        self.bar.update()

    def pause(self) -> None:
        """Start the clock of tokens_per_second anew, after an evaluation or a checkpoint."""
        self.clock = time.perf_counter()

    def say(self, text: str) -> None:
        if self.main:
            self.bar.write(text, file=sys.stdout)

    def close(self) -> None:
        self.bar.close()
        if self.main:
            os.fsync(self.file.fileno())
            self.file.close()


def _lines(file: Path) -> list[dict]:
    if not file.exists():
        return []
    lines = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # the last line of a run that was killed while it wrote
            break
    return lines
