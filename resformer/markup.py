"""Anybody's text as text: in LaTeX, Markdown and CSV it is read as what it says, and as nothing else."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}",
}  # fmt: skip
# Links and images, emphasis, code, cells, formulas, struck text; ``_`` inside a word is but a letter, and a colon
# matters where an address becomes a link by itself.
_MARKS = re.compile(r"[\\\[\]*`|$~]|(?<![^\W_])_|_(?![^\W_])|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_BEGINNINGS = re.compile(r"^(?=[#>]|[-+](?![\d.]))|^\d+(?=[.)](?:\s|$))")
"""Of headings, quotations, lists and rules."""


def latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def markdown(text: str) -> str:
    """One line, for a cell, an item of a list or a paragraph."""
    text = _MARKS.sub(r"\\\g<0>", " ".join(text.split()))
    return _BEGINNINGS.sub(r"\g<0>\\", text).replace("&", "&amp;").replace("<", "&lt;")


def code(text: str) -> str:
    """As code in a line or cell of Markdown, so far as it can be."""
    plain = text and not re.search(r"[`|\r\n]", text)
    return f"`{text}`" if plain else markdown(text)


def inert(value: Any) -> Any:
    """Text for a cell of CSV, in one line. A spreadsheet takes text that begins like a formula for one, whatever blanks
    and unseen characters stand before it, full-width signs included; a number is a number."""
    if not isinstance(value, str):
        return value
    value = " ".join(value.split())
    seen = (c for c in unicodedata.normalize("NFKC", value) if c.isprintable() and not c.isspace())
    if next(seen, "") not in ("=", "+", "-", "@"):
        return value
    try:
        float(value)
    except ValueError:
        return "'" + value
    return value
