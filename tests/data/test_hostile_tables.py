"""Tables made to hurt: offsets that lie, columns that unpack a thousandfold, a column twice, text that is none."""

import struct
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet
import pytest
from data_helpers import corpus

from resformer.data import DataError
from resformer.data.files import read_documents

LIMIT = 1_000_000
BOMB = 40 * LIMIT
KINDS = ["parquet", "stream.arrow", "file.arrow"]


def write(folder, kind, table, **options):
    path = folder / f"table.{kind}"
    if kind == "parquet":
        pa.parquet.write_table(table, path, compression="zstd", **options)
    else:
        new = pa.ipc.new_file if kind == "file.arrow" else pa.ipc.new_stream
        with new(path, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
            writer.write_table(table)
    return path


def refusal(folder, path, **options) -> str:
    with pytest.raises(DataError) as error:
        corpus(folder, path, **options)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    return str(error.value)


class Peak:
    """What Arrow takes at most in the block."""

    def __enter__(self):
        self.usual, self.pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.system_memory_pool())
        pa.set_memory_pool(self.pool)
        return self.pool

    def __exit__(self, *_):
        pa.set_memory_pool(self.usual)


@pytest.mark.parametrize("offset", [2_000_000_000, -2_000_000_000])
@pytest.mark.parametrize("new", [pa.ipc.new_stream, pa.ipc.new_file])
def test_offsets_outside_the_text_end_no_process(tmp_path, offset, new):
    table, path = pa.table({"text": ["hello world"] * 50}), tmp_path / "lying.arrow"
    with new(path, table.schema) as writer:
        writer.write_table(table)
    data = path.read_bytes()
    assert data.count(struct.pack("<i", 440)) == 1
    path.write_bytes(data.replace(struct.pack("<i", 440), struct.pack("<i", offset)))
    program = (
        "import sys; from pathlib import Path; from resformer.data.files import read_documents\n"
        "try: list(read_documents(Path(sys.argv[1]), 'text', 10**6))\n"
        "except ValueError as error: print(error)"
    )
    ran = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True)
    assert ran.returncode == 0 and f"{path} is corrupt" in ran.stdout, ran.stderr


def test_a_folded_column_that_points_outside_is_corrupt(tmp_path):
    table = pa.table({"text": pa.array(["a", "b"] * 30).dictionary_encode()})
    with pa.ipc.new_stream(tmp_path / "good.arrow", table.schema) as writer:
        writer.write_table(table)
    assert list(read_documents(tmp_path / "good.arrow", "text", 100)) == ["a", "b"] * 30
    indices = struct.pack("<4i", 0, 1, 0, 1)
    data = (tmp_path / "good.arrow").read_bytes()
    (tmp_path / "bad.arrow").write_bytes(data.replace(indices, struct.pack("<4i", 0, 9_999_999, 0, 1), 1))
    assert "is corrupt" in refusal(tmp_path, tmp_path / "bad.arrow")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [1, 60])
def test_a_column_that_unpacks_a_thousandfold_is_refused_before_it_does(tmp_path, kind, rows, monkeypatch):
    """One row gives itself away; among others it does not, and the limit of what is held counts."""
    monkeypatch.setattr("resformer.data.files._UNPACKED_BYTES", BOMB // 2)
    path = write(tmp_path, kind, pa.table({"text": ["a" * BOMB, *["b"] * (rows - 1)]}))
    assert path.stat().st_size < BOMB / 1000
    with Peak() as pool:
        message = refusal(tmp_path, path, max_document_bytes=LIMIT)
    assert "unpacks to 40," in message and "raise data.max_document_bytes" in message
    assert pool.max_memory() < LIMIT
    assert corpus(tmp_path, path, max_document_bytes=2 * BOMB).num_documents == rows


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_that_nobody_asked_for_is_not_unpacked(tmp_path, kind):
    views = pa.array(["x" * 20 for _ in range(60)], pa.string_view())
    beside = {"list": [[1, 2]] * 60, "views": views, "bomb": ["a" * BOMB, *["b"] * 59]}
    path = write(tmp_path, kind, pa.table(beside | {"text": ["some words"] * 60}))
    with Peak() as pool:
        assert corpus(tmp_path, path, max_document_bytes=100).num_documents == 60
    assert pool.max_memory() < LIMIT


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False, "data_page_version": "2.0"}])
def test_rows_are_read_together_only_as_far_as_their_pages_fit(tmp_path, monkeypatch, options):
    rows, length = 200, 200_000
    texts = [chr(97 + row % 26) * length for row in range(rows)]
    path = write(tmp_path, "parquet", pa.table({"text": texts}), write_batch_size=4, **options)
    monkeypatch.setattr("resformer.data.files._UNPACKED_BYTES", 2 * LIMIT)
    with Peak() as pool:
        assert corpus(tmp_path, path, max_document_bytes=length).num_documents == rows
    assert pool.max_memory() < rows * length / 2


def test_a_lying_footer_does_not_help(tmp_path, monkeypatch):
    monkeypatch.setattr("resformer.data.files._UNPACKED_BYTES", LIMIT)
    path = write(tmp_path, "parquet", pa.table({"text": ["a" * BOMB]}), use_dictionary=False)
    data = path.read_bytes()
    size = pa.parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    in_thrift = bytes((size << 1) >> shift & 127 | 128 * (shift < 21) for shift in range(0, 28, 7))
    path.write_bytes(data.replace(in_thrift, b"\x82\x80\x80\x00"))
    assert pa.parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 1
    assert "a page of row group 0 unpacks to" in refusal(tmp_path, path, max_document_bytes=LIMIT)


@pytest.mark.parametrize("kind", KINDS)
def test_the_limit_of_a_row_counts_bytes(tmp_path, kind):
    path = write(tmp_path, kind, pa.table({"text": ["é" * 60] * 30}))
    assert corpus(tmp_path, path, max_document_bytes=120).num_documents == 30
    assert "row 1 is longer than 119 bytes" in refusal(tmp_path / "new", path, max_document_bytes=119)


@pytest.mark.parametrize("kind", KINDS)
def test_a_column_twice_or_of_a_kind_that_holds_no_text(tmp_path, kind):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    assert "has 2 columns called 'text'" in refusal(tmp_path, write(tmp_path, kind, twice))
    for value in ({"a": "b"}, ["a"]):
        path = write(tmp_path, kind, pa.table({"text": [value]}))
        assert "column 'text' holds" in refusal(tmp_path, path) and "not text" in refusal(tmp_path, path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("folded", [False, True])
def test_a_row_that_is_not_utf8_is_named(tmp_path, kind, folded):
    column = pa.array([b"good", b"caf\xe9 au lait", b"good"]).view(pa.string())
    path = write(tmp_path, kind, pa.table({"text": column.dictionary_encode() if folded else column}))
    assert "row 2 is not UTF-8 (byte 0xe9 at offset 3)" in refusal(tmp_path, path)
