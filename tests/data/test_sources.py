"""Every kind of source gives the same documents, and every bad one says so in one line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from data_helpers import corpus, text_file

from resformer.data import DataConfig, DataError
from resformer.data.sources import open_source

DOCUMENTS = [f"document {number}: 2024-01-0{number % 9 + 1} naïve\r\n" * 3 for number in range(30)]
ROWS = {"text": DOCUMENTS, "id": list(range(30))}


COMPRESS = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
COMPRESSIONS = [*COMPRESS, ".zst"]


def compress(data: bytes, suffix: str, path: Path) -> None:
    if suffix == ".zst":
        with pa.output_stream(str(path), compression="zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(COMPRESS[suffix](data))


def json_lines() -> bytes:
    return "".join(json.dumps({"text": text, "id": 1}) + "\n" for text in DOCUMENTS).encode()


def table_bytes(kind: str) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table(ROWS)
    if kind == ".parquet":
        parquet.write_table(table, sink)
    else:
        new = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
        with new(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue().to_pybytes()


def documents(source: object, **options: object) -> list[str]:
    return list(open_source(DataConfig(source=str(source), **options)).documents())


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", [".jsonl", ".parquet", "file.arrow", "stream.arrow"])
def test_rows_are_documents(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"rows.{kind.lstrip('.')}{suffix}"
    compress(json_lines() if kind == ".jsonl" else table_bytes(kind), suffix, path)
    assert documents(path) == DOCUMENTS


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("kind", [".txt", ".md", ".py"])
def test_a_text_file_is_one_document(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"text{kind}{suffix}"
    compress("".join(DOCUMENTS).encode(), suffix, path)
    assert documents(path) == ["".join(DOCUMENTS)]


def test_folders_and_globs_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a/z.md", "a/c.txt", "ignored.png", ".hidden.txt", "empty.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("" if "empty" in name else name)
    assert documents(tmp_path) == ["a/c.txt", "a/z.md", "b.txt", ""]
    assert documents(tmp_path / "**" / "*.txt") == ["a/c.txt", "b.txt", ""]
    assert documents(tmp_path / "a" / "*") == ["a/c.txt", "a/z.md"]


def test_datasets_saved_to_disk_and_other_columns_are_read(tmp_path: Path) -> None:
    datasets.Dataset.from_dict({"body": DOCUMENTS}).save_to_disk(tmp_path / "saved")
    assert documents(tmp_path / "saved", text_column="body") == DOCUMENTS


@pytest.mark.parametrize("streaming", [False, True])
def test_a_hub_source_is_read_by_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.jsonl").write_bytes(json_lines())
    (tmp_path / "set" / "test.jsonl").write_text(json.dumps({"text": "the other split"}))
    options = {"streaming": streaming}
    assert documents("hub:./set", **options) == DOCUMENTS
    assert documents("hub:./set:default@test", **options) == ["the other split"]
    first = corpus(tmp_path, "hub:./set", **options)
    assert first.num_documents == 30
    (tmp_path / "set" / "train.jsonl").write_bytes(json_lines().replace(b"document", b"DOCUMENT"))
    assert corpus(tmp_path, "hub:./set", **options).fingerprint != first.fingerprint
    with pytest.raises(DataError, match=r"Available splits: \['train', 'test'\]"):
        documents("hub:./set@validation", **options)
    with pytest.raises(DataError, match="Available: "):
        documents("hub:./set:other", **options)
    with pytest.raises(DataError, match=r"no column 'body', only \['id', 'text'\]"):
        documents("hub:./set", text_column="body", **options)


def test_a_hub_without_network_answers_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resformer.data.sources.hub_is_reachable", lambda: False)
    monkeypatch.setattr("resformer.data.tokenizing.hub_is_reachable", lambda: False)
    fails(tmp_path, "hub:nobody/nothing-of-the-kind", "cannot find data.source 'hub:nobody/nothing-of-the-kind'")
    fails(tmp_path, text_file(tmp_path), "'nobody/nothing' cannot be loaded", tokenizer="nobody/nothing")


def fails(folder: Path, source: object, *parts: str, **options: object) -> None:
    """The corpus is refused in one line that holds all the parts."""
    with pytest.raises(DataError) as error:
        corpus(folder, source, **options)
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def write(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


GOOD = b'{"text": "a"}\n'
BAD_FILES = {
    "empty.txt": (b"", ["empty.txt", "is empty"]),
    "mark.txt": (b"\xef\xbb\xbf", ["mark.txt", "is empty"]),
    "binary.txt": (b"\x89PNG\r\n\0\0", ["binary.txt is a binary file", "offset 6"]),
    "latin.txt": ("naïve".encode("latin-1"), ["latin.txt is not UTF-8", "0xef at offset 2"]),
    "cut.txt.gz": (gzip.compress(b"text " * 99)[:-9], ["cut.txt.gz is corrupt, truncated"]),
    "cut.txt.bz2": (bz2.compress(b"text " * 99)[:-9], ["cut.txt.bz2 is corrupt, truncated"]),
    "cut.txt.xz": (lzma.compress(b"text " * 99)[:-9], ["cut.txt.xz is corrupt, truncated"]),
    "no.txt.zst": (b"plain text", ["no.txt.zst is corrupt, truncated"]),
    "no.jsonl.gz": (GOOD, ["no.jsonl.gz is corrupt"]),
    "cut.parquet": (table_bytes(".parquet")[:-9], ["cut.parquet is corrupt, truncated"]),
    "cut.arrow": (table_bytes("stream.arrow")[:200], ["cut.arrow is corrupt, truncated"]),
    "no.arrow": (b"plain text", ["no.arrow is corrupt"]),
    "none.parquet": (b"", ["none.parquet is corrupt"]),
    "none.arrow": (b"", ["none.arrow is corrupt"]),
    "broken.jsonl": (GOOD * 2 + b'{"text": \n', ["broken.jsonl line 3 is not JSON"]),
    "list.jsonl": (GOOD + b"[1]\n", ["list.jsonl line 2 is list"]),
    "number.jsonl": (b'{"text": 3}\n', ["number.jsonl line 1", "holds int, not text"]),
    "column.jsonl": (b'{"txet": "a", "id": 1}\n', ["column.jsonl line 1", "['id', 'txet']", "did you mean 'txet'"]),
    "latin.jsonl": (GOOD + b'{"text": "\xef"}\n', ["latin.jsonl line 2 is not UTF-8"]),
    "half.jsonl": (rb'{"text": "\ud800"}', ["half.jsonl line 1", "surrogate"]),
    "digits.jsonl": (GOOD + b'{"text": "a", "id": ' + b"9" * 5000 + b"}", ["digits.jsonl line 2 is not JSON"]),
    "picture.png": (b"x", ["picture.png", ".txt .md .py .jsonl .parquet .arrow"]),
    "short.txt": (b"x" * 50, ["validation split has 5 tokens", "sequence_length that works is 4"]),
    "shorter.txt": (b"x" * 10, ["too short", "give more text"]),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD_FILES))
def test_bad_files_name_themselves(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    data, parts = BAD_FILES[name]
    fails(tmp_path, write(tmp_path, name, data), *parts)
    assert capfd.readouterr() == ("", "")  # no second line from a library's logger
    kept = [entry for entry in tmp_path.glob("cache/*") if entry.is_dir()]
    assert bool(kept) == name.startswith("short")  # only what is good for shorter sequences is cached


@pytest.mark.parametrize("kind", [".parquet", "file.arrow", "stream.arrow"])
def test_a_missing_column_of_a_table_lists_what_is_there(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path, f"x{kind if kind[0] == '.' else '.arrow'}", table_bytes(kind))
    fails(tmp_path, path, str(path), "no column 'texts', only ['id', 'text']", "'text'?", text_column="texts")
    fails(tmp_path, path, "row 1", "holds int, not text", text_column="id")


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text_file(tmp_path)
    (tmp_path / "folder").mkdir()
    fails(tmp_path, "stdlb", "'stdlb' does not exist", "did you mean 'stdlib'?")
    fails(tmp_path, tmp_path / "corpsu.txt", str(tmp_path), "did you mean 'corpus.txt'?")
    fails(tmp_path, tmp_path / "no" / "where.txt", "does not exist", "hub:OWNER/NAME")
    fails(tmp_path, "roneneldan/TinyStories", "'hub:roneneldan/TinyStories'")
    fails(tmp_path, tmp_path / "*.parquet", "matches nothing", ".jsonl")
    fails(tmp_path, tmp_path / "*older", "matches no file that can be read")
    fails(tmp_path, tmp_path / "folder", "holds no file that can be read", ".arrow")
    fails(tmp_path, "hub:", "OWNER/NAME")


@pytest.mark.parametrize("source", ["n" * 5000, f"{'n' * 5000}/x.txt", f"{'n' * 5000}*.txt", f"hub:{'n' * 5000}"])
def test_a_name_of_thousands_of_letters_is_not_echoed_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setattr("resformer.data.sources.hub_is_reachable", lambda: False)
    with pytest.raises(DataError, match="nnnn…nn") as error:
        corpus(tmp_path, source)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("key", ["source", "cache_dir", "tokenizer"])
def test_a_home_folder_of_nobody(tmp_path: Path, key: str) -> None:
    options: dict = {"source": text_file(tmp_path)} | {key: "~nosuch/x.txt"}
    fails(tmp_path, options.pop("source"), f"data.{key} '~nosuch/x.txt'", "no such home folder", **options)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"tokenizer": "bpe:abc"}, "'bpe:abc' needs a size of at least 257"),
        ({"tokenizer": "bpe:100"}, "'bpe:100' needs a size"),
        ({"tokenizer": "bpe"}, "'bpe' needs a size"),
        ({"tokenizer": "byte"}, "did you mean 'bytes'?"),
        ({"validation_fraction": 0.0}, "validation_fraction is 0.0"),
        ({"validation_fraction": 0.6}, "at most 0.5"),
        ({"validation_fraction": float("nan")}, "validation_fraction is nan"),
        ({"sequence_length": 0}, "sequence_length is 0"),
        ({"num_workers": -1}, "num_workers is -1"),
    ],
)
def test_bad_options_name_themselves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], part: str
) -> None:
    monkeypatch.setattr("resformer.data.tokenizing.hub_is_reachable", lambda: False)
    fails(tmp_path, text_file(tmp_path), part, **options)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    path = text_file(tmp_path)
    fails(tmp_path, path, f"cannot write the cache folder {path}", "data.cache_dir", cache_dir=str(path / "cache"))


def test_a_broken_tokenizer_folder(tmp_path: Path) -> None:
    write(tmp_path, "tokenizer.json", b"{")
    fails(tmp_path, text_file(tmp_path), str(tmp_path), "cannot be loaded", tokenizer=str(tmp_path))
