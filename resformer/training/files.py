"""Files that are whole or not there: temporary name, fsync, rename."""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file with this text."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        _synchronise(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _synchronise(path.parent)


def write_json(path: Path, values: Any) -> None:
    """Replace `path` by strict JSON; a number that is not finite is an error."""
    write_text(path, json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make the folder `path` out of what `fill` writes into a temporary one beside it; replace an older one."""
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        fill(temporary)
        for entry in [*temporary.rglob("*"), temporary]:
            _synchronise(entry)
        if path.exists():  # a folder cannot be renamed over one that is not empty
            retired = _temporary(path)
            path.rename(retired)
            temporary.rename(path)
            shutil.rmtree(retired)
        else:
            temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _synchronise(path.parent)


def remove_leftovers(folder: Path) -> None:
    """What a killed process left under temporary names."""
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
