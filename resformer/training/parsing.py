"""From a command line to a TrainingConfig: YAML, then dotted flags, and one line for whatever is wrong."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser, set_parsing_settings

from .config import ConfigError, TrainingConfig


def parse_config(argv: Sequence[str] | None = None) -> TrainingConfig:
    """The run a command line describes (by default this process's own).

    Raises:
        ConfigError: one line, for a key that does not exist, a value of the wrong type or out of range, or a file
            that cannot be read.
        SystemExit: with 0, after `--help` and `--print_config`.
    """
    import sys

    argv = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    known = set(_keys(TrainingConfig))
    _check_flags(argv, known)
    for path in _config_files(argv):
        _check_file(path, known)
    try:
        config = parser.instantiate(parser.parse_args(argv))
    except ArgumentError as error:
        raise ConfigError(_one_line(str(error))) from error
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(TrainingConfig)}
    parsed = TrainingConfig(**values)
    parsed.check()
    return parsed


def build_parser() -> ArgumentParser:
    """The parser of all keys."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False, description="Train a model.")
    parser.add_argument("--config", action="config", help="A YAML file of keys; flags after it win.")
    parser.add_class_arguments(TrainingConfig)
    return parser


def to_yaml(config: TrainingConfig) -> str:
    """Every key, as a file that `--config` takes. A null is derived, as `--help` says."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain values, tuples as lists: what YAML and JSON give back unchanged."""
    return _plain(dataclasses.asdict(config))


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of a nested configuration; a `residual` is one value, whatever its form."""
    flat = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and key in {f.name for f in dataclasses.fields(TrainingConfig)}:
            flat |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            flat[key] = value
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _keys(config_class: type, prefix: str = "") -> Iterator[str]:
    for f in dataclasses.fields(config_class):
        yield prefix + f.name
        if isinstance(f.type, type) and dataclasses.is_dataclass(f.type):
            yield from _keys(f.type, f"{prefix}{f.name}.")


def _check_flags(argv: list[str], known: set[str]) -> None:
    flags = known | {"config", "help", "print_config"}
    for word in argv:
        name = word.removeprefix("--").partition("=")[0].removesuffix("+")
        if word.startswith("--") and name not in flags:
            raise ConfigError(f"unknown option --{name}{_nearest(name, flags, '--')}")


def _config_files(argv: list[str]) -> Iterator[str]:
    for word, following in zip(argv, [*argv[1:], ""], strict=True):
        if word == "--config" and following:
            yield following
        elif word.startswith("--config="):
            yield word.partition("=")[2]


def _check_file(path: str, known: set[str]) -> None:
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"--config {path} holds no keys; write for example 'seed: 1'")
    groups = {key.partition(".")[0] for key in known if "." in key}
    for key, value in values.items():
        if key in groups and isinstance(value, dict):
            for name in value:
                _check_key(f"{key}.{name}", known, path)
        else:
            _check_key(str(key), known, path)


def _check_key(key: str, known: set[str], path: str) -> None:
    if key not in known:
        raise ConfigError(f"--config {path}: unknown key {key}{_nearest(key, known)}")


def _nearest(name: str, allowed: set[str], prefix: str = "") -> str:
    near = difflib.get_close_matches(name, sorted(allowed), n=1)
    if not near:  # the last part alone: `--learning_rate` for `--optimizer.learning_rate`
        near = [key for key in sorted(allowed) if key.rpartition(".")[2] == name]
    return f"; did you mean {prefix}{near[0]}?" if near else "; --help lists all"


def _one_line(message: str) -> str:
    message = " ".join(message.split())
    message = re.sub(r"<class '(\w+)'>", r"\1", message).replace("typing.", "")
    message = re.sub(r'^Parser key "([\w.]+)":', r"\1:", message)
    if "Expected a list" in message:
        message += "; write it as [a, b]"
    return message
