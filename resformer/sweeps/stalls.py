"""Trials that stand still: what a hung device or a lost peer leaves behind, which would hold their sweep for ever."""

import os
import time
from pathlib import Path
from statistics import median

from .state import State
from .timing import read_steps
from .trials import Trial

_LOOK_EVERY = 5.0
"""Seconds, at most: a look reads the names and times of a few files of each running trial."""


class Stalls:
    """Finds running trials none of whose files has changed for ``executor.stall`` times a step, or for
    ``executor.stall_seconds`` where that is longer. By this process's clock: file systems and clocks differ."""

    def __init__(self, state: State):
        self.state, self.executor = state, state.sweep.config.executor
        self.steps = {key: step.seconds for key, step in read_steps(state.sweep.folder).items()}
        self.seen: dict[Trial, tuple[frozenset, float]] = {}
        self.reasons: dict[Trial, str] = {}
        self.looked = 0.0

    def find(self) -> list[Trial]:
        """Those that stand still now."""
        now = time.monotonic()
        if not self.executor.stall or now - self.looked < min(_LOOK_EVERY, self.executor.stall_seconds / 4):
            return []
        self.looked = now
        found = []
        for trial in self.state.running:
            files, (before, since) = _files(self.state.sweep.run_dir(trial)), self.seen.get(trial, (None, now))
            if files != before or (before is None and self.executor.name == "slurm"):  # it may wait in a queue
                self.seen[trial] = (files, now)
            elif now - since > (limit := self.limit(trial)):
                self.reasons[trial] = f"ended after {now - since:.0f} s without progress, where {limit:.0f} are allowed"
                found.append(trial)
        return found

    def limit(self, trial: Trial) -> float:
        """Seconds."""
        cell = (trial.arm, trial.point)
        known = [outcome.step_seconds for other, outcome in self.state.outcomes.items()
                 if (other.arm, other.point) == cell and outcome.step_seconds]  # fmt: skip
        step = median(known) if known else self.steps.get(cell, 0.0)
        return max(self.executor.stall_seconds, self.executor.stall * step)

    def reason(self, trial: Trial) -> str | None:
        """Why a trial that has ended was ended, if it was."""
        self.seen.pop(trial, None)
        return self.reasons.pop(trial, None)


def _files(folder: Path) -> frozenset:
    found = []
    for place in (folder, folder / "checkpoints"):
        try:
            with os.scandir(place) as entries:
                found += [(entry.path, (said := entry.stat()).st_mtime_ns, said.st_size) for entry in entries]
        except OSError:  # not there yet, or a file went as it was looked at
            continue
    return frozenset(found)
