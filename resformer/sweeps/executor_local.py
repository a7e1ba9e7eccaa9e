"""Worker processes on this machine, each of which imports once and runs many trials."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait

import torch

from .config import ExecutorConfig
from .worker import Ended, Job

_WORKER = "from resformer.sweeps.worker import main; main()"


class _Worker:
    """A process, the job it runs, and the accelerators that are its own."""

    def __init__(self, devices: str | None, threads: int):
        self.connection, theirs = Pipe()
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        if devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = devices
        # A session of its own: Ctrl-C reaches the sweep only, which then asks its workers in order.
        self.process = subprocess.Popen(
            [sys.executable, "-c", _WORKER, str(theirs.fileno())],
            pass_fds=[theirs.fileno()], env=environment, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self.devices = devices
        self.job: Job | None = None
        self.since = time.perf_counter()

    def end(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def local_slots(config: ExecutorConfig) -> int:
    """As many trials as devices allow, or, where there are none, cores.

    Raises:
        ValueError: if a single trial needs more devices than there are.
    """
    present, needed = torch.accelerator.device_count(), config.processes * (config.devices or 1)
    if present and needed > present:
        raise ValueError(f"executor: a trial needs {needed} accelerators and this machine has {present}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return present // needed if present else max(1, cores // (config.threads * config.processes))


class LocalExecutor:
    def __init__(self, config: ExecutorConfig):
        self.config = config
        most, needed = local_slots(config), config.processes * (config.devices or 1)
        self.slots = config.workers or most
        groups: list[str | None] = [None]
        if torch.accelerator.is_available():
            groups = [",".join(map(str, range(i * needed, (i + 1) * needed))) for i in range(most)]
        self.devices = [groups[i % len(groups)] for i in range(self.slots)]
        self.workers: list[_Worker] = []

    def submit(self, job: Job) -> None:
        worker = next((w for w in self.workers if w.job is None and w.process.poll() is None), None)
        if worker is None:
            taken = [w.devices for w in self.workers]
            free = next((d for d in self.devices if taken.count(d) < self.devices.count(d)), self.devices[0])
            worker = _Worker(free, self.config.threads)
            self.workers.append(worker)
        worker.job, worker.since = job, time.perf_counter()
        with contextlib.suppress(OSError):  # it died: wait() says so
            worker.connection.send(job)

    def wait(self, seconds: float) -> list[Ended]:
        ended: list[Ended] = []
        connections: list[Connection] = [worker.connection for worker in self.workers if worker.job]
        for connection in wait(connections, seconds):
            worker = next(worker for worker in self.workers if worker.connection is connection)
            assert worker.job is not None
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                code = worker.process.wait()
                message = f"the worker was killed by {_signal_name(-code)}" if code < 0 else "the worker died"
                answer = Ended(worker.job.name, code or 1, time.perf_counter() - worker.since, message, died=True)
                self.workers.remove(worker)
            if isinstance(answer, Ended):
                worker.job = None
                ended.append(answer)
        return ended

    def kill(self, name: str) -> None:
        for worker in self.workers:
            if worker.job is not None and worker.job.name == name:
                worker.end(signal.SIGKILL)

    def stop(self, seconds: float = 30.0) -> None:
        for worker in self.workers:
            worker.end(signal.SIGTERM)
        deadline = time.monotonic() + seconds
        for worker in self.workers:
            try:
                worker.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                worker.end(signal.SIGKILL)
                worker.process.wait()
        self.workers.clear()

    def close(self) -> None:
        for worker in self.workers:
            worker.connection.close()
        self.stop(5.0)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
