"""What all programs have in common: flags, errors of one line, signals and exit codes."""

import builtins
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import ArgumentError, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

import psutil
from jsonargparse import ActionConfigFile, ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from .files import no_room, refuse_growth

DONE, FAILED, BAD_INPUT, DIVERGED = 0, 1, 2, 3
INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143}
"""Exit codes by signal."""

_HERE = Path(__file__).parent
RECIPES = next(folder for folder in (_HERE / "recipes", _HERE.parent / "recipes") if (folder / "train.py").exists())
"""The programs: inside the package where it is installed, beside it in a clone."""


def command_of(program: str) -> str:
    """What a person types for one of the programs: in a clone it is a file, from an installed package it is not."""
    return f"python recipes/{program}.py" if RECIPES.parent != _HERE else f"python -m resformer {program}"


def path_of(file: str) -> str:
    """What a person types for a file beside the programs."""
    return f"recipes/{file}" if RECIPES.parent != _HERE else str(RECIPES / file)


# The second gives --print_completion: a JSON schema for editors and, where shtab is installed, a shell's words.
set_parsing_settings(docstring_parse_attribute_docstrings=True, add_print_completion_argument=True)


class _Help(DefaultHelpFormatter, RawDescriptionHelpFormatter):
    """What stands before the keys keeps its lines."""


class Parser(ArgumentParser):
    """Of dotted keys; ``amended`` adds to their JSON schema what their types do not say."""

    amended: Callable[[dict[str, Any]], dict[str, Any]] = staticmethod(lambda schema: schema)

    def get_completion_script(self, completion_type: str, **options: Any) -> str:
        script: str = super().get_completion_script(completion_type, **options)
        if completion_type != "jsonschema":
            return script
        schema = json.loads(script)
        return json.dumps(self.amended(schema | {"description": schema["description"].split("\n")[0]}), indent=2)


class ConfigFile(ActionConfigFile):
    """A YAML file of keys, which is named in what is wrong with it."""

    def __call__(self, parser, namespace, values, option_string=None):
        try:
            super().__call__(parser, namespace, values, option_string)
        except (ArgumentError, TypeError, ValueError) as error:
            raise ValueError(f"{option_string} {values}: {one_line(error, parser)}") from error


def parser_of(
    described: Callable | type,
    program: str,
    description: str,
    skip: set[str] | None = None,
    first: Mapping[str, str] | None = None,
) -> Parser:
    """A parser of the arguments of a function or the fields of a dataclass: each a flag with its type, default and
    documentation, or a dotted key of ``--config FILE``; those of ``skip`` are left out.

    Args:
        first: what help says before all keys, whose usage is one line then: commands, and what each does.
    """
    usage = None
    if first:
        usage = "%(prog)s [--config FILE] [--KEY VALUE ...]"
        description += "\n" + "".join(f"\n  {command}\n      {does}" for command, does in first.items())
    parser = Parser(prog=program, description=description, usage=usage, exit_on_error=False, formatter_class=_Help)
    parser.add_argument("--config", action=ConfigFile, help="YAML file of the keys below; later flags win")
    if isinstance(described, type):
        parser.add_class_arguments(described, None, skip=set(skip or ()))
    else:
        parser.add_function_arguments(described)
    for action in parser._actions:  # where a key is true or false, the flag alone means true
        if bool in (hint := getattr(action, "_typehint", None), *get_args(hint)):
            action.nargs, action.const = "?", True
    return parser


def read_arguments(parser: ArgumentParser, given: list[str] | dict[str, Any] | None = None) -> dict[str, Any]:
    """The values of a parser's keys, objects where it knows their class.

    Args:
        given: words of a command line (by default this process's), or nested keys and values.

    Raises:
        ValueError: one line for a key that does not exist (with the nearest one), a wrong type, or a file that cannot
            be read.
    """
    try:
        if not isinstance(given, dict):
            _refuse_growth(sys.argv[1:] if given is None else given)
        found = parser.parse_object(given) if isinstance(given, dict) else parser.parse_args(given)
        found.pop("config", None)
        return vars(parser.instantiate(found))
    except Exception as error:
        raise ValueError(one_line(error, parser)) from error


