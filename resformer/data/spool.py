"""A corpus on disk while it is being built: read once from its source, then split and re-read as often as needed."""

from __future__ import annotations

import hashlib
import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tqdm.auto import tqdm

from .sources import Source

PIECE_BYTES = 1 << 20
DOCUMENTS_TO_SPLIT_WHOLE = 20
# A place where byte-level BPE always starts a new word: white space after a character that is none.
_SAFE_CUT = re.compile(rb"(?:[!-~]|[\xe4-\xed][\x80-\xbf]{2})(?=[ \n])")

Span = tuple[int, int]  # bytes of the spool, [start, end)


@dataclass
class Spool:
    """The documents of a source, one after another as UTF-8 in one file, with what splitting needs to know."""

    path: Path
    ends: list[int] = field(default_factory=list)
    characters: list[int] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    empty: int = 0

    @classmethod
    def write(cls, source: Source, path: Path, show_progress: bool) -> Spool:
        """Reads the source once. Empty documents are counted and left out."""
        spool = cls(path)
        position = 0
        bar = tqdm(desc="reading", unit="B", unit_scale=True, disable=not show_progress)
        with path.open("wb") as file, bar:
            for text in source.documents():
                if not text:
                    spool.empty += 1
                    continue
                data = text.encode("utf-8")
                file.write(data)
                position += len(data)
                spool.ends.append(position)
                spool.characters.append(len(text))
                spool.digests.append(hashlib.blake2b(data, digest_size=16).digest())
                bar.update(len(data))
        return spool

    def spans(self) -> list[Span]:
        """Where each document lies."""
        return list(zip([0, *self.ends[:-1]], self.ends, strict=True))

    def read(self, spans: list[Span]) -> bytes:
        """The bytes of several spans, joined by nothing."""
        with self._map() as data:
            return b"".join(data[start:end] for start, end in spans)

    def pieces(self, spans: list[Span], whole: bool = False) -> Iterator[tuple[str, bool]]:
        """(text, whether a document starts here), long documents in pieces of about a megabyte unless `whole`."""
        with self._map() as data:
            for start, end in spans:
                cut = start
                while cut < end:
                    piece = cut
                    cut = end
                    if not whole and end - piece > PIECE_BYTES:
                        match = _SAFE_CUT.search(data, piece + PIECE_BYTES, end)
                        cut = match.end() if match else end
                    yield data[piece:cut].decode("utf-8"), piece == start

    def split(self, fraction: float) -> tuple[list[Span], list[Span]]:
        """(training, validation), by document where there are enough, otherwise by the tail of each.

        Which documents are held out depends on their content only, so duplicates fall on one side, and on
        neither the seed nor the order. A document so long that it would overshoot the share twice stays in
        training.
        """
        held_out = self._held_out(fraction) if len(self.ends) >= DOCUMENTS_TO_SPLIT_WHOLE else set()
        training: list[Span] = []
        validation: list[Span] = []
        for index, (start, end) in enumerate(self.spans()):
            if held_out:
                (validation if self.digests[index] in held_out else training).append((start, end))
                continue
            head = self.read([(start, end)]).decode("utf-8")[: int(self.characters[index] * (1 - fraction))]
            middle = start + len(head.encode("utf-8"))
            training += [(start, middle)] if middle > start else []
            validation += [(middle, end)] if end > middle else []
        return training, validation

    def _held_out(self, fraction: float) -> set[bytes]:
        lengths: dict[bytes, int] = {}
        for digest, characters in zip(self.digests, self.characters, strict=True):
            lengths[digest] = lengths.get(digest, 0) + characters
        total = sum(lengths.values())
        wanted = fraction * total
        most = min(2 * wanted, (wanted + total) / 2)
        held = 0
        chosen: set[bytes] = set()
        for digest in sorted(lengths):
            if held >= wanted:
                break
            if held + lengths[digest] <= most:
                chosen.add(digest)
                held += lengths[digest]
        return chosen

    def _map(self) -> mmap.mmap:
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
