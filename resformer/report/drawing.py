"""Drawing where its death costs a line of warning: in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import replacing
from .charts import Figure

FORMATS = ("svg", "png", "pdf")
LIBRARY = "vega.js"
PATIENCE = 600.0
"""Seconds after which drawing is given up."""


def draw(folder: Path, figures: Iterable[Figure], library: Path | None) -> str | None:
    """Write ``folder``/NAME.svg, .png (twice the size, for print) and .pdf of each figure, a .gif of one that plays,
    and the pages' script.

    Args:
        figures: those without panels are passed over.
        library: file of the script; nothing is done where it is there.

    Returns:
        Why it could not be done, in one line, or none. What was drawn before stays.
    """
    charts = [
        {"spec": figure.chart().to_dict(validate=False), "file": str(folder / figure.name), "formats": FORMATS,
         "looks": figure.looks}
        for figure in figures
        if figure.panels
    ]  # fmt: skip
    if library is None or library.exists():
        return _drawn({"library": None, "charts": charts}) if charts else None
    try:
        with replacing(library) as temporary:
            return _drawn({"library": str(temporary), "charts": charts})
    except FileNotFoundError:
        return "the process that draws died before it wrote the script of the pages; a limit (ulimit -v) does that"


def _drawn(job: dict[str, Any]) -> str | None:
    program = [sys.executable, str(Path(__file__).with_name("draw.py"))]
    try:
        done = subprocess.run(
            program, input=json.dumps(job), capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"drawing could not be started or did not end ({error})"
    if done.returncode == 0:
        return None
    last = (done.stderr.strip().splitlines() or ["no word"])[-1][:200]
    died = f"died of signal {-done.returncode}" if done.returncode < 0 else f"failed ({last})"
    limited = "; a limit on the address space (ulimit -v) does that" if done.returncode < 0 else ""
    return f"the process that draws {died}{limited}"
