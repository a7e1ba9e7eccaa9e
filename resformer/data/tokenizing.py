"""Tokenizers: four recipes, each ending in a fast tokenizer that AutoTokenizer loads with no code of ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import tokenizers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode

from ..keys import did_you_mean
from .config import DataError, expanded, first_line, short
from .sources import hub_is_reachable

END_OF_TEXT = "<|endoftext|>"
UNKNOWN = "<|unk|>"
SMALLEST_BPE = 257  # every byte, and the end of text
LONGEST_WORD = 1000
LARGEST_VOCABULARY = 2**28  # of which a model can have a table


class TokenizerRecipe:
    """A tokenizer as a person names it. `train` makes it, `encode` runs it over text.

    Raises DataError when the name is none of `bytes`, `chars`, `bpe:SIZE`, a folder or a hub name.
    """

    def __init__(self, spec: str) -> None:
        self.kind, _, size = spec.partition(":")
        self.loaded: PreTrainedTokenizerFast | None = None
        self.identity = spec
        if spec in ("bytes", "chars"):
            return
        if self.kind == "bpe":
            if not size.isdecimal() or int(size) < SMALLEST_BPE:
                raise DataError(
                    f"data.tokenizer {short(spec)!r} needs a size of at least {SMALLEST_BPE}, for example 'bpe:4096'"
                )
            self.size = int(size)
            # Another version of the library may train another vocabulary.
            self.identity = f"bpe:{self.size} tokenizers {tokenizers.__version__}"
            return
        self.kind = "pretrained"
        self.loaded = _load_pretrained(spec)
        # The size decides how ids are stored.
        ids = vocabulary_size(self.loaded)
        self.identity = f"pretrained {ids} {self.loaded.backend_tokenizer.to_str()} {self.loaded.eos_token_id}"

    @property
    def whole_documents(self) -> bool:
        """Whether a document must not be encoded in pieces: true for tokenizers whose rules we do not know."""
        return self.kind == "pretrained"

    def train(
        self,
        training_text: Callable[[], Iterable[str]],
        all_text: Callable[[], Iterable[str]],
        show_progress: bool = False,
    ) -> PreTrainedTokenizerFast:
        """Makes the tokenizer: BPE learns from the training split, `chars` takes every character there is."""
        if self.loaded is not None:
            return self.loaded
        if self.kind == "bytes":
            return byte_tokenizer()
        if self.kind == "chars":
            return character_tokenizer(set().union(*map(set, all_text())))
        return bpe_tokenizer(training_text(), self.size, show_progress)

    def encoder(self, tokenizer: PreTrainedTokenizerFast) -> Callable[[list[str]], Iterator[np.ndarray]]:
        """A function from texts to token ids, special tokens in the text read as plain text."""
        if self.kind == "bytes":
            return lambda texts: (np.frombuffer(text.encode("utf-8"), np.uint8) for text in texts)
        if self.kind == "chars":
            table = np.zeros(0x110000, np.uint32)
            for character, index in tokenizer.get_vocab().items():
                if len(character) == 1:
                    table[ord(character)] = index
            return lambda texts: (table[np.frombuffer(text.encode("utf-32-le"), np.uint32)] for text in texts)

        def encode(texts: list[str]) -> Iterator[np.ndarray]:
            # Without split_special_tokens a corpus that mentions <|endoftext|> would end documents.
            ids = tokenizer(
                texts,
                add_special_tokens=False,
                split_special_tokens=True,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
            )["input_ids"]
            return (np.asarray(row, np.uint32) for row in ids)

        return encode


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Ids 0 to 255 are the bytes of UTF-8; 256 is the end of text."""
    # `tokenizers` writes bytes as printable characters; the vocabulary undoes that.
    vocabulary = {character: byte for byte, character in bytes_to_unicode().items()}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return _finish(backend)


def character_tokenizer(characters: Iterable[str]) -> PreTrainedTokenizerFast:
    """One id per character in sorted order, then unknown (for prompts) and the end of text."""
    ordered = sorted(characters)
    vocabulary = {character: index for index, character in enumerate([*ordered, UNKNOWN])}
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    backend.decoder = decoders.Fuse()
    return _finish(backend, unk_token=UNKNOWN)


def bpe_tokenizer(texts: Iterable[str], size: int, show_progress: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE of at most `size` tokens. Equal texts give equal tokenizers."""
    backend = Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False)
    # Training takes time in the square of a word's length: hours for a megabyte of digits or of blanks.
    backend.pre_tokenizer = pre_tokenizers.Sequence([words, pre_tokenizers.FixedLength(length=LONGEST_WORD)])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    backend.train_from_iterator(texts, trainer)
    backend.pre_tokenizer = words
    return _finish(backend)


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """One more than the largest id. The tokenizer's own length is that of its list, and ids may have holes."""
    return max(tokenizer.get_vocab().values()) + 1


def load_saved(folder: Path) -> PreTrainedTokenizerFast:
    """A tokenizer that was saved beside a corpus."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    return tokenizer


def _finish(backend: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        padding_side="left",  # generation continues at the right end
        clean_up_tokenization_spaces=False,  # otherwise decoding eats the space before punctuation
        model_input_names=["input_ids", "attention_mask"],
        **special,
    )


def _load_pretrained(name: str) -> PreTrainedTokenizerFast:
    folder = expanded(name, "data.tokenizer")
    local = os.path.isdir(folder)
    location = str(folder) if local else name
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location, local_files_only=local or not hub_is_reachable(), trust_remote_code=False
        )
    except Exception as error:  # missing files, broken JSON, no network: each library layer raises its own
        hint = did_you_mean(name, ["bytes", "chars", "bpe:4096"]) or (
            "; give 'bytes', 'chars', 'bpe:SIZE', or a folder or hub name that AutoTokenizer can load"
        )
        raise DataError(f"data.tokenizer {short(name)!r} cannot be loaded ({first_line(error)}){hint}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise DataError(f"data.tokenizer {short(name)!r} has no fast version (tokenizer.json); choose one that has")
    if tokenizer.eos_token_id is None:
        tokenizer.add_special_tokens({"eos_token": END_OF_TEXT})
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    _check_ids(tokenizer, name)
    return tokenizer


def _check_ids(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raises DataError for ids too large for a model, and for an end of text that is a word too."""
    size, end = vocabulary_size(tokenizer), tokenizer.eos_token_id
    if size > LARGEST_VOCABULARY:
        raise DataError(
            f"data.tokenizer {short(name)!r} has the id {size - 1:,}, at most {LARGEST_VOCABULARY - 1:,} fits a model; "
            "number its vocabulary without holes"
        )
    ends = sorted(token for token, index in tokenizer.get_vocab().items() if index == end)
    if len(ends) > 1:  # a new token gets the number of tokens as its id, which in a list with holes may be taken
        raise DataError(
            f"data.tokenizer {short(name)!r} has the id {end} for {' and '.join(map(repr, ends))}, and documents end "
            "with it; number its vocabulary without holes"
        )
