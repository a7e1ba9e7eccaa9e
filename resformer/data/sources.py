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
from .config import DataConfig, DataError, expanded, first_line, short
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
    path = expanded(source, "data.source")
    # Of os.path, which takes a name that is too long for one that does not exist.
    if os.path.isdir(path):
        paths = [file for file in _files_under(path, most=config.max_files) if kind_of(file)]
        if not paths:
            raise DataError(f"the folder {path} holds no file that can be read; allowed: {ALLOWED}")
    elif os.path.exists(path):
        if kind_of(path) is None:
            raise DataError(f"{path} is of no kind that can be read; allowed: {ALLOWED}")
        paths = [path]
    elif glob.has_magic(source):
        found = _matches(str(path), short(source), config.max_files)
        paths = [file for file in found if file.is_file() and kind_of(file)]
        if not paths:
            what = "no file that can be read" if found else "nothing"
            raise DataError(f"the glob {short(source)} matches {what}; allowed: {ALLOWED}")
    else:
        raise DataError(f"data.source {short(source)!r} does not exist{_nearest_source(path)}")

    def documents() -> Iterator[str]:
        for file in paths:
            yield from read_documents(file, text_column, config.max_document_bytes)

    # The order of the files counts and their folder does not: a corpus that was moved is the same corpus.
    return Source(source, _identity(text_column, *(f"{kind_of(p)}{content_digest(p)}" for p in paths)), documents)


def _nearest_source(path: Path) -> str:
    parent = path.parent
    siblings = [entry.name for entry in parent.iterdir()] if os.path.isdir(parent) else []
    bare = str(path) == path.name
    hint = did_you_mean(path.name, (["stdlib"] if bare else []) + siblings)
    if not hint and len(path.parts) == 2 and not os.path.isdir(parent) and not path.suffix:
        hint = f"; for a dataset of the Hugging Face hub write {short(f'hub:{path}')!r}"
    return hint or "; give 'stdlib', a file, folder or glob, or 'hub:OWNER/NAME'"


def _matches(pattern: str, where: str, most: int) -> list[Path]:
    """What a glob matches, in order.

    Raises:
        DataError: if it matches or looks at more than ``most``.
    """
    # Counted as they are seen: where links go in circles, a pattern that matches nothing looks on for ever.
    seen = itertools.count(1)

    def matches(pattern: Path) -> Iterator[str]:
        if "**" not in pattern.parts:
            yield from glob.iglob(str(pattern))
            return
        at = pattern.parts.index("**")
        for root in glob.iglob(str(Path(*pattern.parts[:at]))):
            for folder, folders, names in os.walk(root, followlinks=True):
                folders[:] = [name for name in folders if not name.startswith(".")]
                for _ in (*folders, *names):
                    _refuse_more(next(seen), where, most)
                yield from matches(Path(glob.escape(folder), *(pattern.parts[at + 1 :] or "*")))

    found = {Path(name) for name in itertools.islice(matches(Path(pattern)), most + 1)}
    _refuse_more(len(found), where, most)
    return sorted(found)


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
    folder = expanded(location, "data.source")
    local = os.path.isdir(folder)
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
                    yield text_of(row, text_column, f"{short(source)} row {number}")
        except DataError:
            raise
        except Exception as error:  # a dataset may fail in any way that its builder or the network can
            raise DataError(f"cannot read data.source {short(source)!r} ({first_line(error)})") from error

    return Source(source, _identity(text_column, identity), documents)


def _parse_hub(source: str) -> tuple[str, str | None, str]:
    rest = source.removeprefix("hub:")
    location, _, split = rest.partition("@")
    location, _, name = location.partition(":")
    if os.path.isdir(expanded(rest, "data.source")):
        location, name, split = rest, "", ""
    if not location:
        raise DataError(f"data.source {short(source)!r} names no dataset; write hub:OWNER/NAME[:CONFIG][@SPLIT]")
    return location, name or None, split or "train"


def _hub_identity(source: str, location: str, name: str | None, split: str) -> str:
    import datasets

    try:
        with _offline_if_unreachable(False):
            builder = datasets.load_dataset_builder(location, name)
    except Exception as error:
        raise DataError(f"cannot find data.source {short(source)!r} ({first_line(error)})") from error
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
