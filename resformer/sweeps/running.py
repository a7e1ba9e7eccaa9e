"""The loop that keeps an executor busy until a sweep wants nothing more."""

import contextlib
import os
import sys
import time
from collections.abc import Callable

from ..files import write_json
from ..programs import BAD_INPUT, INTERRUPTED
from ..training.interruption import answering
from .executors import Executor
from .outcomes import record_attempt
from .provenance import completed
from .stalls import Stalls
from .state import State
from .trials import Trial
from .worker import Ended, Job


def run(state: State, executor: Executor, show: Callable[[State], None] = lambda state: None) -> int:
    """Run what is wanted and not finished. What stands in ``state`` is neither run again nor forgotten.

    Args:
        show: called whenever something changed, and about four times a second.

    Returns:
        0 when all is done, 1 where trials were given up, 130 or 143 after an interruption.
    """
    caught: list[int] = []

    def note(number, frame):
        if caught:
            os._exit(INTERRUPTED[number])
        caught.append(INTERRUPTED[number])

    start, stalls = time.perf_counter(), Stalls(state)
    with answering(note), contextlib.closing(executor):
        state.plan()
        while not caught:
            for trial in state.waiting[: executor.slots - len(state.running)]:
                executor.submit(make_job(state, trial))
                state.running[trial] = time.perf_counter()
            if not state.running:
                break
            for trial in stalls.find():
                executor.kill(trial.name)
            if done := executor.wait(0.25):
                for ended in done:
                    _settle(state, ended, stalls)
                state.plan()
            show(state)
        if caught:
            print("stopping: the running trials save; once more Ctrl-C ends at once", file=sys.stderr, flush=True)
            executor.stop()
            state.running.clear()
    _record_session(state, executor, time.perf_counter() - start)
    return caught[0] if caught else int(bool(state.failed))


def make_job(state: State, trial: Trial) -> Job:
    config, run = state.sweep.config, state.sweep.run_config(trial)
    state.sweep.run_dir(trial).mkdir(parents=True, exist_ok=True)
    return Job(
        trial.name, run, config.program, config.executor.processes, config.executor.threads,
        facts={key: state.first[key] for key in ("corpus", "own code") if key in state.first},
        first={} if config.on_difference == "keep" else state.first, path=tuple(sys.path),
    )  # fmt: skip


def _settle(state: State, ended: Ended, stalls: Stalls) -> None:
    """Believe the files of a trial that ended, whatever its exit code: it may have been killed after its last word."""
    trial = next(trial for trial in state.running if trial.name == ended.name)
    del state.running[trial]
    state.trial_seconds += ended.seconds
    state.read(trial, set_torn_aside=True)
    folder, reason = state.sweep.run_dir(trial), stalls.reason(trial) or ended.message or f"exit code {ended.exit_code}"
    if ended.died and folder.exists():
        record_attempt(folder, {"exit_code": ended.exit_code, "seconds": ended.seconds, "message": reason})
    if trial in state.outcomes:
        state.first = completed(state.sweep, state.first, state.outcomes[trial].facts)
        return
    if ended.exit_code in INTERRUPTED.values():
        return
    state.attempts[trial] = state.attempts.get(trial, 0) + 1
    if ended.exit_code == BAD_INPUT or state.attempts[trial] > state.sweep.config.executor.retries:
        state.failed[trial] = reason
        tried = f"tried {state.attempts[trial]} times" if state.attempts[trial] > 1 else "tried once"
        state.warnings.append(
            f"{trial.name} failed ({reason}), {tried}; its words are in {folder / 'log.txt'}; the same command tries "
            "it anew"
        )


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