def _refuse_growth(words: list[str]) -> None:
    """``refuse_growth`` of each value, and of each file that one names."""
    key = ""
    for word in words:
        name, _, value = word.partition("=") if word.startswith("--") else (key, "", word)
        key = name
        try:
            refuse_growth(value)
            if value.endswith((".yaml", ".yml")) and Path(value).is_file():
                key = value
                refuse_growth(Path(value).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{key.removeprefix('--')}: {error}") from error


def arguments_of(function: Callable, argv: list[str] | None = None) -> dict[str, Any]:
    """A function's arguments from the command line. Raises ValueError as ``read_arguments`` does."""
    description = (function.__doc__ or "").split("\n")[0]
    return read_arguments(parser_of(function, Path(sys.argv[0]).name, description), argv)


def one_line(error: Exception, parser: ArgumentParser) -> str:
    """What a parser of dotted keys refused, with the nearest key where one does not exist."""
    text = " ".join(str(error).replace('in "<unicode string>",', "at").split())
    keys = [option.removeprefix("--") for action in parser._actions for option in action.option_strings]
    unknown = re.search(r"unrecognized arguments: (?:--)?(\S+)|Option '(\S+)' is not accepted", text)
    nested = re.search(r"Group '(\S+)' does not accept option '(\S+)'", text)
    if unknown or nested:
        wrong = f"{nested[1]}.{nested[2]}" if nested else unknown[1] or unknown[2]  # type: ignore[index]
        near = get_close_matches(wrong, keys, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        return f"unknown key {wrong!r}{hint}; --help lists every key"
    return text


def run_program(main: Callable[[], int]) -> None:
    """Call ``main`` and exit with its code; a person's error is one line on standard error and exit code 2.

    In a job of several processes the first says what is wrong for all. One that fails alone says it itself, and those
    that only lost it say no more than that.
    """
    for number, code in INTERRUPTED.items():
        signal.signal(number, lambda *_, code=code: sys.exit(code))
    _end_with_the_launcher()
    rank = int(os.environ.get("RANK", "0"))
    try:
        code = main()
    except (ValueError, OSError) as error:
        if os.environ.get("RESFORMER_TRACEBACK"):
            raise
        if rank:
            time.sleep(5)  # where the first process fails as well, the launcher ends this one meanwhile
        advice = "; make room and start again" if no_room(error) else ""
        print(f"error: {' '.join(str(error).split())}{advice}", file=sys.stderr, flush=True)
        code = BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if is_out_of_memory(error):
            print(f"error: out of memory ({first_line(error)}); try a smaller train.micro_batch_size", file=sys.stderr)
            sys.exit(BAD_INPUT)
        if int(os.environ.get("WORLD_SIZE", "1")) == 1 or not _lost_a_process(error):
            raise
        print(f"rank {rank}: another process of this job has ended or hangs; its own error says why", file=sys.stderr)
        code = FAILED
    sys.exit(code)


def apart(function: Callable, *arguments: Any) -> None:
    """Call a function of a module in a process of its own: where a library there ends the whole process, as that which
    draws does without memory to reserve, it costs a line of warning.

    Args:
        arguments: paths, texts and numbers.
    """
    call = f"from pathlib import *; from {function.__module__} import {function.__name__} as f; f(*{arguments!r})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", call], capture_output=True, text=True, stdin=subprocess.DEVNULL, env=environment
    )
    print(found.stdout, end="", flush=True)
    if found.returncode:
        last = (found.stderr.strip().splitlines() or ["no word"])[-1]
        how = f"signal {-found.returncode}" if found.returncode < 0 else last
        print(f"warning: {function.__name__} failed ({how}); all else is done", file=sys.stderr)
    else:
        print(found.stderr, end="", file=sys.stderr)


def is_notebook() -> bool:
    return hasattr(builtins, "__IPYTHON__")


def is_watched() -> bool:
    """Whether somebody may look at a progress bar: at a terminal, or in a notebook."""
    return sys.stderr.isatty() or is_notebook()


def parent() -> psutil.Process:
    """The process that started this one, or this one itself where that has gone already."""
    return psutil.Process().parent() or psutil.Process()


def command_line(process: psutil.Process) -> str:
    """Empty where the system does not tell."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def launcher() -> int | None:
    """Process id of the ``accelerate launch`` or ``torchrun`` that started this process, if one did."""
    by_torch = "TORCHELASTIC_RUN_ID" in os.environ
    return parent().pid if by_torch or "accelerate" in command_line(parent()) else None


def _end_with_the_launcher() -> None:
    """A launcher that is killed takes the processes that it launched along, whatever these are waiting for."""
    if sys.platform != "linux" or (started_by := launcher()) is None:
        return
    set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
    ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGTERM)
    if os.getppid() != started_by:
        sys.exit(INTERRUPTED[signal.SIGTERM])


def is_out_of_memory(error: Exception) -> bool:
    words = ("out of memory", "can't allocate memory", "not enough memory")
    return isinstance(error, MemoryError) or any(some in str(error) for some in words)


def first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:200]


def _lost_a_process(error: Exception) -> bool:
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(
        words in str(error)
        for words in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Timed out waiting")
    )
