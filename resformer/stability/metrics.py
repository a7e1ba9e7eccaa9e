"""The glossary of metrics: every name that recorder, probes and a run's files write, and what it means."""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping
from dataclasses import replace

from .glossary import ATTENTION, INTERNALS, MODEL, PROBES, RUN, STREAM, TENSORS, Metric, Range

__all__ = ["METRICS", "Metric", "Range", "metric"]

METRICS: Mapping[str, Metric] = {
    entry.name: entry for part in (STREAM, MODEL, TENSORS, ATTENTION, INTERNALS, PROBES, RUN) for entry in part
}

LOGGED = "layers/"
"""Before the names of layers.parquet in metrics.jsonl."""


@functools.cache
def metric(name: str) -> Metric:
    """What ``name`` means.

    Members of a family (``update_to_weight.q_proj``, ``internal.gate.mean``, ``internal.a[3]``) are its longest
    declared parent under their own name, the part in the title. Columns of the probes init, reuse and landscape go by
    ``probe.column``.

    Raises:
        ValueError: one line with the nearest name, for one that stands nowhere.
    """
    plain = name.removeprefix(LOGGED)
    if plain in METRICS:
        return METRICS[plain]
    pieces = re.findall(r"\.?[^.\[]+|\[[^\]]*\]", plain)
    for length in range(len(pieces) - 1, 0, -1):
        parent = METRICS.get("".join(pieces[:length]))
        if parent is not None and parent.family:
            part = "".join(pieces[length:])
            return replace(parent, name=plain, title=f"{parent.title}: {part.removeprefix('.')}")
    near = difflib.get_close_matches(plain, METRICS, n=1) or difflib.get_close_matches(
        pieces[0] if pieces else "", METRICS
    )
    guess = f"; did you mean {near[0]}?" if near else "; stability/glossary.py has all"
    raise ValueError(f"there is no metric {name!r}{guess}")
