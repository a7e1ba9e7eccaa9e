"""Text as it is found: damaged archives, half lines, empty and gigantic documents, foreign line ends and encodings."""

import gzip
import json

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
    "data",
    [ROWS.replace(b"\n", b"\r\n"), b"\xef\xbb\xbf" + ROWS, ROWS.replace(b"\n", b'\n\n{"text": ""}\n'), ROWS[:-1]],
    ids=["CRLF", "byte order mark", "empty documents", "no last line end"],
)
def test_what_is_around_the_rows_does_not_change_the_corpus(tmp_path, data):
    (tmp_path / "plain.jsonl").write_bytes(ROWS)
    (tmp_path / "other.jsonl").write_bytes(data)
    plain, other = corpus(tmp_path, tmp_path / "plain.jsonl"), corpus(tmp_path, tmp_path / "other.jsonl")
    assert other.fingerprint == plain.fingerprint
    assert other.num_documents == 60


def test_one_gigantic_document_without_a_space(tmp_path):
    (tmp_path / "giant.txt").write_bytes(b"0123456789" * 500_000)
    loaded = corpus(tmp_path, tmp_path / "giant.txt")
    assert loaded.num_documents == 1
    assert loaded.num_train_tokens == 4_500_000
    assert bytes(loaded.train.tokens[-10:].astype(np.uint8)) == b"0123456789"
