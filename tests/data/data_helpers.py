"""Small corpora for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from resformer.data import Corpus, DataConfig, load_corpus

SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare.txt"
needs_shakespeare = pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="../shared/data is not here")


def corpus(folder: Path, source: object, **options: object) -> Corpus:
    """Loads `source` with a cache of its own test and short sequences."""
    settings: dict = {"sequence_length": 8, "validation_fraction": 0.1, "cache_dir": str(folder / "cache")}
    return load_corpus(DataConfig(source=str(source), **(settings | options)))


def text_file(folder: Path, text: str = "a corpus of some words, twice. " * 40, name: str = "corpus.txt") -> Path:
    path = folder / name
    path.write_bytes(text.encode("utf-8"))
    return path
