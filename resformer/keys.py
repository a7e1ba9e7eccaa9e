"""Nested and dotted keys: ``{"train": {"max_steps": 9}}`` and ``{"train.max_steps": 9}`` are the same words."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

WHOLE_VALUES = {"model.residual"}
"""Keys whose value may itself be a mapping."""


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested or dotted keys as dotted ones."""
    joined: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value and name not in WHOLE_VALUES:
            joined |= flat(value, f"{name}.")
        else:
            joined[name] = value
    return joined


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested or dotted keys as nested ones."""
    tree: dict[str, Any] = {}
    for key, value in flat(values).items():
        *groups, last = key.split(".")
        place = tree
        for group in groups:
            place = place.setdefault(group, {})
        place[last] = value
    return tree


def plain(value: Any) -> Any:
    """What YAML and JSON hold, all the way down: tuples as lists, a class as its import path."""
    if isinstance(value, type):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'X'?`` for the nearest allowed word, or nothing."""
    nearest = get_close_matches(wrong, list(allowed), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def full_names(given: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    """Dotted keys for what a person writes in Python: dotted keys, groups with a mapping each, or a last name alone.

    ``{"residual": "post", "train": {"max_steps": 9}}`` becomes ``{"model.residual": "post", "train.max_steps": 9}``.

    Args:
        keys: all dotted keys that there are.

    Raises:
        ValueError: one line for a name that no key ends with (with the nearest one), or more than one.
    """
    keys = list(keys)
    groups = {key.partition(".")[0] for key in keys if "." in key}
    found: dict[str, Any] = {}
    for name, value in given.items():
        ending = [key for key in keys if key.rpartition(".")[2] == name]
        if name in keys:
            found[name] = value
        elif name in groups:
            if not isinstance(value, Mapping):
                raise ValueError(f"{name} is a group of keys: give a mapping of them, not {value!r}")
            found |= flat({name: value})
        elif len(ending) == 1:
            found[ending[0]] = value
        elif ending:
            raise ValueError(
                f"{name!r} is the last name of {' and '.join(ending)}; say which, as {{{ending[0]!r}: ...}}"
            )
        elif "." in name:
            found[name] = value  # part of a key whose value is a mapping, or refused where the types are known
        else:
            raise ValueError(
                f"there is no key {name!r}{did_you_mean(name, [*groups, *(k.rpartition('.')[2] for k in keys)])}"
            )
    return found
