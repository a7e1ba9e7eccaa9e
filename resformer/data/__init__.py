"""Corpora, tokenizers, packing and the order of batches. Imports nothing from the other rooms."""

from typing import TYPE_CHECKING

from ..lazily import lazily

if TYPE_CHECKING:
    from .config import DataConfig as DataConfig
    from .config import DataError as DataError
    from .corpus import Corpus as Corpus
    from .corpus import load_corpus as load_corpus
    from .order import batch_indices as batch_indices
    from .order import evaluation_batches as evaluation_batches
    from .order import training_batches as training_batches
    from .packing import PackedTokens as PackedTokens

_WHERE = {
    "Corpus": "corpus",
    "DataConfig": "config",
    "DataError": "config",
    "PackedTokens": "packing",
    "batch_indices": "order",
    "evaluation_batches": "order",
    "load_corpus": "corpus",
    "training_batches": "order",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
