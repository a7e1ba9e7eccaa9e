"""SIGINT and SIGTERM: a run that is told to end saves, says so, and ends within seconds."""

import os
import signal
import sys

import torch
from accelerate import Accelerator

from .launch import command_line, parent

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class Interruption:
    """Answers SIGINT and SIGTERM with the exit codes 130 and 143.

    At once, as long as nothing would be lost; between ``defer`` and ``end_at_once`` the signal is remembered, so that
    the loop can save before it ends. A second signal ends the process there and then, whatever it is doing.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferred = False
        # 'accelerate launch' with one process ends at a SIGTERM without a word to the run, which would go on alone.
        launcher = parent()
        self.launcher = launcher.pid if "accelerate" in command_line(launcher) else None
        for number in EXIT_CODES:
            signal.signal(number, self._note)

    def _note(self, number, frame) -> None:
        if self.exit_code:
            os._exit(EXIT_CODES[number])
        self.exit_code = EXIT_CODES[number]
        if not self.deferred:
            sys.exit(self.exit_code)

    def defer(self) -> None:
        self.deferred = True

    def end_at_once(self) -> None:
        """Everything is saved: from here on, and for a signal that came meanwhile, nothing is waited for."""
        self.deferred = False
        if self.exit_code:
            sys.exit(self.exit_code)

    def agreed(self, accelerator: Accelerator) -> int:
        """The exit code if any process was interrupted, else 0: all processes must leave the loop together."""
        if self.launcher and os.getppid() != self.launcher:
            self.exit_code = self.exit_code or EXIT_CODES[signal.SIGTERM]
        if accelerator.num_processes == 1:
            return self.exit_code
        code = torch.tensor(self.exit_code, device=accelerator.device)
        return int(accelerator.gather(code.reshape(1)).max())
