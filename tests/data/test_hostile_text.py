"""Sources made to hurt: archives that expand a thousandfold, lines without an end, pipes, devices, links in circles."""

import bz2
import glob
import gzip
import json
import lzma
import os
import socket
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from data_helpers import corpus, text_file

from resformer.data import DataError
from resformer.data.sources import _matches

LIMIT = 1_000_000
BOMB = 50 * LIMIT
PACK = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": pa.Codec("zstd").compress}


def refusal(tmp_path, source, **options) -> str:
    with pytest.raises(DataError) as error:
        corpus(tmp_path, source, **options)
    assert "\n" not in str(error.value)
    assert not [entry for entry in tmp_path.glob("cache/*") if entry.is_dir()]
    return str(error.value)


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_an_archive_that_expands_is_refused_in_bounded_memory(tmp_path, suffix, kind):
    packed = bytes(PACK[suffix](b"a" * BOMB))
    assert len(packed) < BOMB / 100
    bomb = tmp_path / f"bomb.{kind}.{suffix}"
    bomb.write_bytes(packed)
    del packed
    tracemalloc.start()
    try:
        message = refusal(tmp_path, bomb, max_document_bytes=LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert f"bomb.{kind}.{suffix}" in message and "1,000,000 bytes" in message and "data.max_document_bytes" in message
    assert peak < 20 * LIMIT


def test_the_limit_can_be_raised_and_is_no_part_of_the_corpus(tmp_path):
    path = text_file(tmp_path, "a corpus of some words, twice. " * 40)
    size = path.stat().st_size
    assert "raise data.max_document_bytes" in refusal(tmp_path, path, max_document_bytes=size - 1)
    exact, wide = (corpus(tmp_path, path, max_document_bytes=limit) for limit in (size, 10 * size))
    assert exact.folder == wide.folder


def test_equal_rows_of_a_table_are_not_unfolded_together(tmp_path):
    rows, length = 300, LIMIT
    column = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["word " * (length // 5)]))
    pa.parquet.write_table(pa.table({"text": column}), tmp_path / "folded.parquet")
    assert (tmp_path / "folded.parquet").stat().st_size < 2 * length
    usual, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
    pa.set_memory_pool(pool)
    try:
        loaded = corpus(tmp_path, tmp_path / "folded.parquet")
    finally:
        pa.set_memory_pool(usual)
    assert loaded.num_documents == rows
    assert 0 < pool.max_memory() < 20 * length


@pytest.mark.parametrize("limit", [199, 200])
def test_a_line_or_row_is_held_against_the_limit(tmp_path, limit):
    line = json.dumps({"text": "x" * 180}, separators=(",", ":")) + "\n"
    texts = [{"text": "x" * limit}] * 30
    pa.parquet.write_table(pa.Table.from_pylist(texts), tmp_path / "rows.parquet")
    (tmp_path / "rows.jsonl").write_text(line * 30)
    assert corpus(tmp_path, tmp_path / "rows.parquet", max_document_bytes=limit).num_documents == 30
    assert "rows.parquet row 1 is longer" in refusal(tmp_path / "other", tmp_path / "rows.parquet",
                                                     max_document_bytes=limit - 1)  # fmt: skip
    assert "rows.jsonl line 1 is longer" in refusal(tmp_path / "other", tmp_path / "rows.jsonl",
                                                    max_document_bytes=len(line) - 1)  # fmt: skip


def test_pipes_and_devices_are_refused_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        monkeypatch.chdir(tmp_path)  # the name of a socket may have 107 letters
        listening.bind("socket.txt")
    for name in ("pipe.txt", "zero.txt", "socket.txt"):
        assert f"{name} is a pipe, socket or device" in refusal(tmp_path, tmp_path / name)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe.txt")
    text_file(tmp_path / "folder")
    assert "pipe.txt is a pipe" in refusal(tmp_path, tmp_path / "folder")


def test_links_in_circles_end(tmp_path):
    folder = tmp_path / "circle"
    folder.mkdir()
    text_file(folder)
    for name in ("one", "other"):  # two of them, and each further level doubles what a glob finds
        (folder / name).symlink_to(folder)
    assert corpus(tmp_path, folder).num_documents == 1
    message = refusal(tmp_path / "new", folder / "**" / "*.txt", max_files=1000)
    assert "more than 1,000 files" in message and "data.max_files" in message
    # A pattern that matches nothing would look on for ever.
    assert "more than 1,000 files" in refusal(tmp_path / "new", folder / "**" / "*.md", max_files=1000)
    (folder / "self.txt").symlink_to(folder / "self.txt")
    assert "self.txt" in refusal(tmp_path / "new", folder)


@pytest.mark.parametrize("pattern", ["**", "**/*.txt", "a/**/*", "*/**/c.txt", "**/b/**/*.txt", "[[]x[]]/**/*.txt"])
def test_a_glob_matches_what_the_standard_library_says(tmp_path, pattern, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("top.txt", "a/b/c.txt", "a/b/d/b/e.txt", "[x]/c.txt", ".hidden/h.txt", "a/.hidden/h.txt", "a/.h.txt"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        text_file(Path(name).parent, name=Path(name).name)
    Path("link").symlink_to("a/b")
    for start in ("", f"{tmp_path}/"):
        expected = {Path(name) for name in glob.glob(start + pattern, recursive=True)}
        found = _matches(start + pattern, pattern, 1000)
        assert [path for path in found if path.is_file()] == sorted(path for path in expected if path.is_file())


def test_more_files_than_allowed(tmp_path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(12):
        text_file(folder, name=f"{number:03d}.txt")
    assert corpus(tmp_path, folder, max_files=12).num_documents == 12
    for source in (folder, folder / "*.txt"):
        assert "more than 11 files" in refusal(tmp_path / "new", source, max_files=11)
