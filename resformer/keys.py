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
    """Tuples as lists, all the way down: what YAML and JSON hold."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def did_you_mean(wrong: str, allowed: Iterable[str]) -> str:
    """``; did you mean 'X'?`` for the nearest allowed word, or nothing."""
    nearest = get_close_matches(wrong, list(allowed), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""
