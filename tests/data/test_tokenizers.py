"""Tokenizers give back what they were given, here and after AutoTokenizer loads them from a folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from data_helpers import corpus, text_file
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from resformer.data import DataError
from resformer.data.spool import _SAFE_CUT
from resformer.data.tokenizing import TokenizerRecipe, bpe_tokenizer, byte_tokenizer, character_tokenizer

TEXT = "It's  the  naïve café , isn't it ?\r\n\tdef f(x): return x  # 你好 🙂\n\n" * 40
ALPHABET = sorted(set(TEXT))
BPE = bpe_tokenizer([TEXT], 400)


@pytest.fixture(scope="module", params=["bytes", "chars", "bpe"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    made = {
        "bytes": byte_tokenizer,
        "chars": lambda: character_tokenizer(ALPHABET),
        "bpe": lambda: bpe_tokenizer([TEXT], 400),
    }[request.param]()
    folder = tmp_path_factory.mktemp("tokenizer")
    made.save_pretrained(folder)
    assert not list(folder.glob("*.py"))
    return AutoTokenizer.from_pretrained(folder)


@settings(max_examples=150)
@given(text=st.text(st.sampled_from(ALPHABET)))
def test_round_trip_of_known_characters(saved: PreTrainedTokenizerFast, text: str) -> None:
    assert saved.decode(saved(text)["input_ids"]) == text


@settings(max_examples=150)
@given(text=st.text())
def test_round_trip_of_any_text(text: str) -> None:
    tokenizer = byte_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert ids == list(text.encode("utf-8")) and tokenizer.decode(ids) == text


@settings(max_examples=100)
@given(text=st.text())
def test_bpe_round_trip_of_any_text(text: str) -> None:
    assert BPE.decode(BPE(text)["input_ids"]) == text


def test_special_tokens(saved: PreTrainedTokenizerFast) -> None:
    assert saved.eos_token == "<|endoftext|>" == saved.pad_token and saved.padding_side == "left"
    assert saved("ab")["input_ids"] == saved("ab", add_special_tokens=False)["input_ids"]
    batch = saved(["It's", "i"], padding=True)
    assert batch["attention_mask"][1][0] == 0 and set(batch) == {"input_ids", "attention_mask"}
    assert saved("i<|endoftext|>")["input_ids"][-1] == saved.eos_token_id


def test_an_unknown_character_is_not_lost_in_silence() -> None:
    tokenizer = character_tokenizer("ab")
    assert tokenizer("aéb")["input_ids"] == [0, tokenizer.unk_token_id, 1]


def test_bpe_is_deterministic_and_of_the_size_asked() -> None:
    again = bpe_tokenizer([TEXT], 280)
    assert again.backend_tokenizer.to_str() == bpe_tokenizer([TEXT], 280).backend_tokenizer.to_str()
    assert len(again) == 280


@pytest.mark.parametrize("spec", ["bytes", "chars", "bpe:300"])
def test_the_corpus_encoder_is_the_tokenizer(spec: str) -> None:
    recipe = TokenizerRecipe(spec)
    tokenizer = recipe.train(lambda: [TEXT], lambda: [TEXT])
    (ids,) = recipe.encoder(tokenizer)([TEXT])
    assert ids.tolist() == tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT


@pytest.mark.parametrize("spec", ["bytes", "chars", "bpe:300"])
def test_a_corpus_that_names_the_end_of_text_does_not_end_there(tmp_path: Path, spec: str) -> None:
    text = "before <|endoftext|> after. " * 60
    loaded = corpus(tmp_path, text_file(tmp_path, text), tokenizer=spec)
    assert (loaded.train.tokens != loaded.tokenizer.eos_token_id).all()
    assert loaded.tokenizer.decode(loaded.train.tokens) == text[: int(len(text) * 0.9)]


@settings(max_examples=100)
@given(text=st.text(st.sampled_from("ab1 \n\r\t.,'s。你　\u00a0é"), max_size=30))
def test_pieces_of_a_long_document_tokenise_like_the_whole(text: str) -> None:
    for match in _SAFE_CUT.finditer(text.encode()):
        head, tail = (part.decode() for part in (text.encode()[: match.end()], text.encode()[match.end() :]))
        pieces = BPE(head)["input_ids"] + BPE(tail)["input_ids"]
        assert pieces == BPE(text)["input_ids"]


def test_long_documents_are_cut_and_joined_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path, TEXT)
    whole = corpus(tmp_path, path, tokenizer="bpe:300")
    monkeypatch.setattr("resformer.data.spool.PIECE_BYTES", 50)
    monkeypatch.setattr("resformer.data.cache.PIECE_BYTES", 120)
    cut = corpus(tmp_path / "again", path, tokenizer="bpe:300")
    assert cut.fingerprint == whole.fingerprint


def test_a_pretrained_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    bpe_tokenizer([TEXT], 300).save_pretrained(tmp_path / "mine")
    path = text_file(tmp_path, TEXT)
    loaded = corpus(tmp_path, path, tokenizer=str(tmp_path / "mine"))
    assert loaded.vocab_size == 300 and loaded.train.dtype == np.uint16
    assert loaded.tokenizer.decode(loaded.train.tokens) == TEXT[: int(len(TEXT) * 0.9)]


def test_a_pretrained_tokenizer_without_an_end_gets_one(tmp_path: Path) -> None:
    backend = byte_tokenizer().backend_tokenizer
    bare = PreTrainedTokenizerFast(tokenizer_object=type(backend)(backend.model))
    bare.backend_tokenizer.pre_tokenizer = backend.pre_tokenizer
    bare.backend_tokenizer.decoder = backend.decoder
    bare.save_pretrained(tmp_path / "bare")
    loaded = corpus(tmp_path, text_file(tmp_path), tokenizer=str(tmp_path / "bare"))
    assert loaded.tokenizer.eos_token_id == loaded.tokenizer.pad_token_id == 256


def renumbered(folder: Path, **ids: int) -> str:
    """A tokenizer of bytes in which some have other ids."""
    byte_tokenizer().save_pretrained(folder)
    path = folder / "tokenizer.json"
    saved = json.loads(path.read_text())
    saved["model"]["vocab"] |= ids
    path.write_text(json.dumps(saved))
    return str(folder)


@pytest.mark.parametrize("index", [261, 65536 + 101])
def test_ids_may_have_holes(tmp_path: Path, index: int) -> None:
    text = "abcde " * 100
    loaded = corpus(tmp_path, text_file(tmp_path, text), tokenizer=renumbered(tmp_path / "holes", e=index))
    assert loaded.vocab_size == index + 1 and loaded.train.tokens.max() == index
    assert loaded.train.dtype == (np.uint16 if index < 65536 else np.uint32)
    assert loaded.tokenizer.decode(loaded.train.tokens) == text[:540]
    assert loaded.tokenizer.decode([index - 1]) == ""


def test_ids_that_fit_no_model_or_end_documents_are_refused(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    with pytest.raises(DataError, match="has the id 3,000,000,000, at most 268,435,455 fits a model"):
        corpus(tmp_path, path, tokenizer=renumbered(tmp_path / "huge", e=3_000_000_000))
    with pytest.raises(DataError, match=r"has the id 256 for '<.endoftext.>' and 'e', and documents end"):
        corpus(tmp_path, path, tokenizer=renumbered(tmp_path / "end", e=256))


def test_an_id_outside_the_vocabulary_is_not_stored_as_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.data.cache.vocabulary_size", lambda tokenizer: 100)
    with pytest.raises(DataError, match="'bytes' gave the id 119, its vocabulary ends at 99"):
        corpus(tmp_path, text_file(tmp_path))
