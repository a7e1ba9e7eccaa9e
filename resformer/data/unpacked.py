"""How large the parts of a table are once unpacked, which their heads say before anything is unpacked."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet

_HEADS_OF_PAGES = (5, 7, 8)
"""Fields of a Parquet page's head that hold its number of values: data, dictionary, data of version 2."""


class Part(NamedTuple):
    """What a reader unpacks in one go."""

    name: str
    size: int
    """Bytes unpacked."""
    rows: int | None
    """None where they are not known to be of the column that was asked for."""
    folded: bool = False
    """Whether it holds values to which rows only point."""


def parquet_pages(data: pa.Buffer, metadata: pa.parquet.FileMetaData, column: str) -> Iterator[Part]:
    """Every page of a column. The footer is not asked: it gives the sum of a row group, and readers do not hold it.

    Raises:
        pa.ArrowInvalid: if a page has no head.
    """
    leaves = [leaf for leaf in range(metadata.num_columns) if metadata.schema.column(leaf).path == column]
    view = memoryview(data).cast("B")
    for group in range(metadata.num_row_groups):
        for leaf in leaves:
            chunk = metadata.row_group(group).column(leaf)
            at = chunk.data_page_offset
            if chunk.has_dictionary_page and 0 < chunk.dictionary_page_offset < at:
                at = chunk.dictionary_page_offset
            end = at + chunk.total_compressed_size
            while at < end:
                try:
                    head, at = _thrift_struct(view, at)
                    rows = next((head[kind][1] for kind in _HEADS_OF_PAGES if kind in head), 0)
                    yield Part(f"a page of row group {group}", head[2], rows, folded=7 in head)
                    at += max(head[3], 0)
                except (IndexError, KeyError, RecursionError) as error:
                    raise pa.ArrowInvalid(f"row group {group} has a page without a head") from error


def arrow_batches(data: pa.Buffer, schema: pa.Schema, index: int, *, stream: bool) -> Iterator[Part]:
    """Every compressed record batch, of which only column ``index`` counts, and every dictionary.

    Raises:
        pa.ArrowInvalid: if a batch is not what its head says.
    """
    before, after = (_Batch(_empty(schema, columns)) for columns in (index, index + 1))
    number = 0
    try:
        for message in _stream_messages(data) if stream else _file_messages(data):
            if message.type == "record batch":
                number += 1
                batch = _Batch(message)
                span = slice(batch.buffers_of(before), batch.buffers_of(after))
                yield Part(f"record batch {number}", batch.unpacked(span), batch.rows)
            elif message.type == "dictionary":
                yield Part("a dictionary", _Batch(message).unpacked(slice(None)), None, folded=True)
    except (IndexError, struct.error) as error:
        raise pa.ArrowInvalid("a record batch has a broken head") from error


def _thrift_struct(data: memoryview, at: int) -> tuple[dict[int, Any], int]:
    """The integers and structs of a struct in Thrift's compact protocol by their number, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        step, kind = divmod(head, 16)
        at += 1
        if step:
            number += step
        else:
            number, at = _thrift_integer(data, at)
        if kind in (4, 5, 6):
            fields[number], at = _thrift_integer(data, at)
        elif kind == 8:
            size, at = _varint(data, at)
            at += size
        elif kind == 12:
            fields[number], at = _thrift_struct(data, at)
        elif kind not in (1, 2):  # a bool is in its kind; the head of a page holds nothing else
            raise KeyError(kind)
    return fields, at + 1


def _thrift_integer(data: memoryview, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise IndexError(at)


class _Table:
    """A table of FlatBuffers. pyarrow checks these and shows nothing of them."""

    def __init__(self, data: memoryview, at: int) -> None:
        self.data = data
        self.at = at + self._numbers("I", at)[0]

    def _numbers(self, kind: str, at: int, count: int = 1) -> tuple[int, ...]:
        return struct.unpack_from(f"<{count}{kind}", self.data, at)

    def _place(self, field: int) -> int:
        """Where a field lies, or 0 if it is not there."""
        fields = self.at - self._numbers("i", self.at)[0]
        if 4 + 2 * field >= self._numbers("H", fields)[0]:
            return 0
        offset = self._numbers("H", fields + 4 + 2 * field)[0]
        return self.at + offset if offset else 0

    def has(self, field: int) -> bool:
        return bool(self._place(field))

    def number(self, field: int) -> int:
        place = self._place(field)
        return self._numbers("q", place)[0] if place else 0

    def table(self, field: int) -> _Table:
        return _Table(self.data, self._place(field))

    def vector(self, field: int, numbers: int = 1) -> list[tuple[int, ...]]:
        """The items of a vector, each of so many 64-bit numbers."""
        if not (place := self._place(field)):
            return []
        at = place + self._numbers("I", place)[0]
        (count,) = self._numbers("I", at)
        flat = self._numbers("q", at + 4, count * numbers)
        return list(zip(*(flat[first::numbers] for first in range(numbers)), strict=True))


class _Batch:
    """The head of a record batch, or of the one that a dictionary is."""

    def __init__(self, message: pa.Message) -> None:
        head = memoryview(message.metadata)
        table = _Table(head, 0).table(2)
        if message.type == "dictionary":
            table = table.table(1)
        self.body = memoryview(message.body)
        self.rows = table.number(0)
        self.buffers = table.vector(2, 2)
        self.views = [count for (count,) in table.vector(4)]
        # Files of early 2020 say it in words.
        self.compressed = table.has(3) or b"ARROW:experimental_compression" in head.tobytes()

    def buffers_of(self, columns: _Batch) -> int:
        """How many buffers the first columns have here, given an empty batch of them: those of views vary."""
        views = len(columns.views)
        return len(columns.buffers) - sum(columns.views) + sum(self.views[:views])

    def unpacked(self, span: slice) -> int:
        """Bytes of these buffers once unpacked: 0 if they are not compressed, and read where they lie."""
        size = 0
        for offset, length in self.buffers[span] if self.compressed else []:
            if length:
                (declared,) = struct.unpack_from("<q", self.body, offset)
                size += length if declared == -1 else max(declared, 0)
        return size


def _empty(schema: pa.Schema, columns: int) -> pa.Message:
    """An empty record batch of the first columns."""
    fields = [schema.field(index) for index in range(columns)]
    return pa.ipc.read_message(pa.RecordBatch.from_pylist([], schema=pa.schema(fields)).serialize())


def _stream_messages(data: pa.Buffer) -> Iterator[pa.Message]:
    return iter(pa.ipc.MessageReader.open_stream(pa.BufferReader(data)))


def _file_messages(data: pa.Buffer) -> Iterator[pa.Message]:
    """Those to which the footer of the random-access kind points: its batches, and before them its dictionaries."""
    view = memoryview(data)
    (length,) = struct.unpack_from("<i", view, len(view) - 10)
    footer = _Table(view[len(view) - 10 - length : len(view) - 10], 0)
    for field in (2, 3):
        for offset, _, _ in footer.vector(field, 3):
            yield pa.ipc.read_message(pa.BufferReader(data.slice(offset)))
