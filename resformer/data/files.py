"""Reading one file: text whole, rows one by one, through whatever compression its name says."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet

from ..keys import did_you_mean
from .config import DataError, first_line, short
from .unpacked import Part, arrow_batches, parquet_pages

TEXT_SUFFIXES = (".txt", ".md", ".py")
ROW_SUFFIXES = (".jsonl", ".parquet", ".arrow")
SUFFIXES = TEXT_SUFFIXES + ROW_SUFFIXES


def _open_zstandard(path: Path) -> IO[bytes]:
    # Arrow brings a zstandard decoder everywhere; the standard library has one only since Python 3.14.
    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"))  # type: ignore[arg-type]


class _Streams(io.RawIOBase):
    """Compressed streams one after another, zeros between them left out. The standard library's own files take a
    stream whose start is damaged for the end of the text, and say nothing."""

    def __init__(self, path: Path, decompressor: Callable[[], Any]) -> None:
        self.file, self.make, self.decompressor = path.open("rb"), decompressor, decompressor()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            data = b""
            if self.decompressor.eof:
                data = self.decompressor.unused_data.lstrip(b"\0")
                while not data:
                    if not (data := self.file.read(io.DEFAULT_BUFFER_SIZE)):
                        return 0
                    data = data.lstrip(b"\0")
                self.decompressor = self.make()
            elif self.decompressor.needs_input and not (data := self.file.read(io.DEFAULT_BUFFER_SIZE)):
                raise EOFError("the file ends within a compressed stream")
            if text := self.decompressor.decompress(data, len(buffer)):
                buffer[: len(text)] = text
                return len(text)

    def close(self) -> None:
        self.file.close()
        super().close()


OPENERS: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": lambda path: io.BufferedReader(_Streams(path, bz2.BZ2Decompressor)),
    ".xz": lambda path: io.BufferedReader(_Streams(path, lzma.LZMADecompressor)),
    ".zst": _open_zstandard,
}
ALLOWED = f"{' '.join(SUFFIXES)} (optionally {' '.join(OPENERS)})"
_ROWS = 1024
"""Of a table held at once."""
_UNPACKED_BYTES = 2**29
"""A page or record batch may hold so many whatever ``data.max_document_bytes`` is: it holds many documents."""
_AS_BINARY = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}
_READING_ERRORS = (EOFError, OSError, zlib.error, lzma.LZMAError, pa.ArrowException)


def kind_of(path: Path) -> str | None:
    """The suffix that says how to read the file, without its compression, or None if we cannot read it."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in OPENERS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in SUFFIXES else None


