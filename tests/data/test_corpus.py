"""What a corpus holds: split, packing, cache."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_helpers import SHAKESPEARE, corpus, needs_shakespeare, text_file
from hypothesis import given, settings
from hypothesis import strategies as st

import resformer.data.cache
from resformer.data import DataError, PackedTokens
from resformer.data.files import read_documents
from resformer.data.sources import Source
from resformer.data.spool import Spool

ROOT = Path(__file__).parents[2]


def spool_of(folder: Path, documents: list[str]) -> Spool:
    return Spool.write(Source("test", "", lambda: iter(documents)), folder / "spool", show_progress=False)


def json_lines(path: Path, documents: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))
    return path


@needs_shakespeare
def test_one_file_is_split_like_the_public_anchor(tmp_path: Path) -> None:
    text = SHAKESPEARE.read_text()
    loaded = corpus(tmp_path, SHAKESPEARE, tokenizer="chars", sequence_length=64)
    assert loaded.tokenizer.decode(loaded.train.tokens) == text[:1003854]
    assert loaded.validation_text.decode() == text[1003854:] == loaded.tokenizer.decode(loaded.validation.tokens)
    assert loaded.vocab_size == 65 + 2 and loaded.train.tokens.max() == 64
    assert loaded.bytes_per_token == 1.0 and loaded.num_documents == 1
    assert loaded.train.dtype == np.uint8
    assert 3.2 < loaded.unigram_entropy < 3.4


@settings(max_examples=60)
@given(
    documents=st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=40),
    fraction=st.floats(0.01, 0.5),
)
def test_split_keeps_every_character_once(
    tmp_path_factory: pytest.TempPathFactory, documents: list[str], fraction: float
) -> None:
    documents = [text.encode("utf-8", "ignore").decode() or "x" for text in documents]
    spool = spool_of(tmp_path_factory.mktemp("spool"), documents)
    training, validation = spool.split(fraction)
    assert spool.read(sorted(training + validation)) == "".join(documents).encode()
    if len(documents) >= 20 and set(validation) <= set(spool.spans()):
        held = {text for text, _ in spool.pieces(validation)}
        assert held.isdisjoint(text for text, _ in spool.pieces(training))


def test_documents_are_held_out_whole_and_by_their_content(tmp_path: Path) -> None:
    documents = [f"document {number} " * 10 for number in range(60)] * 2
    spool = spool_of(tmp_path, documents)
    _, validation = spool.split(0.1)
    held = {text for text, _ in spool.pieces(validation)}
    assert held <= set(documents) and 2 * len(held) == len(validation)
    assert 0.1 <= sum(end - start for start, end in validation) / spool.ends[-1] <= 0.2
    backwards = spool_of(tmp_path, documents[::-1])
    assert {text for text, _ in backwards.pieces(backwards.split(0.1)[1])} == held


def test_a_giant_document_is_not_held_out(tmp_path: Path) -> None:
    spool = spool_of(tmp_path, ["x" * 100_000, *(f"document {number}" for number in range(30))])
    training, validation = spool.split(0.05)
    assert (0, 100_000) in training and validation


def test_documents_are_separated_and_validation_text_is_the_held_out_text(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "rows.jsonl", ["0123456789" * 10, "abcdefghij" * 10])
    loaded = corpus(tmp_path, path)
    end = loaded.tokenizer.eos_token_id
    assert bytes(loaded.train.tokens[:90].astype(np.uint8)) == b"0123456789" * 9
    assert np.flatnonzero(loaded.train.tokens == end).tolist() == [90]
    assert loaded.validation_text == b"0123456789abcdefghij"
    assert loaded.bytes_per_token == 20 / 21


@given(count=st.integers(0, 50), length=st.integers(1, 12))
def test_sequences_tile_the_tokens_and_labels_are_shifted(
    tmp_path_factory: pytest.TempPathFactory, count: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("packed") / "tokens"
    np.arange(count, dtype=np.uint16).tofile(path)
    packed = PackedTokens(path, "uint16", length, end_of_text=9999)
    assert len(packed) == max(count - 1, 0) // length
    for index in range(len(packed)):
        item = packed[index]
        assert item["input_ids"].tolist() == list(range(index * length, (index + 1) * length))
        assert (item["shift_labels"] == item["input_ids"] + 1).all() and set(item) == {"input_ids", "shift_labels"}
    with pytest.raises(IndexError):
        packed[len(packed)]


@given(tokens=st.lists(st.integers(0, 3), min_size=2, max_size=40))
def test_positions_restart_after_each_end_of_text(tmp_path_factory: pytest.TempPathFactory, tokens: list[int]) -> None:
    path = tmp_path_factory.mktemp("packed") / "tokens"
    np.array(tokens, np.uint8).tofile(path)
    item = PackedTokens(path, "uint8", len(tokens) - 1, end_of_text=0, document_mask=True)[0]
    expected, position = [], 0
    for token in tokens[:-1]:
        expected.append(position)
        position = 0 if token == 0 else position + 1
    assert item["position_ids"].tolist() == expected


def test_a_pickled_corpus_carries_no_tokens(tmp_path: Path) -> None:
    packed = corpus(tmp_path, text_file(tmp_path, "word " * 50_000)).train
    first = packed[0]["input_ids"]
    data = pickle.dumps(packed)
    assert len(data) < 10_000 and (pickle.loads(data)[0]["input_ids"] == first).all()


@pytest.mark.parametrize("tokenizer", ["bytes", "chars", "bpe:300"])
def test_the_second_time_nothing_is_tokenised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: str) -> None:
    path = text_file(tmp_path)
    first = corpus(tmp_path, path, tokenizer=tokenizer)
    monkeypatch.setattr(resformer.data.cache, "_build", None)
    again = corpus(tmp_path, path, tokenizer=tokenizer, sequence_length=16)
    assert again.fingerprint == first.fingerprint and again.folder == first.folder
    path.write_text(path.read_text().replace("twice", "thrice"))
    with pytest.raises(TypeError):  # it would tokenise now
        corpus(tmp_path, path, tokenizer=tokenizer)


def test_the_fingerprint_follows_text_tokenizer_and_split_and_not_the_place(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    first = corpus(tmp_path, path).fingerprint
    assert corpus(tmp_path, path.rename(tmp_path / "moved.txt")).fingerprint == first
    path = tmp_path / "moved.txt"
    assert corpus(tmp_path / "elsewhere", path).fingerprint == first
    others = {
        corpus(tmp_path, path, tokenizer="chars").fingerprint,
        corpus(tmp_path, path, validation_fraction=0.2).fingerprint,
        corpus(tmp_path, text_file(tmp_path, path.read_text() + "!")).fingerprint,
    }
    assert len(others) == 3 and first not in others


@pytest.mark.parametrize(
    "name", ["train.tokens", "validation.text", "tokenizer/tokenizer.json", "facts.json", "checksums.json"]
)
@pytest.mark.parametrize("damage", [lambda data: data[:-2], lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:]])
def test_a_damaged_cache_is_made_again(tmp_path: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    first = corpus(tmp_path, text_file(tmp_path))
    files = {path: path.read_bytes() for path in first.folder.rglob("*") if path.is_file()}
    (first.folder / name).write_bytes(damage(files[first.folder / name]))
    assert corpus(tmp_path, tmp_path / "corpus.txt").fingerprint == first.fingerprint
    assert {path: path.read_bytes() for path in files} == files


def test_text_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path)
    real = Spool.write

    def write(*arguments: object) -> Spool:
        path.write_text(path.read_text() + "more")
        return real(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(DataError, match=r"corpus.txt' has changed while it was read"):
        patch.setattr(Spool, "write", write)
        corpus(tmp_path, path)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert corpus(tmp_path, path).num_documents == 1


def test_an_interrupted_build_leaves_nothing_that_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file(tmp_path)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "fsync", interrupt)
        corpus(tmp_path, path)
    assert not [entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]
    assert corpus(tmp_path, path).num_train_tokens


def test_what_a_killed_build_left_is_removed_later(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    folder = corpus(tmp_path, path).folder
    old, recent = (folder.with_name(f".{folder.name}.{name}") for name in ("old", "recent"))
    old.mkdir()
    recent.mkdir()
    os.utime(old, (0, 0))
    (folder / "facts.json").unlink()
    corpus(tmp_path, path)
    assert recent.exists() and not old.exists()


def test_two_processes_may_build_at_once(tmp_path: Path) -> None:
    path = text_file(tmp_path, "some words and more of them, " * 20_000)
    program = (
        "import sys; from resformer.data import *;"
        "c = load_corpus(DataConfig(source=sys.argv[1], cache_dir=sys.argv[2], tokenizer='bpe:280'));"
        "print(c.fingerprint, c.num_train_tokens)"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "cache")]
    processes = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert outputs[0] == outputs[1] != ""
    assert len([entry for entry in (tmp_path / "cache").iterdir() if entry.is_dir()]) == 1


def test_progress_is_silent_unless_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus(tmp_path, text_file(tmp_path), tokenizer="bpe:300")
    assert capsys.readouterr() == ("", "")


def test_the_standard_library_is_a_corpus(tmp_path: Path) -> None:
    loaded = corpus(tmp_path, "stdlib", validation_fraction=0.05, sequence_length=256)
    assert loaded.num_documents > 200 and loaded.num_train_tokens > 4_000_000
    assert 0.04 < loaded.validation.num_tokens / loaded.num_train_tokens < 0.12
    assert b"def " in loaded.validation_text


def test_read_documents_leaves_line_ends_and_drops_the_mark(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\ntwo\rthree\n")
    assert list(read_documents(path, "text", limit=100)) == ["one\r\ntwo\rthree\n"]
