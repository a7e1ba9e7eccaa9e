"""The tokenised corpus on disk: made once, whole or absent, shared by every run that names the same text."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerFast

from ..files import damage, locked, no_room, whole_folder, write_checksums
from .config import DataConfig, DataError, short
from .sources import Source, open_source
from .spool import PIECE_BYTES, Span, Spool
from .tokenizing import TokenizerRecipe, vocabulary_size

FORMAT = 2  # raise it whenever the same words would give other tokens


def find_or_build(config: DataConfig, show_progress: bool) -> tuple[Path, dict[str, Any]]:
    """The folder of the tokenised corpus and what is known about it. Raises DataError.

    The key holds all that tokens depend on, neither the sequence length nor the seed. Several processes may
    ask at once: one builds under a lock, the others wait for it; where a file system has no locks, the first to
    rename wins and all see the same.
    """
    recipe = TokenizerRecipe(config.tokenizer)
    source = open_source(config)
    parts = [str(FORMAT), source.identity, recipe.identity, repr(float(config.validation_fraction))]
    key = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
    folder = config.cache_folder() / key
    facts = read_facts(folder)
    if facts is not None:
        return folder, facts
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f"{key}.lock"):
            facts = read_facts(folder)
            if facts is None:
                _remove_leftovers(folder)
                with whole_folder(folder) as temporary:  # a damaged one is made again
                    facts = _build(temporary, source, recipe, config, show_progress)
    except OSError as error:
        advice = "make room and start again, or " if no_room(error) else ""
        raise DataError(
            f"cannot write the cache folder {folder.parent} ({error.strerror or error}); "
            f"{advice}set data.cache_dir to a folder that can be written"
        ) from error
    return folder, facts


def read_facts(folder: Path) -> dict[str, Any] | None:
    """What is known about a cached corpus, or None if it is not there, every byte as it was written."""
    try:
        return None if damage(folder) else json.loads((folder / "facts.json").read_text())
    except (OSError, ValueError):
        return None


def _remove_leftovers(folder: Path) -> None:
    """Builds that were killed. A day's grace, for a file system on which the lock did not hold."""
    for leftover in folder.parent.glob(f".{folder.name}.*"):
        if leftover.stat().st_mtime < time.time() - 86_400:
            shutil.rmtree(leftover, ignore_errors=True)


def _build(
    folder: Path, source: Source, recipe: TokenizerRecipe, config: DataConfig, show_progress: bool
) -> dict[str, Any]:
    spool = Spool.write(source, folder / "spool", show_progress)
    if open_source(config).identity != source.identity:
        raise DataError(
            f"data.source {short(source.name)!r} has changed while it was read; start again when it is at rest"
        )
    if not spool.ends:
        raise DataError(f"data.source {short(source.name)!r} is empty; give it some text")
    training, validation = spool.split(config.validation_fraction)
    tokenizer = recipe.train(
        lambda: (text for text, _ in spool.pieces(training)),
        lambda: (text for text, _ in spool.pieces(spool.spans())),
        show_progress,
    )
    try:
        tokenizer.save_pretrained(folder / "tokenizer")
    except Exception as error:  # a full disk is a bare Exception of the tokenizers library
        raise OSError(str(error)) from error
    encode = recipe.encoder(tokenizer)
    size = vocabulary_size(tokenizer)
    dtype = np.dtype(np.min_scalar_type(size - 1))
    fingerprint = hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode())
    histograms = {}
    with tqdm(total=spool.ends[-1], desc="tokenising", unit="B", unit_scale=True, disable=not show_progress) as bar:
        for name, spans in (("train", training), ("validation", validation)):
            pieces = spool.pieces(spans, whole=recipe.whole_documents)
            histogram = np.zeros(size, np.int64)
            with (folder / f"{name}.tokens").open("wb") as file:
                for ids in _token_arrays(pieces, encode, tokenizer, bar):
                    counts = np.bincount(ids)
                    if len(counts) > size:  # it would be stored as another
                        raise DataError(
                            f"data.tokenizer {short(config.tokenizer)!r} gave the id {len(counts) - 1}, its vocabulary "
                            f"ends at {size - 1}; choose another"
                        )
                    histogram[: len(counts)] += counts
                    stored = np.ascontiguousarray(ids, dtype)
                    file.write(stored.data)
                    fingerprint.update(stored.data)
            histograms[name] = histogram
            fingerprint.update(f"end of {name}".encode())
    _write_text(folder / "validation.text", spool, validation)
    spool.path.unlink()
    facts = {
        "fingerprint": fingerprint.hexdigest(),
        "dtype": dtype.name,
        "documents": len(spool.ends),
        "empty_documents": spool.empty,
        "unigram_entropy": _entropy(histograms["train"]),
    }
    (folder / "facts.json").write_text(json.dumps(facts, indent=1))
    write_checksums(folder)
    return facts


def _token_arrays(
    pieces: Iterator[tuple[str, bool]],
    encode: Callable[[list[str]], Iterator[np.ndarray]],
    tokenizer: PreTrainedTokenizerFast,
    bar: tqdm,
) -> Iterator[np.ndarray]:
    """Ids of every piece in order, one end of text between documents. Small pieces are encoded together."""
    separator = np.array([tokenizer.eos_token_id])
    first = True
    while batch := list(_about_a_megabyte(pieces)):
        texts = [text for text, _ in batch]
        for (text, starts_document), ids in zip(batch, encode(texts), strict=True):
            if starts_document and not first:
                yield separator
            first = False
            yield ids
            bar.update(len(text))


def _about_a_megabyte(pieces: Iterator[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    size = 0
    for piece in pieces:
        yield piece
        size += len(piece[0])
        if size >= PIECE_BYTES:
            return


def _write_text(path: Path, spool: Spool, spans: list[Span]) -> None:
    with path.open("wb") as file:
        for span in spans:
            file.write(spool.read([span]))


def _entropy(histogram: np.ndarray) -> float:
    counts = histogram[histogram > 0].astype(np.float64)
    shares = counts / max(counts.sum(), 1.0)
    return float(-(shares * np.log(shares)).sum())
