"""Files of a run that are whole at any instant, or not there."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


def write_atomically(path: Path, text: str) -> None:
    """Raises OSError, naming ``path``, if it cannot be written; what stood there stays."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    write_atomically(path, yaml.safe_dump(value, sort_keys=False))


def null_where_not_finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity: null stands for both."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@contextmanager
def whole_folder(path: Path):
    """A temporary folder that takes the name ``path`` when all that was written into it is on the disk.

    Raises:
        OSError: if its parent folder does not exist: it is not made again behind the back of who removed it.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for folder, _, names in os.walk(temporary):
            for name in names:
                _fsync(Path(folder, name))
            _fsync(Path(folder))
        if path.exists():
            old = path.with_name(f".{path.name}.old-{os.getpid()}")
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old)
        else:
            os.rename(temporary, path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder so that a kill leaves it whole or out of sight, never half there under its name."""
    hidden = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    os.rename(path, hidden)
    shutil.rmtree(hidden)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left half written in ``folder``; a folder that was about to be replaced gets its name back.

    Only for whoever holds the folder alone.
    """
    for old in folder.glob(".*.old-*"):
        target = folder / old.name[1:].rpartition(".old-")[0]
        if not target.exists():
            os.rename(old, target)
    for leftover in [*folder.glob(".*.old-*"), *folder.glob(".*.tmp-*")]:
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
