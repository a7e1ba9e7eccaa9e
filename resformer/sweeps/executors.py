"""Where trials run. Each executor takes jobs and says how they ended; the state of the sweep is in files."""

from typing import Protocol

from .config import ExecutorConfig
from .worker import Ended, Job


class Executor(Protocol):
    """``slots``: trials that run at once."""

    slots: int

    def submit(self, job: Job) -> None:
        """Start a job; called only while fewer than ``slots`` run."""

    def wait(self, seconds: float) -> list[Ended]:
        """The jobs that ended since the last call; waits at most that long for one."""

    def kill(self, name: str) -> None:
        """End a running job there and then; ``wait`` says that it died."""

    def stop(self, seconds: float = 30.0) -> None:
        """Ask all running jobs to save and end, and wait that long before ending them."""

    def close(self) -> None:
        """Let go of processes and clusters."""


def make_executor(config: ExecutorConfig, folder: str) -> Executor:
    """The executor that ``config`` names; ``folder`` is where it may keep logs.

    Raises:
        ValueError: one line, if it is not installed or its cluster cannot be reached.
    """
    if config.name == "ray":
        from .executor_ray import RayExecutor

        return RayExecutor(config)
    if config.name == "slurm":
        from .executor_slurm import SlurmExecutor

        return SlurmExecutor(config, folder)
    from .executor_local import LocalExecutor

    return LocalExecutor(config)
