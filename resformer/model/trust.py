"""Whose code runs: what a file names is imported only where the person named it too. A file may be a stranger's, and
importing a module runs it."""

import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

TRUST = "RESFORMER_TRUST"
"""Environment variable: modules, separated by commas, that files may name."""
_named: set[str] = set()
_in_a_file = ContextVar("_in_a_file", default=False)


def name_code(words: Iterable[str]) -> None:
    """What a person writes on a command line, or in Python, may be imported where a file names it as well."""
    _named.update(re.findall(r"[\w.]+:\w+", " ".join(words)))


@contextmanager
def found_in_a_file() -> Iterator[None]:
    """What is read inside stands in a file."""
    token = _in_a_file.set(True)
    try:
        yield
    finally:
        _in_a_file.reset(token)


def refuse_what_nobody_named(path: str) -> None:
    """To be asked before ``my_module:MyClass`` is imported.

    Raises:
        ValueError: one line, if it stands in a file, its module is not imported already, and nobody named it: neither
            on this command line nor in the environment.
    """
    module, trusted = path.partition(":")[0], [name for name in os.environ.get(TRUST, "").split(",") if name]
    if module in trusted or not _in_a_file.get():
        return
    if module not in sys.modules and path not in _named:
        raise ValueError(
            f"{path!r} stands in a file, and importing it would run {module!r}; where you trust that, name it on the "
            f"command line, set {TRUST}={module}, or import it first"
        )
    os.environ[TRUST] = ",".join([*trusted, module])  # for the processes that this one starts
