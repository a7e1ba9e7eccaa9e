"""What trains a trial: the Trainer, a subclass of a person's own, or a function; in this process or in several.

accelerate launch -m resformer.sweeps.program PROGRAM CONFIG.yaml
"""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from ..model.trust import found_in_a_file, name_code, refuse_what_nobody_named
from ..programs import run_program
from ..training import RunConfig, Trainer
from ..training.config import read_config


def find_program(name: str) -> type[Trainer] | Callable[[RunConfig], int]:
    """What ``my_module:MyTrainer`` names.

    Raises:
        ValueError: one line, if that is neither a subclass of the Trainer nor a function, or if only a file names it.
    """
    module, _, attribute = name.partition(":")
    if module.partition(".")[0] != "resformer":
        try:
            with found_in_a_file():
                refuse_what_nobody_named(name)
        except ValueError as error:
            raise ValueError(f"program: {error}") from error
    try:
        found = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"program: there is no {name!r} ({error}); name it as my_module:MyTrainer") from error
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Trainer)):
        raise ValueError(f"program: {name!r} is neither a subclass of resformer.training.Trainer nor a function")
    return found  # type: ignore[no-any-return]


def train(name: str, config: RunConfig) -> int:
    """Train a run. Returns its exit code."""
    program = find_program(name)
    return program(config).train() if isinstance(program, type) else program(config)


def main() -> int:
    name, file = sys.argv[1:]
    name_code([name])
    return train(name, read_config(Path(file)))


if __name__ == "__main__":
    run_program(main)
