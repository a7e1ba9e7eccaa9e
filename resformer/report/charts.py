"""What all figures share: colours that the colour-blind can tell apart, and every format a paper or page asks for."""

import textwrap
from pathlib import Path

import altair as alt

# Okabe and Ito 2008, then Tol's muted scheme for more; black is the baseline's.
COLOURS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442",
           "#882255", "#44AA99", "#999933", "#AA4499", "#332288", "#88CCEE", "#DDCC77", "#117733"]  # fmt: skip
FORMATS = ("svg", "png", "pdf")


def colours(names: list[str]) -> alt.Scale:
    """One colour for each name, the same in every figure of a page."""
    return alt.Scale(domain=names, range=[COLOURS[i % len(COLOURS)] for i in range(len(names))])


def save(chart: alt.TopLevelMixin, folder: Path, name: str, caption: str = "") -> list[Path]:
    """Write the figure with its caption as SVG, PNG (twice the size, for print) and PDF, without any network."""
    if caption:
        lines = textwrap.wrap(caption, 110)
        below = alt.TitleParams(lines, orient="bottom", anchor="start", fontWeight="normal", fontSize=10, offset=12)
        chart = alt.vconcat(chart, title=below)  # type: ignore[arg-type]
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{name}.{ending}" for ending in FORMATS]
    for file in files:
        chart.save(str(file), scale_factor=2.0 if file.suffix == ".png" else 1.0)
    return files
