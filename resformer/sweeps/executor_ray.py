"""Trials on a Ray cluster: an existing one by its address, or one started on this machine."""

import logging
import os
import socket
import time
from typing import Any

import torch

from .config import ExecutorConfig
from .worker import Ended, Job, run_job

_REACH_SECONDS = 5.0


class RayExecutor:
    """Each trial is a task that asks for its cores and devices; Ray keeps the processes, which import once.

    Raises:
        ValueError: if Ray is not installed, or the cluster cannot be reached, or has no room for a single trial.
    """

    def __init__(self, config: ExecutorConfig):
        try:
            import ray
        except ImportError as error:
            raise ValueError("executor: Ray is not installed; pip install 'resformer[ray]', or take another") from error
        self.ray = ray
        if config.address:
            _refuse_unreachable(config.address)
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            ray.init(address=config.address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            said = " ".join(str(error).split())
            raise ValueError(f"executor.address: no Ray cluster at {config.address!r} ({said})") from error
        devices = config.devices if config.devices is not None else int(torch.accelerator.is_available())
        self.resources = {"CPU": config.threads * config.processes, "GPU": devices * config.processes}
        there = ray.cluster_resources()
        room = [int(there.get(name, 0) // number) for name, number in self.resources.items() if number]
        if min(room) < 1:
            ray.shutdown()
            raise ValueError(f"executor: a trial needs {self.resources} and the Ray cluster has {there}")
        self.slots = min(config.workers or min(room), min(room))
        self.running: dict[Any, tuple[Job, float]] = {}
        self.task = ray.remote(
            num_cpus=self.resources["CPU"], num_gpus=self.resources["GPU"], max_retries=0, max_calls=0
        )(run_job)

    def submit(self, job: Job) -> None:
        self.running[self.task.remote(job)] = (job, time.perf_counter())

    def wait(self, seconds: float) -> list[Ended]:
        done, _ = self.ray.wait(list(self.running), num_returns=1, timeout=seconds) if self.running else ([], [])
        ended = []
        for reference in done:
            job, since = self.running.pop(reference)
            try:
                ended.append(self.ray.get(reference))
            except self.ray.exceptions.RayError as error:
                message = f"{type(error).__name__}: {str(error).splitlines()[0]}"
                ended.append(Ended(job.name, 1, time.perf_counter() - since, message, died=True))
        return ended

    def kill(self, name: str) -> None:
        for reference, (job, _) in self.running.items():
            if job.name == name:
                self.ray.cancel(reference, force=True)

    def stop(self, seconds: float = 30.0) -> None:
        for reference in self.running:
            self.ray.cancel(reference, force=False)  # SIGINT to the task: it saves
        self.ray.wait(list(self.running), num_returns=len(self.running), timeout=seconds) if self.running else None
        self.running.clear()

    def close(self) -> None:
        self.ray.shutdown()


def _refuse_unreachable(address: str) -> None:
    """Ray itself tries for minutes, and then writes pages."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not port.isdecimal():
        if address in ("auto", "local"):
            return
        raise ValueError(f"executor.address: {address!r} is not HOST:PORT, ray://HOST:PORT or auto")
    try:
        socket.create_connection((host, int(port)), _REACH_SECONDS).close()
    except OSError as error:
        raise ValueError(
            f"executor.address: no Ray cluster at {address} ({error.strerror or error}); start one with 'ray start "
            "--head', or leave the address out"
        ) from error
