"""Trials as SLURM jobs, through submitit, whose own local executor serves where there is no cluster."""

import contextlib
import time
from pathlib import Path
from typing import Any

import torch

from .config import ExecutorConfig
from .worker import Ended, Job, run_job

_WORKERS = 64


class Attempt:
    """What a SLURM job runs. submitit pickles it, and calls ``checkpoint`` when the job's time runs out."""

    def __call__(self, job: Job) -> Ended:
        return run_job(job)

    def checkpoint(self, job: Job) -> Any:
        """Requeue: the trial goes on from its last checkpoint."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, job)


class SlurmExecutor:
    """Each trial is a job. A sweep that was killed leaves its jobs running: the next one finds what they wrote, and a
    trial that still runs is waited for, not run twice.

    Raises:
        ValueError: if submitit is not installed, there is no SLURM, or a parameter is unknown to it.
    """

    def __init__(self, config: ExecutorConfig, folder: str):
        try:
            import submitit
        except ImportError as error:
            raise ValueError("executor: submitit is not installed; pip install 'resformer[slurm]'") from error
        parameters = {"timeout_min": 24 * 60, "cpus_per_task": config.threads * config.processes} | config.slurm
        cluster = parameters.pop("cluster", "slurm")
        devices = config.devices if config.devices is not None else int(torch.accelerator.is_available())
        if devices:
            parameters.setdefault("gpus_per_node", devices * config.processes)
        Path(folder).mkdir(parents=True, exist_ok=True)
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(**parameters)
        except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"executor.slurm: cannot submit to {cluster!r} ({said}); see executor.slurm") from error
        self.slots = config.workers or _WORKERS
        self.running: list[tuple[Any, Job, float]] = []

    def submit(self, job: Job) -> None:
        self.running.append((self.executor.submit(Attempt(), job), job, time.perf_counter()))

    def wait(self, seconds: float) -> list[Ended]:
        deadline = time.monotonic() + seconds
        while not (done := [entry for entry in self.running if entry[0].done()]) and time.monotonic() < deadline:
            time.sleep(0.1)
        self.running = [entry for entry in self.running if entry not in done]
        return [_ended(*entry) for entry in done]

    def kill(self, name: str) -> None:
        for submitted, job, _ in self.running:
            if job.name == name:
                submitted.cancel(check=False)

    def stop(self, seconds: float = 30.0) -> None:
        for submitted, _, _ in self.running:
            with contextlib.suppress(Exception):
                submitted.cancel()
        deadline = time.monotonic() + seconds
        while any(not submitted.done() for submitted, _, _ in self.running) and time.monotonic() < deadline:
            time.sleep(0.2)
        self.running.clear()

    def close(self) -> None:
        self.running.clear()


def _ended(submitted: Any, job: Job, since: float) -> Ended:
    try:
        answer: Ended = submitted.result()
        return answer
    except Exception as error:  # submitit says everything with its own classes, and pickles the job's
        message = f"job {submitted.job_id}: {type(error).__name__}: {str(error).strip().splitlines()[0]}"
        return Ended(job.name, 1, time.perf_counter() - since, message, died=True)
