"""Corpora, tokenizers, packing and the order of batches. Imports nothing from the other rooms."""

from .config import DataConfig, DataError
from .corpus import Corpus, load_corpus
from .order import batch_indices, evaluation_batches, training_batches
from .packing import PackedTokens

__all__ = [
    "Corpus",
    "DataConfig",
    "DataError",
    "PackedTokens",
    "batch_indices",
    "evaluation_batches",
    "load_corpus",
    "training_batches",
]
