"""Print the table of all residual connections: formula, cost, paper, and what each is held against.

python recipes/variants.py [--format text|markdown|json]
"""

import dataclasses
import json
from typing import Literal

from resformer.model.catalogue import HIDDEN_SIZE, NUM_HIDDEN_LAYERS, Entry, entries
from resformer.programs import arguments_of, run_program


def share(value: float) -> str:
    return "0" if abs(value) < 5e-5 else f"{value:+.2%}" if abs(value) < 0.1 else f"{value:+.0%}"


def markdown(rows: list[Entry]) -> str:
    lines = [
        "| kind | options | the site | parameters | FLOPs | streams | paper | held against |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        kinds = ", ".join(f"`{kind}`" for kind in row.kind.split(", "))
        options = f"`{row.options}`" if row.options else ""
        cells = [kinds, options, row.formula.replace("|", "\\|"), share(row.parameters), share(row.flops)]
        lines.append(f"| {' | '.join([*cells, f'{row.streams:.3g}', row.paper, row.oracle])} |")
    return "\n".join(lines)


def text(rows: list[Entry]) -> str:
    parts = []
    for row in rows:
        cost = f"parameters {share(row.parameters)}, FLOPs {share(row.flops)}, streams {row.streams:.3g}"
        options = f"({row.options})" if row.options else ""
        parts.append(f"{row.kind}{options}\n    {row.formula}\n    {cost}\n    {row.paper}\n    oracle: {row.oracle}")
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> int:
    print(table(**arguments_of(table, arguments)))
    return 0


def table(format: Literal["text", "markdown", "json"] = "text") -> str:
    """The table of all residual connections.

    Args:
        format: text, markdown or json.
    """
    rows = entries()
    if format == "json":
        return json.dumps([dataclasses.asdict(row) for row in rows], indent=2)
    scale = f"Cost against pre, {NUM_HIDDEN_LAYERS} blocks, {HIDDEN_SIZE} wide: parameters, FLOPs of the forward pass, "
    scale += "and vectors kept for each token between blocks."
    return f"{markdown(rows)}\n\n{scale}" if format == "markdown" else f"{scale}\n\n{text(rows)}"


if __name__ == "__main__":
    run_program(main)
