"""One trial, run where this is called; and the process of the local executor that runs one after another."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from ..files import locked, write_yaml
from ..programs import BAD_INPUT, FAILED, INTERRUPTED
from ..training import RunConfig
from ..training.interruption import answering
from .outcomes import record_attempt
from .program import train
from .provenance import Facts, differences, of_this_process, record

_PATIENCE = 25.0
"""Seconds in which the processes of an interrupted trial must have saved."""


@dataclass(frozen=True)
class Job:
    """A trial as an executor needs to know it.

    Attributes:
        config: of its run.
        program: what trains it, as ``program.find_program`` knows it.
        processes: of the run, each with ``threads``.
        facts: what the sweep knows of what it runs on; the machine adds its own.
        first: what it must run on, or nothing where that may differ.
        path: where modules of a person's own are found.
    """

    name: str
    config: RunConfig
    program: str
    processes: int = 1
    threads: int = 1
    facts: Facts = field(default_factory=dict)
    first: Facts = field(default_factory=dict)
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ended:
    """How an attempt at a job ended: the program's exit code (negative: the signal that killed it), the seconds it
    took, and in one line why, where it failed. ``died``: it could not record that itself."""

    name: str
    exit_code: int
    seconds: float = 0.0
    message: str = ""
    died: bool = False


class _Interrupted(BaseException):
    pass


def run_job(job: Job) -> Ended:
    """Run a trial in this process, or through ``accelerate launch`` where it has several.

    Waits while another process runs the same trial (one that a lost executor left behind): then it is complete, or goes
    on from its last checkpoint. What the trial prints goes to log.txt in its folder.
    """
    folder = Path(job.config.run_dir)
    start, message, peak = time.perf_counter(), "", None
    sys.path.extend(place for place in job.path if place not in sys.path)
    facts = job.facts | of_this_process(job.threads)
    if job.first and (found := differences(facts, job.first)):
        return Ended(job.name, BAD_INPUT, message=f"it would not run on what the first trial did: {'; '.join(found)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".trial.lock"), _output_to(folder / "log.txt"), _interruptible():
            start = time.perf_counter()
            if not (folder / "summary.json").exists():
                shutil.rmtree(folder / "model", ignore_errors=True)  # killed before it wrote what it had found
            record(folder, facts)
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


def _in_this_process(job: Job) -> int:
    os.environ["RESFORMER_NUM_THREADS"] = str(job.threads)
    try:
        return train(job.program, job.config)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1
    finally:  # what a process keeps to itself, and the next trial must not find
        gc.collect()
        if torch.accelerator.is_available():
            torch.accelerator.empty_cache()


def _in_processes(job: Job) -> int:
    file = Path(job.config.run_dir) / "trial.yaml"
    write_yaml(file, job.config.as_dict())
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(job.processes)]
    command = [*launch, "--main_process_port", "0", "-m", "resformer.sweeps.program", job.program, str(file)]
    paths = {"PYTHONPATH": os.pathsep.join(place for place in sys.path if place)}
    environment = os.environ | paths | {"RESFORMER_NUM_THREADS": str(job.threads)}
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

    with answering(interrupt):
        yield


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
    gc.freeze()  # what was imported stays: the collection after each trial need not look at it
    with contextlib.suppress(EOFError, OSError, KeyboardInterrupt):
        connection.send("ready")
        while True:
            ended = run_job(connection.recv())
            connection.send(ended)
            if ended.exit_code in INTERRUPTED.values():
                break
