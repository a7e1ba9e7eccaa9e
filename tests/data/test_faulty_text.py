"""Text as it is found: damaged archives, half lines, empty and gigantic documents, foreign line ends and encodings."""

import bz2
import gzip
import json
import lzma

import numpy as np
import pytest
from data_helpers import corpus

from resformer.data import DataError

LINES = [json.dumps({"text": f"document {number} of some words"}) + "\n" for number in range(60)]
ROWS = "".join(LINES).encode()


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 0xFF]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("name", "data", "parts"),
    [
        ("flipped.jsonl.gz", flipped(gzip.compress(ROWS), 40), ["flipped.jsonl.gz is corrupt"]),
        ("checksum.jsonl.gz", flipped(gzip.compress(ROWS), -6), ["checksum.jsonl.gz is corrupt"]),
        *(  # the standard library's own reader would take the second stream's damaged head for the end of the text
            (f"second.jsonl.{name}", whole(ROWS) + flipped(whole(ROWS), 2), [f"second.jsonl.{name} is corrupt"])
            for name, whole in (("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress))
        ),
        ("behind.jsonl.bz2", bz2.compress(ROWS) + b"something else", ["behind.jsonl.bz2 is corrupt"]),
        ("half.jsonl", ROWS + b'{"text": "cut of', ["half.jsonl line 61 is not JSON"]),
        ("mixed.jsonl", ROWS + '{"text": "café"}\n'.encode("latin-1"), ["line 61 is not UTF-8", "0xe9 at offset 13"]),
        ("wide.txt", ("some words " * 50).encode("utf-16"), ["wide.txt is a binary file"]),
        ("nothing.jsonl", b'{"text": ""}\n{"text": null}\n\n', ["nothing.jsonl", "is empty"]),
    ],
)
def test_a_fault_is_one_line_and_nothing_is_cached(tmp_path, name, data, parts):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError) as error:
        corpus(tmp_path, tmp_path / name)
    assert "\n" not in str(error.value)
    for part in parts:
        assert part in str(error.value)
    assert not [entry for entry in tmp_path.glob("cache/*") if entry.is_dir()]


@pytest.mark.parametrize(
    ("data", "empty"),
    [(ROWS.replace(b"\n", b"\r\n"), 0), (b"\xef\xbb\xbf" + ROWS, 0), (ROWS[:-1], 0),
     (ROWS.replace(b"\n", b'\n\n{"text": ""}\n'), 60)],
    ids=["CRLF", "byte order mark", "no last line end", "empty documents"],
)  # fmt: skip
def test_what_is_around_the_rows_does_not_change_the_corpus(tmp_path, data, empty):
    (tmp_path / "plain.jsonl").write_bytes(ROWS)
    (tmp_path / "other.jsonl").write_bytes(data)
    plain, other = corpus(tmp_path, tmp_path / "plain.jsonl"), corpus(tmp_path, tmp_path / "other.jsonl")
    assert other.fingerprint == plain.fingerprint
    assert (other.num_documents, other.num_empty_documents) == (60, empty)


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_archives_joined_into_one_are_read_to_the_end(tmp_path, suffix):
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[suffix]
    (tmp_path / f"joined.jsonl.{suffix}").write_bytes(compress(ROWS) + bytes(8) + compress(ROWS))
    assert corpus(tmp_path, tmp_path / f"joined.jsonl.{suffix}").num_documents == 120


def test_one_gigantic_document_without_a_space(tmp_path):
    (tmp_path / "giant.txt").write_bytes(b"0123456789" * 500_000)
    loaded = corpus(tmp_path, tmp_path / "giant.txt")
    assert loaded.num_documents == 1
    assert loaded.num_train_tokens == 4_500_000
    assert bytes(loaded.train.tokens[-10:].astype(np.uint8)) == b"0123456789"


@pytest.mark.parametrize("text", ["0123456789", " "])
def test_a_tokenizer_learns_from_a_gigantic_word(tmp_path, text):
    """Without a bound this takes hours; the bound does not cut the words that are encoded."""
    (tmp_path / "giant.txt").write_text("\n" + text * (1_000_000 // len(text)) + "\n")
    loaded = corpus(tmp_path, tmp_path / "giant.txt", tokenizer="bpe:300", validation_fraction=0.5, sequence_length=1)
    assert loaded.tokenizer.decode(loaded.train.tokens) == "\n" + (text * 50_000 if len(text) > 1 else text * 500_000)
