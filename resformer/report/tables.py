"""Tables as people read them: on a page, and as LaTeX, Markdown and CSV that no content of theirs can break."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import write_atomically
from ..markup import inert, latex, markdown

MOST_ARMS_ACROSS = 5


@dataclass(frozen=True)
class Column:
    name: str
    hint: str = ""
    print: bool = True
    """Whether it fits in a table on paper."""


@dataclass(frozen=True)
class Cell:
    """``shown`` to people, sorted by ``key``; ``kind`` colours it."""

    shown: str
    key: Any = ""
    kind: str = ""
    href: str = ""


@dataclass(frozen=True)
class Row:
    cells: list[Cell]
    arm: str | None = None
    point: str | None = None


@dataclass
class Table:
    name: str
    caption: str
    columns: list[Column]
    rows: list[Row] = field(default_factory=list)
    first: bool = False
    """Above the figures."""
    folded: bool = False
    numbers: pd.DataFrame | None = None
    """For CSV, where it says more than what is shown."""

    def lines(self, on_paper: bool = False) -> list[list[str]]:
        kept = [i for i, column in enumerate(self.columns) if column.print or not on_paper]
        names = [[self.columns[i].name for i in kept]]
        return names + [[" ".join(row.cells[i].shown.split()) for i in kept] for row in self.rows]

    def markdown(self) -> str:
        head, *body = self.lines()
        lines = [head, ["---"] * len(head), *body]
        return "".join("| " + " | ".join(markdown(cell) for cell in line) + " |\n" for line in lines)

    def latex(self) -> str:
        """A tabular of the columns that fit on paper; needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}."""
        # After \\ and \midrule a bracket or star would be theirs, were it not for the empty group.
        head, *body = ["{}" + " & ".join(latex(cell) for cell in line) + r" \\" for line in self.lines(on_paper=True)]
        columns = "l" * sum(column.print for column in self.columns)
        rows = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body, r"\bottomrule"]
        return "\n".join([*rows, r"\end{tabular}", ""])

    def csv(self) -> str:
        head, *body = self.lines()
        frame = pd.DataFrame(body, columns=head) if self.numbers is None else self.numbers
        return str(frame.map(inert).rename(columns=inert).to_csv(index=False))

    def save(self, folder: Path) -> list[Path]:
        """NAME.tex, NAME.md and NAME.csv."""
        folder.mkdir(parents=True, exist_ok=True)
        texts = {"tex": self.latex(), "md": self.markdown(), "csv": self.csv()}
        for ending, text in texts.items():
            write_atomically(folder / f"{self.name}.{ending}", text)
        return [folder / f"{self.name}.{ending}" for ending in texts]


def absent(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def cell(value: Any, form: str = "") -> Cell:
    """Of one value, shown in a format; empty where there is none."""
    if absent(value):
        return Cell("")
    return Cell(format(value, form) if form else str(value), value)


def with_interval(value: Any, low: Any, high: Any, form: str) -> Cell:
    if absent(value):
        return Cell("")
    if absent(low) or absent(high):
        return Cell(format(value, form), value)
    return Cell(f"{value:{form}} [{low:{form}}, {high:{form}}]", value)


def of_arms(name: str, caption: str, arms: Sequence[str], rows: Mapping[str, Sequence[Any]], **more: Any) -> Table:
    """One column for each arm, one row for each key; where arms are too many for columns, the other way round."""
    if len(arms) > MOST_ARMS_ACROSS:
        by_arm = zip(arms, *rows.values(), strict=True)
        across = [Row([Cell(str(value), str(value)) for value in (arm, *values)], arm) for arm, *values in by_arm]
        return Table(name, caption, [Column("arm"), *(Column(key) for key in rows)], across if rows else [], **more)
    columns = [Column("key"), *(Column(arm) for arm in arms)]
    lines = [Row([Cell(key, key), *(Cell(str(value), str(value)) for value in values)]) for key, values in rows.items()]
    return Table(name, caption, columns, lines, **more)
