"""SIGINT and SIGTERM: a run that is told to end saves, says so, and ends within seconds."""

import os
import signal
import sys
import threading
from typing import Any, Self

import torch
from accelerate import Accelerator

from ..programs import INTERRUPTED, launcher


class Interruption:
    """Answers SIGINT and SIGTERM with the exit codes 130 and 143, as long as it is open (in the main thread: Python
    knows no signals in others).

    At once, as long as nothing would be lost; between ``defer`` and ``end_at_once`` the signal is remembered, so that
    the loop can save before it ends. A second signal ends the program there and then, whatever it is doing, or, in a
    notebook, the loop.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferred = False
        self.before: dict[signal.Signals, Any] = {}
        # 'accelerate launch' with one process ends at a SIGTERM without a word to the run, which would go on alone.
        self.launcher = launcher()

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in INTERRUPTED}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number, frame) -> None:
        if self.exit_code:
            if self.before.get(number) is signal.default_int_handler:  # not a program's but a person's own process
                raise KeyboardInterrupt
            os._exit(INTERRUPTED[number])
        self.exit_code = INTERRUPTED[number]
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
            self.exit_code = self.exit_code or INTERRUPTED[signal.SIGTERM]
        if accelerator.num_processes > 1:
            code = torch.tensor(self.exit_code, device=accelerator.device)
            self.exit_code = int(accelerator.gather(code.reshape(1)).max())
        return self.exit_code
