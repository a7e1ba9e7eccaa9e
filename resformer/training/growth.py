"""What a step takes as one thing grows: depth, width, tokens, vocabulary, processes."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from .benchmark import BareStep, timed
from .comparison import clock_and_device, ours, peak_bytes, refuse_untimeable, widths
from .launched import launched_run

STEPS_OF_A_RUN = 100
"""At the least: its mean step counts what is done once, which costs a few steps."""
AXES = ("num_hidden_layers", "hidden_size", "max_position_embeddings", "vocab_size", "processes")


def grow(
    kinds: list[str],
    shape: dict[str, Any],
    batch_size: int,
    steps: int,
    axis: str,
    sizes: list[int],
    clock: str = "wall",
) -> pd.DataFrame:
    """Time and memory of an eager step as one thing grows.

    Args:
        kinds: residual connections.
        shape: as in ``compare``; ``axis``, one of its keys, is replaced by each of ``sizes``, and what follows from
            ``hidden_size`` goes along. ``processes`` is not of the shape: runs of ``train.py`` share a batch on CPUs.
        clock: as in ``compare``; by the wall for ``processes``.

    Returns:
        A row for each kind and size: ``kind``, ``axis``, ``size``, ``seconds`` (median; of ``processes`` the mean of at
        least ``STEPS_OF_A_RUN`` steps, the first among them), ``peak_bytes`` (nan for ``processes``), and
        ``seconds_exponent`` and ``bytes_exponent``, the slopes of both over the larger half of the kind's sizes, all in
        logarithms: what a step takes however small it is hides the slope of the smaller ones.

    Raises:
        ValueError: for an axis that is not one, a size that is there twice, and as ``refuse_ungrowable`` does.
    """
    sizes = _in_order(axis, sizes)
    refuse_ungrowable(kinds, shape, batch_size, steps, axis, sizes)
    rows = []
    for size in tqdm(sizes, axis, disable=None):
        taken = _in_processes if axis == "processes" else _in_turn
        for kind, (seconds, peak) in taken(kinds, shape, batch_size, steps, axis, size, clock).items():
            rows.append({"kind": kind, "axis": axis, "size": size, "seconds": seconds, "peak_bytes": peak})
    table = pd.DataFrame(rows)
    for column, name in (("seconds", "seconds_exponent"), ("peak_bytes", "bytes_exponent")):
        slopes = {kind: _slope(own["size"], own[column]) for kind, own in table.groupby("kind")}
        table[name] = table.kind.map(slopes)
    return table


def axes_of(words: str) -> dict[str, list[int]]:
    """What a person writes as ``KEY=SIZE,SIZE,... KEY=SIZE,...``: sizes by what grows, the smallest first.

    Raises:
        ValueError: for what is not written so, an axis that is not one, and what is given twice.
    """
    axes: dict[str, list[int]] = {}
    for word in words.split() or [words]:
        axis, _, listed = word.partition("=")
        if not all(size.isdecimal() for size in listed.split(",")):
            raise ValueError(f"growth is {word!r}; write for example num_hidden_layers=2,4,8")
        if axis in axes:
            raise ValueError(f"growth names {axis} twice; write all its sizes once")
        axes[axis] = _in_order(axis, [int(size) for size in listed.split(",")])
    return axes


def _in_order(axis: str, sizes: list[int]) -> list[int]:
    if axis not in AXES:
        raise ValueError(f"growth is along one of {', '.join(AXES)}, not {axis!r}")
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"growth of {axis} has a size twice: {', '.join(map(str, sizes))}")
    return sorted(sizes)


def refuse_ungrowable(
    kinds: list[str], shape: dict[str, Any], batch_size: int, steps: int, axis: str, sizes: list[int]
) -> None:
    """Raises ValueError as ``refuse_untimeable`` does, for any size, and for processes that do not divide a batch."""
    for size in sizes:
        grown = shape if axis == "processes" else _grown(shape, axis, size)
        refuse_untimeable(kinds, grown, batch_size, steps)
        if axis == "processes" and (size < 1 or batch_size % size):
            raise ValueError(f"growth: {size} processes cannot share a batch_size of {batch_size}; give a multiple")


def _grown(shape: dict[str, Any], axis: str, size: int) -> dict[str, Any]:
    return shape | (widths(size) if axis == "hidden_size" else {axis: size})


def exponents(table: pd.DataFrame) -> pd.DataFrame:
    """Of time and memory, a row for each kind and two columns for each axis."""
    return table.pivot_table(["seconds_exponent", "bytes_exponent"], "kind", "axis", "first", sort=False)


def _in_turn(kinds, shape, batch_size, steps, axis, size, clock) -> dict[str, tuple[float, float]]:
    device, timer = clock_and_device(clock)
    grown = _grown(shape, axis, size)
    tokens = torch.randint(grown["vocab_size"], (batch_size, grown["max_position_embeddings"]), device=device)
    arms, peaks = {}, {}
    for kind in kinds:
        arms[kind] = BareStep(ours(kind, grown)().to(device), tokens)
        arms[kind]()
        peaks[kind] = peak_bytes(arms[kind], device)
    rounds = [{kind: timed(step, timer) for kind, step in arms.items()} for _ in range(steps)]
    return {kind: (statistics.median(taken[kind] for taken in rounds), peaks[kind]) for kind in kinds}


def _in_processes(kinds, shape, batch_size, steps, axis, size, clock) -> dict[str, tuple[float, float]]:
    """The mean step of a run, of which only its summary is kept; the processes must divide its batch."""
    steps = max(steps, STEPS_OF_A_RUN)
    length = shape["max_position_embeddings"]
    told = {f"model.{key}": shape[key] for key in ("num_hidden_layers", "hidden_size", "num_attention_heads")}
    told |= {"data.sequence_length": length, "train.batch_size": batch_size, "train.max_steps": steps}
    told |= {"train.record_every": 0, "train.eval_every": steps, "train.eval_sequences": batch_size}
    found = {}
    for kind in kinds:
        summary = launched_run("cpu-2", size, told | {"model.residual": kind}, cpu=True)
        if summary["exit_code"]:
            raise RuntimeError(f"{kind} in {size} processes: {summary['error']}")
        found[kind] = (batch_size * length / summary["tokens_per_second"], float("nan"))
    return found


def _slope(x: pd.Series, y: pd.Series) -> float:
    if len(x) < 2 or y.isna().any():
        return float("nan")
    first = min(len(x) // 2, len(x) - 2)
    return float(np.polyfit(np.log(x.iloc[first:]), np.log(y.iloc[first:]), 1)[0])
