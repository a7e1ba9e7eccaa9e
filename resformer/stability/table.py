"""layers.parquet: the long table of a run, whole at any instant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..files import replacing

SCHEMA = pa.schema(
    [("step", pa.int32()), ("layer", pa.int16()), ("sublayer", pa.string()), ("metric", pa.string()),
     ("value", pa.float64())]
)  # fmt: skip
GROWTH = 0.05


class LayerTable:
    """Rows ``step, layer, sublayer, metric, value``, appended in memory and written as a whole file.

    A parquet file cannot grow, so it is written anew when it has grown by 5 %: the work stays in proportion to the
    size, and what a kill costs is what a resume measures again.

    Args:
        file: what an earlier part of the run wrote is kept up to ``step``.
        step: optimiser steps done; 0 starts anew.
    """

    def __init__(self, file: Path, step: int):
        self.file = file
        self.saved = SCHEMA.empty_table()
        if step and file.exists():
            earlier = pq.read_table(file, schema=SCHEMA)
            self.saved = earlier.filter(pc.less_equal(earlier["step"], step))
        self.new: list[tuple[int, int, str, str, float]] = []

    def steps(self, *metrics: str) -> list[tuple[float, ...]]:
        """``(step, value of each metric)`` of the whole model, of saved rows, in order."""
        whole = self.saved.filter(pc.equal(self.saved["sublayer"], "model"))
        columns = []
        for metric in metrics:
            rows = whole.filter(pc.equal(whole["metric"], metric))
            columns.append(dict(zip(rows["step"].to_pylist(), rows["value"].to_pylist(), strict=True)))
        return [(step, *(column[step] for column in columns)) for step in sorted(columns[0])]

    def append(self, step: int, rows: Iterable[tuple[int, str, str, float]]) -> None:
        self.new += ((step, *row) for row in rows)

    def write_if_grown(self) -> None:
        if len(self.new) > GROWTH * len(self.saved):
            self.write()

    def write(self) -> None:
        if not self.new and self.file.exists():
            return
        arrays = [pa.array([row[i] for row in self.new], field.type) for i, field in enumerate(SCHEMA)]
        self.saved = pa.concat_tables([self.saved, pa.Table.from_arrays(arrays, schema=SCHEMA)])
        self.new = []
        with replacing(self.file) as temporary:
            pq.write_table(self.saved, temporary, compression="zstd")
        pa.default_memory_pool().release_unused()  # or each write leaves more to it than there are rows
