"""The loop that keeps an executor busy until a sweep wants nothing more."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from ..files import locked, write_json, write_yaml
from ..programs import BAD_INPUT, INTERRUPTED
from .analysis import Result
from .executors import Executor
from .outcomes import Outcome, TornTrial, read_outcome, set_aside, with_degraded
from .trials import Sweep, Trial
from .wanted import wanted
from .worker import Ended, Job

TRIAL_FILE = "trial.yaml"


@dataclass
class State:
    """Where a sweep stands. ``failed``: trials given up in this session, each with the reason."""

    sweep: Sweep
    trials: list[Trial] = field(default_factory=list)
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    running: dict[Trial, float] = field(default_factory=dict)
    failed: dict[Trial, str] = field(default_factory=dict)
    attempts: dict[Trial, int] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    trial_seconds: float = 0.0
    overhead: float | None = None
    """Share of this session's worker time that no trial used."""

    @property
    def results(self) -> list[Result]:
        return with_degraded((outcome.result for outcome in self.outcomes.values()), self.sweep.config.statistics.delta)

    @property
    def waiting(self) -> list[Trial]:
        busy = self.outcomes.keys() | self.running.keys() | self.failed.keys()
        return [trial for trial in self.trials if trial not in busy]

    def plan(self) -> None:
        raw = [outcome.result for outcome in self.outcomes.values()]
        self.trials = wanted(self.sweep, raw, self.failed)


def load(sweep: Sweep, set_torn_aside: bool = False) -> State:
    """What the files of a sweep say. A torn trial counts as not run; with ``set_torn_aside`` its folder is renamed."""
    state = State(sweep)
    while True:
        state.plan()
        unread = [trial for trial in state.trials if trial not in state.outcomes and trial not in state.attempts]
        if not unread:
            state.attempts.clear()
            return state
        for trial in unread:
            state.attempts[trial] = 0
            _read(state, trial, set_torn_aside)


def run(
    sweep: Sweep, executor: Executor, program: str, state: State, show: Callable[[State], None] = lambda state: None
) -> int:
    """Run what is wanted and not finished. What stands in ``state`` is neither run again nor forgotten.

    Args:
        program: file of the training program; its ``main(arguments)`` returns the exit codes of a run.
        show: called whenever something changed, and about four times a second.

    Returns:
        0 when all is done, 1 where trials were given up, 130 or 143 after an interruption.

    Raises:
        ValueError: if another process runs this sweep.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(sweep.folder / ".lock", wait=False))
        except BlockingIOError:
            raise ValueError(f"{sweep.folder}: another process runs this sweep; wait for it, or end it first") from None
        return _run(sweep, executor, program, state, show)


def _run(sweep: Sweep, executor: Executor, program: str, state: State, show: Callable[[State], None]) -> int:
    caught: list[int] = []

    def note(number, frame):
        if caught:
            os._exit(INTERRUPTED[number])
        caught.append(INTERRUPTED[number])

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, note) for number in (INTERRUPTED if here else ())}
    start = time.perf_counter()
    try:
        while not caught:
            state.plan()
            for trial in state.waiting[: executor.slots - len(state.running)]:
                executor.submit(make_job(sweep, trial, program))
                state.running[trial] = time.perf_counter()
            if not state.running:
                break
            for ended in executor.wait(0.25):
                _settle(state, ended)
            show(state)
        if caught:
            print("stopping: the running trials save; once more Ctrl-C ends at once", file=sys.stderr, flush=True)
            executor.stop()
            state.running.clear()
    finally:
        executor.close()
        for number, handler in before.items():
            signal.signal(number, handler)
    _record_session(state, executor, time.perf_counter() - start)
    return caught[0] if caught else int(bool(state.failed))


def make_job(sweep: Sweep, trial: Trial, program: str) -> Job:
    folder, executor = sweep.run_dir(trial), sweep.config.executor
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / TRIAL_FILE
    if not file.exists():
        write_yaml(file, sweep.run_config(trial))
    return Job(trial.name, str(folder), program, ("--config", str(file)), executor.processes, executor.threads)


def _settle(state: State, ended: Ended) -> None:
    """Believe the files of a trial that ended, whatever its exit code: it may have been killed after its last word."""
    trial = next(trial for trial in state.running if trial.name == ended.name)
    del state.running[trial]
    state.trial_seconds += ended.seconds
    _read(state, trial, set_torn_aside=True)
    if trial in state.outcomes or ended.exit_code in INTERRUPTED.values():
        return
    state.attempts[trial] = state.attempts.get(trial, 0) + 1
    reason = ended.message or f"exit code {ended.exit_code}"
    if ended.exit_code == BAD_INPUT or state.attempts[trial] > state.sweep.config.executor.retries:
        state.failed[trial] = reason
        log = state.sweep.run_dir(trial) / "log.txt"
        state.warnings.append(f"{trial.name} failed ({reason}); its words are in {log}; the same command tries it anew")


def _read(state: State, trial: Trial, set_torn_aside: bool) -> None:
    folder = state.sweep.run_dir(trial)
    try:
        outcome = read_outcome(trial, folder)
    except TornTrial as error:
        where = f", what was there is in {set_aside(folder)}" if set_torn_aside else ""
        state.warnings.append(f"{trial.name}: {error}; the trial runs anew{where}")
        return
    if outcome is not None:
        state.outcomes[trial] = outcome
        _tidy(folder, state.sweep.config.keep)


def _tidy(folder: Path, keep: str) -> None:
    """A finished trial never goes on: its checkpoints, with the optimiser's state, are needed by nothing."""
    for name in {"all": (), "model": ("checkpoints",), "figures": ("checkpoints", "model")}[keep]:
        shutil.rmtree(folder / name, ignore_errors=True)


def _record_session(state: State, executor: Executor, seconds: float) -> None:
    if state.trial_seconds:
        state.overhead = 1 - state.trial_seconds / (seconds * executor.slots)
    session = {
        "seconds": seconds,
        "slots": executor.slots,
        "trial_seconds": state.trial_seconds,
        "overhead": state.overhead,
        "executor": state.sweep.config.executor.name,
        "finished": len(state.outcomes),
        "failed": [trial.name for trial in state.failed],
    }
    write_json(state.sweep.folder / "session.json", session)


def overview(state: State, trials: Sequence[Trial]) -> str:
    """One letter for each trial: done, running, waiting, diverged, failed."""
    return "".join(
        "!" if trial in state.failed
        else ">" if trial in state.running
        else "." if trial not in state.outcomes
        else "x" if state.outcomes[trial].result.failed
        else "o"
        for trial in trials
    )  # fmt: skip
