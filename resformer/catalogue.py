"""The table of all residual connections, as a frame and as text."""

import dataclasses

import pandas as pd

from .model.catalogue import HIDDEN_SIZE, NUM_HIDDEN_LAYERS, entries

SCALE = (
    f"Cost against pre, {NUM_HIDDEN_LAYERS} blocks, {HIDDEN_SIZE} wide: parameters, FLOPs of forward and backward, and "
    "vectors kept for each token between blocks."
)


def variants() -> pd.DataFrame:
    """All kinds of residual connection, one row for each class, read and measured from the classes themselves.

    Returns:
        Columns ``kind`` (what a person writes), ``options`` (with their defaults), ``formula``, ``parameters`` and
        ``flops`` (added to ``pre``, as a share of a whole model), ``streams`` (vectors kept for each token between
        blocks), ``paper``, ``oracle`` (what the class is held against in the tests).
    """
    return pd.DataFrame([dataclasses.asdict(entry) for entry in entries()])


def share(value: float) -> str:
    """A share of a model: ``+0.03%``, ``+17%``, ``0``."""
    return "0" if abs(value) < 5e-5 else f"{value:+.2%}" if abs(value) < 0.1 else f"{value:+.0%}"


def markdown(table: pd.DataFrame) -> str:
    """The table of the README."""
    lines = [
        "| kind | options | the site | parameters | FLOPs | streams | paper | held against |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in table.itertuples():
        kinds = ", ".join(f"`{kind}`" for kind in row.kind.split(", "))
        options = f"`{row.options}`" if row.options else ""
        cells = [kinds, options, row.formula.replace("|", "\\|"), share(row.parameters), share(row.flops)]
        lines.append(f"| {' | '.join([*cells, f'{row.streams:.3g}', row.paper, row.oracle])} |")
    return "\n".join([*lines, "", SCALE])


def text(table: pd.DataFrame) -> str:
    """The table for a terminal."""
    parts = [f"{SCALE}\n"]
    for row in table.itertuples():
        cost = f"parameters {share(row.parameters)}, FLOPs {share(row.flops)}, streams {row.streams:.3g}"
        options = f"({row.options})" if row.options else ""
        parts.append(f"{row.kind}{options}\n    {row.formula}\n    {cost}\n    {row.paper}\n    oracle: {row.oracle}")
    return "\n".join(parts)
