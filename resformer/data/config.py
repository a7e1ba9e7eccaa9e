"""What a person may say about data, and the error that answers a wrong word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from ..ranges import check_ranges, named, within


class DataError(ValueError):
    """The data or its description cannot be used. One line: what, where, what to do instead."""


@dataclass
class DataConfig:
    """Which text a model reads, and how it is cut into tokens and sequences."""

    source: str = named("stdlib")
    """`stdlib` (the running Python's standard library, needs no network), a file, folder or glob of
    .txt .md .py .jsonl .parquet .arrow (optionally .gz .bz2 .xz .zst), or `hub:OWNER/NAME[:CONFIG][@SPLIT]`."""

    text_column: str = named("text")
    """The column that holds the text, in .jsonl, .parquet, .arrow and hub sources. One row is one document."""

    tokenizer: str = named("bytes")
    """`bytes`, `chars`, `bpe:SIZE` (trained on the training split), or a folder or hub name for AutoTokenizer."""

    sequence_length: int = within(1, 2**24, 256)
    """Tokens per training sequence."""

    validation_fraction: float = within(1e-6, 0.5, 0.05)
    """Share of the characters held out, at most 0.5: whole documents where there are at least 20,
    otherwise the tail of each document."""

    document_mask: bool = False
    """Restart positions after each end of text, so that attention does not cross documents."""

    streaming: bool = False
    """Read a hub source as a stream instead of downloading it first. It is still tokenised once, to the cache."""

    num_workers: int = within(0, 1024, 0)
    """Loader processes per training process. The batches do not depend on it."""

    max_document_bytes: int = within(1, 2**50, 2**30)
    """Longest document in bytes, unpacked: an archive or a line that holds more is refused, not read. A text takes
    about four times its length in memory; a line of .jsonl up to fifty times, if it is full of lists and objects."""

    max_files: int = within(1, 10**9, 200_000)
    """Files that a folder may hold, or a glob look at: more, or links that lead in circles, are refused."""

    cache_dir: str | None = named(None)
    """Folder of the tokenised corpora. Default: $XDG_CACHE_HOME/resformer, or ~/.cache/resformer."""

    def check(self) -> None:
        """Raises DataError for values that no corpus could satisfy."""
        check_ranges(self, "data.", DataError)

    def cache_folder(self) -> Path:
        """Where tokenised corpora are kept (not created here). Raises DataError if it is in the home of nobody."""
        if self.cache_dir is not None:
            return expanded(self.cache_dir, "data.cache_dir")
        return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "data.cache_dir") / "resformer"


def expanded(name: str, key: str) -> Path:
    """The path that a person means, ``~`` and ``~user`` as in a shell. Raises DataError if nobody has that home."""
    try:
        return Path(name).expanduser()
    except RuntimeError as error:
        raise DataError(f"{key} {short(name)!r}: there is no such home folder; write the whole path") from error


def short(text: str, most: int = 200) -> str:
    """The text, or its start and end if it is so long that a message would be nothing else."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 :]}"


def first_line(error: BaseException) -> str:
    """The first line of a library's message: ours stay one line whatever theirs are."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {short(lines[0], 500)}" if lines else type(error).__name__
