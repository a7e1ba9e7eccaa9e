"""SIGINT and SIGTERM: a run that is told to end saves, says so, and ends within seconds."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import torch
from accelerate import Accelerator

from ..programs import INTERRUPTED, launcher


@contextmanager
def answering(handler: Callable[[int, Any], None]) -> Iterator[dict[signal.Signals, Any]]:
    """SIGINT and SIGTERM go to ``handler`` as long as it is open (in the main thread: Python knows no signals in
    others); what stood there before, by signal."""
    here = threading.current_thread() is threading.main_thread()
    before = {number: signal.signal(number, handler) for number in (INTERRUPTED if here else ())}
    try:
        yield before
    finally:
        for number, was in before.items():
            signal.signal(number, was)


class Interruption:
    """Answers SIGINT and SIGTERM with the exit codes 130 and 143, as long as it is open.

    At once, as long as nothing would be lost; between ``defer`` and ``end_at_once`` the signal is remembered, so that
    the loop can save before it ends. A second signal ends the program there and then, whatever it is doing, or, in a
    notebook, the loop.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.deferred = False
        self.open = ExitStack()
        self.before: dict[signal.Signals, Any] = {}
        # 'accelerate launch' with one process ends at a SIGTERM without a word to the run, which would go on alone.
        self.launcher = launcher()

    def __enter__(self) -> Self:
        self.before = self.open.enter_context(answering(self._note))
        return self

    def __exit__(self, *error: object) -> None:
        self.open.close()

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
