"""What a person may say about data, and the error that answers a wrong word."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


class DataError(ValueError):
    """The data or its description cannot be used. One line: what, where, what to do instead."""


@dataclass
class DataConfig:
    """Which text a model reads, and how it is cut into tokens and sequences."""

    source: str = "stdlib"
    """`stdlib` (the running Python's standard library, needs no network), a file, folder or glob of
    .txt .md .py .jsonl .parquet .arrow (optionally .gz .bz2 .xz .zst), or `hub:OWNER/NAME[:CONFIG][@SPLIT]`."""

    text_column: str = "text"
    """The column that holds the text, in .jsonl, .parquet, .arrow and hub sources. One row is one document."""

    tokenizer: str = "bytes"
    """`bytes`, `chars`, `bpe:SIZE` (trained on the training split), or a folder or hub name for AutoTokenizer."""

    sequence_length: int = 256
    """Tokens per training sequence."""

    validation_fraction: float = 0.05
    """Share of the characters held out, above 0 and at most 0.5: whole documents where there are at least 20,
    otherwise the tail of each document."""

    document_mask: bool = False
    """Restart positions after each end of text, so that attention does not cross documents."""

    streaming: bool = False
    """Read a hub source as a stream instead of downloading it first. It is still tokenised once, to the cache."""

    num_workers: int = 0
    """Loader processes per training process. The batches do not depend on it."""

    max_document_bytes: int = 2**30
    """Longest document in bytes, unpacked: an archive or a line that holds more is refused, not read. A document takes
    about four times its length in memory."""

    max_files: int = 200_000
    """Files that a folder or glob may hold: more, or links that lead in circles, are refused."""

    cache_dir: str | None = None
    """Folder of the tokenised corpora. Default: $XDG_CACHE_HOME/resformer, or ~/.cache/resformer."""

    def check(self) -> None:
        """Raises DataError for values that no corpus could satisfy."""
        if not 0 < self.validation_fraction <= 0.5:
            raise DataError(
                f"data.validation_fraction is {self.validation_fraction}; "
                "it must be above 0 and at most 0.5, for example 0.05"
            )
        if self.sequence_length < 1:
            raise DataError(f"data.sequence_length is {self.sequence_length}; it must be at least 1")
        if self.num_workers < 0:
            raise DataError(f"data.num_workers is {self.num_workers}; it must be 0 or more")
        for name in ("max_document_bytes", "max_files"):
            if getattr(self, name) < 1:
                raise DataError(f"data.{name} is {getattr(self, name)}; it must be at least 1")

    def cache_folder(self) -> Path:
        """Where tokenised corpora are kept (not created here)."""
        if self.cache_dir is not None:
            return Path(self.cache_dir).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "resformer"


def first_line(error: BaseException) -> str:
    """The first line of a library's message: ours stay one line whatever theirs are."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
