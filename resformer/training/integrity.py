"""Checksums of a checkpoint: a flipped byte or a missing file is found before anything is built on it."""

import hashlib
import json
from pathlib import Path

from .files import write_json

CHECKSUMS = "checksums.json"


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of every other file of ``folder``, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    write_json(folder / CHECKSUMS, {path.relative_to(folder).as_posix(): _digest(path) for path in files})


def damage(folder: Path) -> str | None:
    """What is wrong with ``folder``, naming the file, or None if every file is as it was written."""
    try:
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        if not isinstance(checksums, dict):
            raise ValueError
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError):
        return f"{CHECKSUMS} cannot be read"
    for name, checksum in checksums.items():
        try:
            if _digest(folder / name) != checksum:
                return f"{name} has changed since it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
