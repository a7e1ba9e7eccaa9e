"""What a run says while it trains: metrics.jsonl, the trackers, and the bar or the lines on the screen."""

import json
import os
import time
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from tqdm.auto import tqdm

from ..files import null_where_not_finite, write_atomically
from ..programs import is_watched


class MetricsLog:
    """Writes one line of metrics.jsonl per logged step, on the main process only.

    Args:
        file: the metrics.jsonl to append to.
        step: optimiser steps done.
        max_steps: where the bar ends.
        lines: how many of the file's lines belong to the steps done; what a run that was killed wrote after them goes.
        tokens_per_step: of an optimiser step, over all processes.
    """

    def __init__(
        self, file: Path, accelerator: Accelerator, *, step: int, max_steps: int, lines: int = 0, tokens_per_step: int
    ):
        self.path, self.accelerator, self.main = file, accelerator, accelerator.is_main_process
        self.tokens_per_step = tokens_per_step
        self.file: Any = None
        self.rewind(lines)
        self.bar = tqdm(
            total=max_steps, initial=step, unit="step", disable=not (self.main and is_watched()), leave=False
        )
        self.tokens_at: int | None = None
        self.clock = time.perf_counter()

    def rewind(self, lines: int, keep_events: bool = False) -> None:
        """Keep the first ``lines`` lines, and of those after them the events if asked for, and write on from there."""
        self.lines = lines
        if self.main:
            self._close()
            text = self.path.read_bytes().decode("utf-8", "replace") if self.path.is_file() else ""
            written = text.split("\n")[:-1]
            kept = written[:lines] + [line for line in written[lines:] if keep_events and "event" in json.loads(line)]
            write_atomically(self.path, "".join(line + "\n" for line in kept))
            self.lines = len(kept)
            # Unbuffered: what did not fit on a full disk must not be tried again while the program ends.
            self.file = open(self.path, "ab", buffering=0)  # noqa: SIM115

    def write(self, step: int, **values: Any) -> None:
        """One line of what is known after ``step`` optimiser steps. Raises OSError if it cannot be written."""
        now, tokens = time.perf_counter(), step * self.tokens_per_step
        if "loss" in values:
            if self.tokens_at is not None:
                values["tokens_per_second"] = (tokens - self.tokens_at) / (now - self.clock)
                self.bar.set_postfix_str(f"loss {values['loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s")
            self.tokens_at, self.clock = tokens, now
        values = null_where_not_finite(values)
        self.lines += 1
        if self.main:
            line = (json.dumps({"step": step, "tokens": tokens, **values}) + "\n").encode()
            try:
                written = self.file.write(line)
            except OSError as error:
                raise OSError(f"cannot write {self.path} ({error.strerror}); {_ROOM}") from error
            if written != len(line):
                raise OSError(f"cannot write {self.path} (no space left); {_ROOM}")
        self.accelerator.log({k: v for k, v in values.items() if isinstance(v, (int, float))}, step=step)

    def advance(self, step: int) -> None:
        """Move the bar to ``step``."""
        self.bar.update(step - self.bar.n)

    def synchronise(self) -> int:
        """Everything logged is on the disk; the number of lines, for the checkpoint that is about to be saved."""
        if self.main:
            os.fsync(self.file.fileno())
        return self.lines

    def pause(self) -> None:
        """Start the clock of tokens_per_second anew, after an evaluation or a checkpoint."""
        self.clock = time.perf_counter()

    def close(self) -> None:
        self.bar.close()
        if self.main:
            os.fsync(self.file.fileno())
            self._close()

    def _close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None


_ROOM = "make room and start again: the run goes on from its last checkpoint"
