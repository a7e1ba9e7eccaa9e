"""The one engine of all pages: what a page says, in its order, as one HTML file beside the script of its figures."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ..files import write_atomically
from .charts import Figure, colour, dash
from .drawing import LIBRARY, draw
from .tables import Table

_HERE = Path(__file__).parent
_TEMPLATES = Environment(
    loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
)


@dataclass(frozen=True)
class Sentence:
    """Of the answer: the question it answers, if it has one, the short of it, the figure that shows it, its source."""

    text: str
    question: str = ""
    figure: str = ""
    short: str = ""
    source: str = ""

    def __str__(self) -> str:
        """As a terminal says it."""
        return " ".join(part for part in (self.question, self.short, self.text) if part)


@dataclass
class Page:
    """What stands on a page, from the answer down to the small print. All text is shown as text, never as markup."""

    title: str
    figures: list[Figure]
    answer: list[Sentence] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    lead: Sequence[str] = ()
    """Figures that stand side by side before the tables."""
    arms: Sequence[str] = ()
    focus: Sequence[str] = ()
    """Arms that stand in front where there are too many."""
    points: Sequence[str] = ()
    roles: dict[str, str] = field(default_factory=dict)
    a_a_control: str | None = None
    tables: list[Table] = field(default_factory=list)
    notes: list[tuple[str, list[str]]] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    links: list[tuple[str, str]] = field(default_factory=list)
    refresh: int | None = None
    """Seconds after which a browser loads it anew."""

    def __post_init__(self) -> None:
        for figure in self.figures:
            figure.lit = self.focus

    def write(self, file: Path, static: bool = False, library: Path | None = None) -> str | None:
        """Write the page, whole or not at all.

        Args:
            static: also write each figure as SVG, PNG and PDF under ``figures`` beside it.
            library: the script of the figures, where another folder has it already.

        Returns:
            What could not be drawn, in one line, or none.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        library = library or file.with_name(LIBRARY)
        trouble = draw(file.parent / "figures", self.figures if static else [], library)
        write_atomically(file, self.html(Path(os.path.relpath(library, file.parent)).as_posix(), static))
        return trouble

    def html(self, library: str = LIBRARY, files: bool = False) -> str:
        specs = {figure.name: figure.specs() for figure in self.figures if figure.panels}
        arms = [
            {"name": arm, "colour": colour(i), "dash": dash(i, arm == self.a_a_control), "role": self.roles.get(arm)}
            for i, arm in enumerate(self.arms)
        ]
        in_front = [arm for arm in arms if arm["name"] in self.focus]
        return _TEMPLATES.get_template("page.html").render(
            vars(self)
            | {
                "arms": arms,
                "in_front": in_front or arms,
                "behind": [arm for arm in arms if arm not in in_front] if in_front else [],
                "points": [point for point in self.points if point],
                "specs": specs,
                "drawn": list(specs),
                "descriptions": {figure.name: _descriptions(figure, specs.get(figure.name, []))
                                 for figure in self.figures},
                "library": library,
                "files": files,
                "style": (_HERE / "page.css").read_text(encoding="utf-8"),
                "script": (_HERE / "page.js").read_text(encoding="utf-8"),
            }
        )  # fmt: skip


def _descriptions(figure: Figure, specs: list[dict[str, Any]]) -> list[str]:
    """Of each panel, for who does not see it: what it shows, and between which values."""
    found = []
    for panel, spec in zip(figure.panels, specs, strict=True):
        values = [
            row["value"]
            for rows in spec.get("datasets", {}).values()
            for row in rows
            if isinstance(row.get("value"), (int, float))
        ]
        between = f"; values from {min(values):.3g} to {max(values):.3g}" if values else ""
        found.append(f"{figure.title}{': ' + panel.title if panel.title else ''}{between}")
    return found
