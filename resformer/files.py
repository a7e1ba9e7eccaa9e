"""Files that are whole at any instant or not there, the checksums that show it, and who holds a folder alone.

The ground floor: imported by every room above, and importing none of them.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

CHECKSUMS = "checksums.json"
MOST_VALUES = 100_000
"""Of a YAML text with aliases."""

_held: set[Path] = set()
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name for a file, which takes the name ``path`` when it was written and is on the disk.

    Raises:
        OSError: naming ``path``, if it cannot be written; what stood there stays.
    """
    temporary = _beside(path)
    try:
        yield temporary
        _fsync(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            # Libraries have longer words of their own for it.
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(error.errno, reason, str(path)) from error
        raise


def no_room(error: Exception) -> bool:
    """Whether a disk, or what one may use of it, is full."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, text: str) -> None:
    """Raises OSError, naming ``path``, if it cannot be written; what stood there stays."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def write_yaml(path: Path, value: Any) -> None:
    write_atomically(path, yaml.safe_dump(value, sort_keys=False))


def read_yaml(file: Path) -> dict[str, Any]:
    """Raises ValueError, one line, for what is not a mapping."""
    try:
        text = file.read_text(encoding="utf-8")
        refuse_growth(text)
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file} holds no keys; restore it, or remove its folder")
    return found


def refuse_growth(text: str) -> None:
    """YAML can name a part and repeat it: a few hundred letters may stand for more values than any memory holds.

    Raises:
        ValueError: where ``text`` stands for more than ``MOST_VALUES``, or repeats itself inside itself.
    """
    if "*" not in text or "&" not in text:
        return
    sizes: dict[int, float] = {}

    def size(node: yaml.Node | None) -> float:
        if isinstance(node, yaml.MappingNode):
            parts = [part for pair in node.value for part in pair]
        else:
            parts = node.value if isinstance(node, yaml.SequenceNode) else []
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # what is met again before it ends has no end
            sizes[id(node)] = 1 + sum(map(size, parts))
        return sizes[id(node)]

    try:
        grown = size(yaml.compose(text, yaml.SafeLoader))
    except yaml.YAMLError:
        return  # whoever reads it says what is wrong
    if grown > MOST_VALUES:
        raise ValueError(f"aliases (*name) repeat parts to more than {MOST_VALUES:,} values; write them out")


