"""The processes of a run: how many there are, on which device, and how the run ends."""

import os
import signal
import sys
from argparse import ArgumentError
from collections.abc import Callable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration
from jsonargparse import ArgumentParser
from transformers.utils import logging

INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}


def make_accelerator(run_dir: str, trackers: list[str]) -> Accelerator:
    """Accelerate's processes and precision; bfloat16 unless the launch says otherwise.

    Raises:
        ValueError: if fewer processes joined than were launched, or a tracker is not installed.
    """
    logging.disable_progress_bar()  # one bar at a time, and none where nobody looks
    has_accelerator = torch.accelerator.is_available()
    # Without an accelerator, only cpu=True makes the launched processes know of each other.
    accelerator = Accelerator(
        cpu=not has_accelerator,
        mixed_precision=os.environ.get("ACCELERATE_MIXED_PRECISION") if _precision_was_chosen() else "bf16",
        log_with=trackers or None,
        project_config=ProjectConfiguration(project_dir=run_dir),
    )
    if threads := int(os.environ.get("RESFORMER_NUM_THREADS", "0")):  # a sweep divides the cores between its trials
        torch.set_num_threads(threads)
    elif not has_accelerator and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        # 'accelerate launch' says 1 where nobody chose; the cores that this process may use are better divided.
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != launched:
        raise ValueError(
            f"{launched} processes were launched but {accelerator.num_processes} joined; launch with "
            "'accelerate launch --multi_gpu --num_processes N', also on CPUs, or with torchrun"
        )
    return accelerator


def _precision_was_chosen() -> bool:
    """``accelerate launch`` always sets the variable; 'no' is its default, and then bfloat16 is ours."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no" or "--mixed_precision" in " ".join(sys.orig_argv)


class Interruption:
    """Remembers SIGINT and SIGTERM so that the loop can save before it ends; a second one ends at once."""

    def __init__(self) -> None:
        self.exit_code = 0
        for number in INTERRUPTED:
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        if self.exit_code:
            os._exit(INTERRUPTED[number])
        self.exit_code = INTERRUPTED[number]

    def agreed(self, accelerator: Accelerator) -> int:
        """The exit code if any process was interrupted, else 0: all processes must leave the loop together."""
        if accelerator.num_processes == 1:
            return self.exit_code
        code = torch.tensor(self.exit_code, device=accelerator.device)
        return int(accelerator.gather(code.reshape(1)).max())


def arguments_of(function: Callable, argv: list[str] | None = None) -> dict[str, Any]:
    """A function's arguments from the command line, where each is a flag with its type, default and documentation.

    Raises:
        ValueError: one line for whatever is not such a flag or value.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function)
    try:
        return vars(parser.instantiate(parser.parse_args(argv)))
    except ArgumentError as error:
        raise ValueError(f"{' '.join(str(error).split())}; --help lists every flag") from error


def run_program(main: Callable[[], int]) -> None:
    """Call ``main`` and exit with its code; a person's error is one line on standard error and exit code 2."""
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("RESFORMER_TRACEBACK"):
            raise
        message = " ".join(str(error).split())
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {message}", file=sys.stderr)
        code = 2
    sys.exit(code)
