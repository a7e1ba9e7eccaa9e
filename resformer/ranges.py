"""The numbers and names that keys may hold, declared with the field of a dataclass that holds them."""

import dataclasses
from typing import Any


def within(low: float, high: float, default: Any) -> Any:
    """A dataclass field for numbers from ``low`` to ``high``, both included: never NaN, never infinity."""
    return dataclasses.field(default=default, metadata={"range": (low, high)})


def named(default: str | None) -> Any:
    """A dataclass field for the name of a thing, not what is left of a value that was none: ``nan``, ``[]``."""
    return dataclasses.field(default=default, metadata={"name": True})


def check_ranges(config: Any, prefix: str = "", error: type[ValueError] = ValueError) -> None:
    """Raises ``error``, one line with ``prefix`` before the key, for the first value outside its declared range, or for
    a text that no file of a run could repeat."""
    for item in dataclasses.fields(config):
        value, bounds = getattr(config, item.name), item.metadata.get("range")
        if value is None and item.default is not None:
            raise error(f"{prefix}{item.name} is empty; give it a value, or leave it out")
        for number in value if isinstance(value, (list, tuple)) else (value,):
            if isinstance(number, str) and not _is_utf8(number):
                raise error(f"{prefix}{item.name} is {number!r}, which is not UTF-8; rename it, or give another")
            if bounds and isinstance(number, (int, float)) and not bounds[0] <= number <= bounds[1]:
                raise error(f"{prefix}{item.name} is {value}; it must be at least {bounds[0]} and at most {bounds[1]}")
        if item.metadata.get("name") and isinstance(value, str) and value.strip().lower() in _NOTHING:
            raise error(
                f"{prefix}{item.name} is {value!r}, which names nothing; give a name or a path, or leave it out"
            )


def _is_utf8(text: str) -> bool:
    """Names of files that are not come from the system as half characters, which can be written nowhere."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_NOTHING = {"", "nan", ".nan", "inf", "none", "null", "[]", "{}", "()", "true", "false"}