def read_whole_lines(file: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl that may be under way: its last line may be half written, and is left out then."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def null_where_not_finite(values: dict[str, Any]) -> dict[str, Any]:
    """JSON knows no NaN and no infinity: null stands for both."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the name ``path`` when all that was written into it is on the disk.

    A folder of that name is replaced, and so is a link, whose target stays as it is.

    Raises:
        OSError: if its parent folder does not exist: it is not made again behind the back of who removed it; or if
            ``path`` is a file, which stays.
    """
    if path.is_file() and not path.is_symlink():
        raise NotADirectoryError(errno.ENOTDIR, "a file has that name, move it away", str(path))
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        # Libraries that write through a temporary file of their own leave it to its owner alone.
        mode = temporary.stat().st_mode & 0o666
        for folder, _, names in os.walk(temporary):
            for name in names:
                os.chmod(Path(folder, name), mode)
                _fsync(Path(folder, name))
            _fsync(Path(folder))
        if os.path.lexists(path):
            old = path.with_name(f".{path.name}.old-{uuid.uuid4().hex}")
            os.rename(path, old)
            os.rename(temporary, path)
            remove(old)
        else:
            os.rename(temporary, path)
        _fsync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove(path: Path) -> None:
    """Remove a folder with all that is in it, a file or a link, but never what a link points to. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def remove_folder(path: Path) -> None:
    """Remove a folder so that a kill leaves it whole or out of sight, never half there under its name."""
    hidden = _beside(path)
    os.rename(path, hidden)
    remove(hidden)


def remove_leftovers(folder: Path) -> None:
    """Remove what a kill left half written in ``folder``; a folder that was about to be replaced gets its name back.

    Only for whoever holds the folder alone.
    """
    for old in folder.glob(".*.old-*"):
        target = folder / old.name[1:].rpartition(".old-")[0]
        if not target.exists():
            target.unlink(missing_ok=True)  # a link to nowhere
            os.rename(old, target)
    for leftover in [*folder.glob(".*.old-*"), *folder.glob(".*.tmp-*")]:
        remove(leftover)


def digest(path: Path) -> str:
    """SHA-256 of a file. Raises OSError if it cannot be read or is none: a device or a pipe might never end."""
    _refuse_no_file(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_checksums(folder: Path) -> None:
    """Write ``checksums.json``: the SHA-256 of every other file of ``folder``, by its relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    write_json(folder / CHECKSUMS, {path.relative_to(folder).as_posix(): digest(path) for path in files})


def damage(folder: Path, only: str | None = None) -> str | None:
    """What is wrong with ``folder``, naming the file, or None if every file is as it was written.

    Args:
        only: look at this file alone; one that has no checksum is missing.
    """
    try:
        _refuse_no_file(folder / CHECKSUMS)
        checksums = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))
        if not isinstance(checksums, dict):
            raise ValueError
    except FileNotFoundError:
        return f"{CHECKSUMS} is missing"
    except (OSError, ValueError, RecursionError):
        return f"{CHECKSUMS} cannot be read"
    for name, checksum in checksums.items() if only is None else [(only, checksums.get(only))]:
        if not _is_within(name):
            return f"{CHECKSUMS} names {name[:80]!r}, which is no file of this folder"
        try:
            if digest(folder / name) != checksum:
                return f"{name} has changed since it was written"
        except FileNotFoundError:
            return f"{name} is missing"
        except OSError as error:
            return f"{name} cannot be read ({error.strerror})"
    if only is None:  # what has no checksum may be read too
        for path in folder.rglob("*"):
            if path.exists() and not path.is_file() and not path.is_dir():
                return f"{path.relative_to(folder).as_posix()!r} is neither a file nor a folder"
    return None


@contextmanager
def locked(file: Path, wait: bool = True) -> Iterator[None]:
    """Hold ``file`` alone among all threads and processes that ask, on any machine that shares the file system.

    A POSIX lock, which NFS knows too, is gone with the process however it ends, and is not inherited by the workers
    that load data. Where a file system has no locks, nobody is kept out.

    Args:
        wait: whether to wait for whoever holds it.

    Raises:
        BlockingIOError: if another holds it and ``wait`` is false.
        OSError: if the file cannot be made, or is a link: it is opened to write, and may be anybody's.
    """
    known = file.resolve()
    if known in _held:  # to the system a process never stands in its own way
        raise BlockingIOError(errno.EWOULDBLOCK, "held by this process", str(file))
    with _opened(file, os.O_RDWR | os.O_CREAT) as handle:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise BlockingIOError(error.errno, "held by another process", str(file)) from error
            if error.errno not in _NO_LOCKS:
                raise
        _held.add(known)
        try:
            yield
        finally:
            _held.discard(known)


def is_held(file: Path) -> bool:
    """Whether another process holds ``file`` by ``locked``."""
    try:
        with _opened(file, os.O_RDONLY) as handle:
            fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)
    return False


def _is_within(name: str) -> bool:
    """Whether ``name`` is one that ``write_checksums`` gives: relative, straight down, and fit to be shown."""
    path = PurePosixPath(name)
    return name == str(path) and name.isprintable() and not path.is_absolute() and ".." not in path.parts


def _refuse_no_file(path: Path) -> None:
    """Raises OSError for a folder, a device or a pipe, which to open may already wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "not a file", str(path))


@contextmanager
def _opened(lock: Path, how: int) -> Iterator[int]:
    """A lock's handle. Waits for no pipe and changes nothing that is there. Raises OSError for a link."""
    try:
        handle = os.open(lock, how | os.O_NONBLOCK | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as error:
        if lock.is_symlink():
            raise OSError(error.errno, f"{lock.name} is a symbolic link, remove it", str(lock)) from error
        raise
    try:
        yield handle
    finally:
        os.close(handle)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex}")


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
