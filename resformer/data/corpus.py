"""A corpus, ready to train on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from .cache import find_or_build
from .config import DataConfig, DataError, short
from .packing import PackedTokens
from .tokenizing import load_saved, vocabulary_size


@dataclass(frozen=True)
class Corpus:
    """Tokenised text in two parts, its tokenizer, and what reports need to know about it."""

    tokenizer: PreTrainedTokenizerFast
    train: PackedTokens
    validation: PackedTokens
    fingerprint: str
    """Hex digest of the tokens of both splits and the tokenizer: equal exactly when a model would see the same."""
    unigram_entropy: float
    """Nats per token of the training histogram: the loss of a model that knows frequencies and nothing else."""
    num_documents: int
    num_empty_documents: int
    """Left out: they hold no text."""
    folder: Path
    """The cache entry all this is read from."""

    @property
    def validation_text(self) -> bytes:
        """The held-out text as UTF-8, documents joined by nothing."""
        return (self.folder / "validation.text").read_bytes()

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes of the held-out text per token of it: bits per byte = nats per token / ln 2 / this."""
        return (self.folder / "validation.text").stat().st_size / self.validation.num_tokens

    @property
    def num_train_tokens(self) -> int:
        """Tokens of the training split, separators included."""
        return self.train.num_tokens

    @property
    def vocab_size(self) -> int:
        """Number of ids, special ones included, and those that no token has below the largest."""
        return vocabulary_size(self.tokenizer)


def load_corpus(config: DataConfig, show_progress: bool = False) -> Corpus:
    """Reads, splits and tokenises the source, or opens the cached result. Raises DataError, one line."""
    config.check()
    folder, facts = find_or_build(config, show_progress)
    tokenizer = load_saved(folder / "tokenizer")

    def packed(split: str) -> PackedTokens:
        return PackedTokens(
            folder / f"{split}.tokens",
            facts["dtype"],
            config.sequence_length,
            tokenizer.eos_token_id,
            config.document_mask,
        )

    corpus = Corpus(
        tokenizer=tokenizer,
        train=packed("train"),
        validation=packed("validation"),
        fingerprint=facts["fingerprint"],
        unigram_entropy=facts["unigram_entropy"],
        num_documents=facts["documents"],
        num_empty_documents=facts["empty_documents"],
        folder=folder,
    )
    _check_length(config, corpus)
    return corpus


def _check_length(config: DataConfig, corpus: Corpus) -> None:
    sizes = {"training": corpus.train.num_tokens, "validation": corpus.validation.num_tokens}
    shortest = min(sizes, key=lambda name: sizes[name])
    largest = sizes[shortest] - 1
    if largest >= config.sequence_length:
        return
    advice = f"the largest data.sequence_length that works is {largest}" if largest > 0 else "give more text"
    raise DataError(
        f"data.source {short(config.source)!r} is too short: its {shortest} split has {sizes[shortest]} tokens and "
        f"data.sequence_length {config.sequence_length} needs {config.sequence_length + 1}; {advice}"
    )
