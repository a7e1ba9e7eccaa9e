"""One trial, run where this is called; and the process of the local executor that runs one after another."""

import contextlib
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..files import locked
from ..programs import BAD_INPUT, FAILED, INTERRUPTED
from .outcomes import record_attempt

_PATIENCE = 25.0
"""Seconds in which the processes of an interrupted trial must have saved."""


@dataclass(frozen=True)
class Job:
    """A trial as an executor needs to know it: ``program`` is the training program's file, whose ``main`` takes
    ``arguments``; ``threads`` are those of each of ``processes``."""

    name: str
    run_dir: str
    program: str
    arguments: tuple[str, ...]
    processes: int = 1
    threads: int = 1
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    """How an attempt at a job ended: the program's exit code (negative: the signal that killed it), the seconds it
    took, and in one line why, where it failed."""

    name: str
    exit_code: int
    seconds: float = 0.0
    message: str = ""


class _Interrupted(BaseException):
    pass


def run_job(job: Job) -> Ended:
    """Run a trial in this process, or through ``accelerate launch`` where it has several.

    Waits while another process runs the same trial (one that a lost executor left behind): then it is complete, or goes
    on from its last checkpoint. What the trial prints goes to log.txt in its folder.
    """
    folder = Path(job.run_dir)
    start, message, peak = time.perf_counter(), "", None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".trial.lock"), _output_to(folder / "log.txt"), _interruptible():
            start = time.perf_counter()
            if not (folder / "summary.json").exists():
                shutil.rmtree(folder / "model", ignore_errors=True)  # killed before it wrote what it had found
            _forget_peak_memory()
            try:
                code = _in_processes(job) if job.processes > 1 else _in_this_process(job)
            except (ValueError, OSError) as error:
                code, message = BAD_INPUT, " ".join(str(error).split())
                print(f"error: {message}", file=sys.stderr)
            except _Interrupted:
                code = INTERRUPTED[signal.SIGTERM]
            except Exception as error:
                code, message = FAILED, f"{type(error).__name__}: {' '.join(str(error).split())}"
                traceback.print_exc()
            peak = _peak_memory() if job.processes == 1 else None
            seconds = time.perf_counter() - start
            record_attempt(folder, {"exit_code": code, "seconds": seconds, "message": message, "peak_memory": peak})
    except OSError as error:
        return Ended(job.name, BAD_INPUT, time.perf_counter() - start, " ".join(str(error).split()))
    return Ended(job.name, code, seconds, message)


@lru_cache(maxsize=1)
def _program(file: str) -> Callable[[list[str]], int]:
    spec = importlib.util.spec_from_file_location("_resformer_trial_program", file)
    if spec is None or spec.loader is None:
        raise ValueError(f"{file} is no Python program")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(Path(file).parent))
    spec.loader.exec_module(module)
    gc.freeze()  # what was imported stays: the collection after each trial need not look at it
    main: Callable[[list[str]], int] = module.main
    return main


def _in_this_process(job: Job) -> int:
    os.environ.update(job.environment | {"RESFORMER_NUM_THREADS": str(job.threads)})
    try:
        return _program(job.program)(list(job.arguments))
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:  # what a process keeps to itself, and the next trial must not find
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def _in_processes(job: Job) -> int:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(job.processes)]
    environment = os.environ | job.environment | {"RESFORMER_NUM_THREADS": str(job.threads)}
    command = [*launch, "--main_process_port", "0", job.program, *job.arguments]
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except _Interrupted:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return INTERRUPTED[signal.SIGTERM]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Before and after the program's own handlers, SIGINT and SIGTERM end the trial here."""

    def interrupt(number, frame):
        raise _Interrupted

    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, interrupt) for number in (INTERRUPTED if here else ())}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _output_to(file: Path) -> Iterator[None]:
    """Everything written to standard output and error, by libraries and child processes too."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(1), os.dup(2)]
    log = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    streams = sys.stdout, sys.stderr
    try:
        os.dup2(log, 1)
        os.dup2(log, 2)
        with open(1, "w", closefd=False) as out, open(2, "w", closefd=False) as err:
            sys.stdout, sys.stderr = out, err  # an executor may have replaced them by streams of its own
            yield
    finally:
        sys.stdout, sys.stderr = streams
        for number, old in zip((1, 2), saved, strict=True):
            os.dup2(old, number)
            os.close(old)
        os.close(log)


def _forget_peak_memory() -> None:
    if torch.accelerator.is_available():
        torch.accelerator.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
            file.write("5")


def _peak_memory() -> int | None:
    """Bytes: allocated on the device since the trial began, or resident in this process where there is none."""
    if torch.accelerator.is_available():
        return int(torch.accelerator.max_memory_allocated())
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None


def main() -> None:
    """Take jobs from the connection whose handle is the first argument until it closes; end if the parent is gone."""
    connection = Connection(int(sys.argv[1]))
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        connection.send("ready")
        while True:
            ended = run_job(connection.recv())
            connection.send(ended)
            if ended.exit_code in INTERRUPTED.values():
                break
