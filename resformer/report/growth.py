"""Time and memory of a step as one thing grows, in logarithms."""

import altair as alt
import pandas as pd

from .charts import COLOURS, DASHES

TITLES = {
    "num_hidden_layers": "blocks", "hidden_size": "width", "max_position_embeddings": "tokens of a sequence",
    "vocab_size": "vocabulary", "processes": "processes",
}  # fmt: skip


def growth_chart(table: pd.DataFrame) -> alt.VConcatChart:
    """A table of ``training.growth.grow``, or several below each other: a column of panels for each axis."""
    kinds = list(dict.fromkeys(table.kind))
    colours = alt.Color("kind:N", title=None, scale=alt.Scale(domain=kinds, range=COLOURS))
    dashes = alt.StrokeDash("kind:N", title=None, scale=alt.Scale(domain=kinds, range=DASHES), sort=kinds)
    measured = [("seconds", "seconds of a step", 1.0), ("peak_bytes", "MiB of all tensors", 2.0**-20)]
    rows = []
    for column, title, unit in measured:
        panels = []
        for axis, own in table.groupby("axis", sort=False):
            data = own.assign(value=own[column] * unit).dropna(subset="value")
            if data.empty:
                continue
            x = alt.X("size:Q", title=TITLES[str(axis)], scale=alt.Scale(type="log", base=2, nice=False))
            y = alt.Y("value:Q", title=title, scale=alt.Scale(type="log", nice=False))
            lines = alt.Chart(data, width=170, height=190).mark_line(point=True)
            panels.append(lines.encode(x=x, y=y, color=colours, strokeDash=dashes))
        if panels:
            rows.append(alt.hconcat(*panels))
    return alt.vconcat(*rows)
