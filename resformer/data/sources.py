"""Where text comes from. A source is an identity (for the cache) and a stream of documents."""

from __future__ import annotations

import glob
import hashlib
import itertools
import os
import socket
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from ..keys import did_you_mean
from .config import DataConfig, DataError, first_line
from .files import ALLOWED, content_digest, decode_text, kind_of, read_documents, text_of

# Tests quote broken text on purpose, and what is installed beside the library is not its own.
STDLIB_LEFT_OUT = frozenset(["test", "tests", "idlelib", "lib2to3", "site-packages", "dist-packages", "__pycache__"])


@dataclass(frozen=True)
class Source:
    """`identity` changes whenever the text may have; `documents()` streams it from the start."""

    name: str
    identity: str
    documents: Callable[[], Iterator[str]]


def open_source(config: DataConfig) -> Source:
    """Finds what `config.source` names without reading documents yet. Raises DataError."""
    if config.source == "stdlib":
        return _standard_library()
    if config.source.startswith("hub:"):
        return _hub(config.source, config.text_column, config.streaming)
    return _local_files(config)


def _standard_library() -> Source:
    root = Path(sysconfig.get_path("stdlib"))
    paths = [
        path
        for path in _files_under(root, STDLIB_LEFT_OUT)
        if path.suffix == ".py" and not path.name.startswith("_sysconfigdata")  # differs per machine
    ]

    def documents() -> Iterator[str]:
        for path in paths:
            try:
                text = decode_text(path.read_bytes(), str(path))
            except DataError:
                continue  # a few files of some distributions are in old encodings
            yield text

    return Source("stdlib", _identity(*(content_digest(path) for path in paths)), documents)


def _local_files(config: DataConfig) -> Source:
    source, text_column = config.source, config.text_column
    path = Path(source).expanduser()
    if path.is_file() or path.is_fifo() or path.is_char_device() or path.is_block_device():
        if kind_of(path) is None:
            raise DataError(f"{path} is of no kind that can be read; allowed: {ALLOWED}")
        paths = [path]
    elif path.is_dir():
        paths = [file for file in _files_under(path, most=config.max_files) if kind_of(file)]
        if not paths:
            raise DataError(f"the folder {path} holds no file that can be read; allowed: {ALLOWED}")
    elif glob.has_magic(source):
        names = itertools.islice(glob.iglob(str(path), recursive=True), config.max_files + 1)
        found = sorted(Path(name) for name in names)
        _refuse_more(len(found), source, config.max_files)
        paths = [file for file in found if file.is_file() and kind_of(file)]
        if not paths:
            what = "no file that can be read" if found else "nothing"
            raise DataError(f"the glob {source} matches {what}; allowed: {ALLOWED}")
    else:
        raise DataError(f"data.source {source!r} does not exist{_nearest_source(path)}")

    def documents() -> Iterator[str]:
        for file in paths:
            yield from read_documents(file, text_column, config.max_document_bytes)

    # The order of the files counts and their folder does not: a corpus that was moved is the same corpus.
    return Source(source, _identity(text_column, *(f"{kind_of(p)}{content_digest(p)}" for p in paths)), documents)


def _nearest_source(path: Path) -> str:
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if parent.is_dir() else []
    bare = str(path) == path.name
    hint = did_you_mean(path.name, (["stdlib"] if bare else []) + siblings)
    if not hint and len(path.parts) == 2 and not parent.is_dir() and not path.suffix:
        hint = f"; for a dataset of the Hugging Face hub write 'hub:{path}'"
    return hint or "; give 'stdlib', a file, folder or glob, or 'hub:OWNER/NAME'"


def _files_under(
    root: Path, left_out: frozenset[str] = frozenset({"__pycache__"}), most: int = sys.maxsize
) -> list[Path]:
    """Every file below, hidden ones left out, in the order of its relative path on every system.

    Raises:
        DataError: if there are more than ``most``.
    """
    found: list[Path] = []
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = [name for name in folders if name not in left_out and not name.startswith(".")]
        found += [Path(folder, name) for name in names if not name.startswith(".")]
        _refuse_more(len(found), str(root), most)
    return sorted(found, key=lambda path: path.relative_to(root).parts)


def _refuse_more(files: int, where: str, most: int) -> None:
    if files > most:
        raise DataError(
            f"{where} leads to more than {most:,} files (links that go in circles?); join them into fewer, or raise "
            "data.max_files"
        )


def _hub(source: str, text_column: str, streaming: bool) -> Source:
    location, name, split = _parse_hub(source)
    folder = Path(location).expanduser()
    local = folder.is_dir()
    if local:
        location = str(folder)
        identity = _identity(str(name), split, *(content_digest(path) for path in _files_under(folder)))
    else:
        identity = _hub_identity(source, location, name, split)

    def documents() -> Iterator[str]:
        import datasets

        try:
            # A local folder is always streamed: reading through would write a second copy to a cache.
            with _offline_if_unreachable(local):
                rows = datasets.load_dataset(location, name, split=split, streaming=streaming or local)
                for number, row in enumerate(rows, start=1):
                    yield text_of(row, text_column, f"{source} row {number}")
        except DataError:
            raise
        except Exception as error:  # a dataset may fail in any way that its builder or the network can
            raise DataError(f"cannot read data.source {source!r} ({first_line(error)})") from error

    return Source(source, _identity(text_column, identity), documents)


def _parse_hub(source: str) -> tuple[str, str | None, str]:
    rest = source.removeprefix("hub:")
    location, _, split = rest.partition("@")
    location, _, name = location.partition(":")
    if Path(rest).expanduser().is_dir():
        location, name, split = rest, "", ""
    if not location:
        raise DataError(f"data.source {source!r} names no dataset; write hub:OWNER/NAME[:CONFIG][@SPLIT]")
    return location, name or None, split or "train"


def _hub_identity(source: str, location: str, name: str | None, split: str) -> str:
    import datasets

    try:
        with _offline_if_unreachable(False):
            builder = datasets.load_dataset_builder(location, name)
    except Exception as error:
        raise DataError(f"cannot find data.source {source!r} ({first_line(error)})") from error
    files = builder.config.data_files or {}
    # For a hub dataset this holds the commit, so a changed dataset is another corpus.
    origins = [str(files[key].origin_metadata) for key in sorted(files)]
    return _identity(location, builder.config.name, split, str(builder.hash), *origins)


@contextmanager
def _offline_if_unreachable(local: bool) -> Iterator[None]:
    """Uses what is already downloaded where there is no network, instead of retrying for half a minute."""
    import datasets
    import huggingface_hub.constants as hub

    before = datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE
    if not local and not hub_is_reachable():
        datasets.config.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE, hub.HF_HUB_OFFLINE = before


def hub_is_reachable() -> bool:
    """Whether the hub's name resolves (or a proxy resolves it for us): a quick answer where it does not."""
    import huggingface_hub.constants as hub

    address = urlsplit(hub.ENDPOINT)
    if urllib.request.getproxies().get(address.scheme):
        return True
    try:
        return bool(socket.getaddrinfo(address.hostname, address.port or 443))
    except OSError:
        return False


def _identity(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