def content_digest(path: Path) -> str:
    """SHA-256 of the file as it lies on disk. Raises DataError if it cannot be read, or never ends."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError(f"{path} is a pipe, socket or device; give files, which have an end")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or first_line(error)}") from error


def read_documents(path: Path, text_column: str, limit: int) -> Iterator[str]:
    """The documents of one file, in order, empty ones too, none of them longer than ``limit`` bytes.

    Raises:
        DataError: naming the path, for what cannot be read or is longer.
    """
    kind = kind_of(path)
    try:
        if kind in TEXT_SUFFIXES:
            with _open(path) as file:
                documents = iter([decode_text(_read(file, str(path), limit), str(path))])
        elif kind == ".jsonl":
            documents = _json_lines(path, text_column, limit)
        else:
            documents = _table_rows(path, text_column, limit, parquet=kind == ".parquet")
        yield from documents
    except _READING_ERRORS as error:
        raise DataError(
            f"{path} is corrupt, truncated or not what its name says ({first_line(error)}); write it again"
        ) from error


def decode_text(data: bytes, where: str) -> str:
    """UTF-8 to text, a byte order mark left out, line ends as they are. Raises DataError with the offset."""
    if b"\0" in data:
        raise DataError(f"{where} is a binary file (zero byte at offset {data.index(0)}); give UTF-8 text")
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise _not_utf8(error, where) from error


def _not_utf8(error: UnicodeDecodeError, where: str) -> DataError:
    byte = error.object[error.start]
    return DataError(f"{where} is not UTF-8 (byte 0x{byte:02x} at offset {error.start}); convert it to UTF-8")


def text_of(row: Any, column: str, where: str) -> str:
    """The text of one row; an absent value is an empty document. Raises DataError naming what is there."""
    if not isinstance(row, dict):
        raise DataError(f"{where} is {type(row).__name__}, not an object with the column {column!r}")
    if column not in row:
        raise DataError(
            f"{where} has no column {column!r}, only {sorted(row)}; set data.text_column{did_you_mean(column, row)}"
        )
    value = row[column]
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: column {column!r} holds {type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half a surrogate pair at character {error.start} is not text") from error
    return value


def _read(file: IO[bytes], where: str, limit: int) -> bytes:
    """All of a file: what is longer than ``limit`` is not held, however small the archive that it comes from."""
    data = file.read(limit + 1)
    refuse_longer(len(data), where, limit)
    return data


def refuse_longer(size: int, where: str, limit: int) -> None:
    """Raises DataError if a document of ``size`` bytes is longer than ``data.max_document_bytes``."""
    if size > limit:
        raise DataError(
            f"{where} is longer than {limit:,} bytes; split it into documents, or raise data.max_document_bytes"
        )


def _open(path: Path) -> Any:
    opener = OPENERS.get(path.suffix.lower())
    return opener(path) if opener else path.open("rb")


def _json_lines(path: Path, column: str, limit: int) -> Iterator[str]:
    # Not the JSON reader of `datasets`: it turns text that looks like dates into timestamps, and its
    # errors do not say the line.
    with _open(path) as file:
        lines = iter(lambda: file.readline(limit + 1), b"")
        for number, line in enumerate(lines, start=1):
            where = f"{path} line {number}"
            refuse_longer(len(line), where, limit)
            text = decode_text(line, where)
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:  # not of JSON alone: a number may have too many digits
                raise DataError(f"{where} is not JSON ({first_line(error)}); one object per line") from error
            yield text_of(row, column, where)


def _table_rows(path: Path, column: str, limit: int, *, parquet: bool) -> Iterator[str]:
    if path.suffix.lower() in OPENERS:
        # Both formats seek, so what is compressed from outside has to be unpacked whole.
        with _open(path) as file:
            data = pa.py_buffer(_read(file, str(path), limit))
    else:
        with pa.memory_map(str(path)) as file:
            data = file.read_buffer()
    row = 0
    for batch in (_parquet if parquet else _arrow)(data, column, path, limit):
        for scalar in batch.column(0):
            row += 1
            where = f"{path} row {row}"
            yield text_of({column: _value(scalar, where, limit)}, column, where)


def _value(scalar: pa.Scalar, where: str, limit: int) -> Any:
    if isinstance(scalar, pa.DictionaryScalar):
        scalar = scalar.value
    if isinstance(scalar, pa.BinaryScalar) and scalar.is_valid:
        refuse_longer(scalar.as_buffer().size, where, limit)
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        raise _not_utf8(error, where) from error


def _parquet(data: pa.Buffer, column: str, path: Path, limit: int) -> Iterator[pa.RecordBatch]:
    _only_column(pyarrow.parquet.read_schema(pa.BufferReader(data)), column, path)
    # Equal values are stored once, and stay so: unfolded, a small file can fill any memory.
    table = pyarrow.parquet.ParquetFile(pa.BufferReader(data), read_dictionary=[column])
    folds = pa.types.is_dictionary(table.schema_arrow.field(column).type)
    largest = 1
    for page in parquet_pages(data, table.metadata, column):
        _refuse_larger(page, path, limit, "pages")
        if not (folds and page.folded):
            largest = max(largest, page.size)
    # Rows that are read together lie on no more pages than there are rows.
    rows = min(max(_most_unpacked(limit) // largest, 1), _ROWS)
    return table.iter_batches(batch_size=rows, columns=[column])


def _arrow(data: pa.Buffer, column: str, path: Path, limit: int) -> Iterator[pa.RecordBatch]:
    try:
        schema, stream = pa.ipc.open_stream(pa.BufferReader(data)).schema, True
    except pa.ArrowInvalid:  # the random-access kind of Arrow file
        schema, stream = pa.ipc.open_file(pa.BufferReader(data)).schema, False
    index = _only_column(schema, column, path)
    for part in arrow_batches(data, schema, index, stream=stream):
        _refuse_larger(part, path, limit, "record batches")
    options = pa.ipc.IpcReadOptions(included_fields=[index])
    if stream:
        batches = iter(pa.ipc.open_stream(pa.BufferReader(data), options=options))
    else:
        reader = pa.ipc.open_file(pa.BufferReader(data), options=options)
        batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
    for batch in batches:
        _validate(batch.column(0))
        yield batch


def _only_column(schema: pa.Schema, column: str, path: Path) -> int:
    """The place of the column. Raises DataError if there is none, more than one, or one that cannot hold text."""
    names = schema.names
    if column not in names:
        text_of(dict.fromkeys(names), column, str(path))
    if names.count(column) > 1:
        raise DataError(f"{path} has {names.count(column)} columns called {column!r}; rename all but one")
    kind = schema.field(names.index(column)).type
    if pa.types.is_nested(kind):
        raise DataError(f"{path}: column {column!r} holds {short(str(kind))}, not text; set data.text_column")
    return names.index(column)


def _validate(column: pa.Array) -> None:
    """Raises pa.ArrowInvalid for a place outside the text, which to read would kill the process."""
    if isinstance(column, pa.DictionaryArray):
        _validate(column.dictionary)
        column = pa.DictionaryArray.from_arrays(column.indices, pa.nulls(len(column.dictionary)))
    for text, binary in _AS_BINARY.items():  # whether it is UTF-8 is asked of each row, which can then be named
        if column.type == text:
            column = column.view(binary)
    column.validate(full=True)


def _most_unpacked(limit: int) -> int:
    return max(limit, _UNPACKED_BYTES)


def _refuse_larger(part: Part, path: Path, limit: int, parts: str) -> None:
    """Raises DataError for a part that takes more memory than a table may, or than its rows can, within the limit."""
    most = _most_unpacked(limit)
    if part.rows is not None:
        most = min(most, part.rows * (limit + 64) + 4096)  # with each row a length, and what a writer notes
    if part.size > most:
        raise DataError(
            f"{path}: {part.name} unpacks to {part.size:,} bytes, at most {most:,} are held; write the table with "
            f"smaller {parts} or shorter documents, or raise data.max_document_bytes"
        )
