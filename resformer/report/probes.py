"""Figures and pages of the probes, each a function of the probe's table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLOURS, FAILED, GUIDE, HEIGHT, Figure, Panel, finite, lines, over_seeds, rounded, stacked, styled
from .page import Page


def write_probe_page(probe: str, table: pd.DataFrame, out: Path, title: str, conditions: str) -> str | None:
    """Write ``out``/PROBE.html and, under ``out``/figures, the figure as SVG, PNG and PDF.

    Args:
        conditions: how the table was made, in words.

    Returns:
        What could not be drawn, in one line, or none.
    """
    page = Page(f"{probe}: {title}", [FIGURES[probe](table)], facts={"how": conditions})
    return page.write(out / f"{probe}.html", static=True)


def _layers(title: str = "block") -> alt.X:
    whole = alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, 'd')")
    return alt.X("layer:Q", title=title, axis=whole)


def init(table: pd.DataFrame) -> Figure:
    """With the bounds and slopes of Xiong et al. 2020, arXiv:2002.04745, for Pre-LN."""
    failed = table[~table.finite]
    as_in_theory = abs(table.rms_first.median() - 1) < 0.1  # the bounds are of embeddings of unit variance
    figure = Figure(
        "init",
        "What depth does to a signal before any training",
        "Each line is one precision; bands reach over seeds. A stream that grows by orders of magnitude, tokens whose "
        "cosine reaches 1 (all alike) or gradients that vanish will not train at that depth."
        + (" Grey: sqrt(1 + L/2) to sqrt(1 + 3L/2), the bounds for Pre-LN." if as_in_theory else ""),
    )
    if len(failed):
        figure.note = f"Not finite at {', '.join(f'{row.depth} blocks ({row.dtype})' for row in failed.itertuples())}."
    depths = np.geomspace(table.depth.min(), table.depth.max(), 40)
    bounds = pd.DataFrame({"depth": depths, "low": np.sqrt(1 + depths / 2), "value": np.sqrt(1 + 3 * depths / 2)})
    first = table[table.depth == table.depth.min()].weight_last.median()
    slope = pd.DataFrame({"depth": depths, "value": first * (depths / depths[0]) ** -0.5})
    x = alt.X("depth:Q", scale=alt.Scale(type="log", nice=False), title="blocks (log)")
    for name, title, y_title, log in (
        ("rms_last", "stream at the end", "RMS", True),
        ("token_cosine", "are tokens alike? (1: all)", "cosine of two tokens", False),
        ("gain", "gain, embedding to final states", "mean squared singular value", True),
        ("weight_last", "last gradient (dashed: L^-1/2)", "norm of dL/dW, MLP out", True),
        ("weight_first", "first gradient", "norm of dL/dW, MLP out", True),
        ("gradient_first", "gradient at the embedding", "RMS of dL/dx", True),
    ):
        rows = over_seeds(table.assign(value=table[name].astype(float), part=table.dtype), "depth", "part")
        if rows.empty:
            continue
        chart = lines(rows, x, y_title, styled("part", sorted(rows.part.unique())), log=log)
        y = alt.Y("value:Q", scale=alt.Scale(type="log", nice=False))
        if name == "rms_last" and as_in_theory:
            band = alt.Chart(bounds).mark_area(opacity=0.15, color=GUIDE)
            chart = stacked(band.encode(x=x, y=y, y2="low:Q"), chart, height=HEIGHT)
        if name == "weight_last" and first > 0:
            theory = alt.Chart(slope).mark_line(strokeDash=[4, 3], color=GUIDE).encode(x=x, y=y)
            chart = stacked(theory, chart, height=HEIGHT)
        figure.panels.append(Panel(title, chart, switch=log))
    return figure


def lesion(table: pd.DataFrame) -> Figure:
    """What each branch is worth, how far each block turns the stream, and what the blocks above it add."""
    useful = table[table.metric == "useful_share"].value.iloc[0]
    figure = Figure(
        "lesion",
        "What the loss loses without one branch",
        "A branch is silenced, nothing is retrained; the loss goes up by so much. Below the dashed line (0.01 nat) it "
        "is worth next to nothing. Angular distance: how far a block turns the stream, as a share of half a turn.",
        note=f"{100 * (1 - useful):.0f} % of the branches are worth less than 0.01 nat.",
    )
    symlog = alt.Scale(type="symlog", constant=0.01)
    for metric, x, title, y_title in (
        ("lesion_increase", _layers(), "without one branch", "increase of the loss, nats"),
        ("angular_distance", _layers(), "how far each block turns the stream", "angle, share of pi"),
        ("above_increase", _layers("last block left (-1: none)"), "without all branches above", "increase, nats"),
    ):
        frame = finite(table[table.metric == metric])
        if frame.empty:
            continue
        parts = list(dict.fromkeys(frame.sublayer))
        rows = rounded(frame[["layer", "sublayer", "value"]].rename(columns={"sublayer": "part"}))
        y = alt.Y("value:Q", title=y_title, scale=alt.Scale() if metric == "angular_distance" else symlog)
        drawn = alt.Chart(rows).mark_line(point=True)
        layers = [drawn.encode(x=x, y=y, tooltip=list(rows), **styled("part", parts))]
        if metric == "lesion_increase":
            limit = alt.Chart(pd.DataFrame({"value": [0.01]})).mark_rule(strokeDash=[4, 3], color=GUIDE)
            layers.append(limit.encode(y=y))
        figure.panels.append(Panel(title, stacked(*layers, height=HEIGHT)))
    return figure


def lens(table: pd.DataFrame) -> Figure:
    figure = Figure(
        "lens",
        "What each block's stream would already predict",
        "The model's own read-out is applied after each block (logit lens). A loss that falls evenly says that all "
        "blocks work; a stretch where nothing changes is a stretch that could go.",
    )
    for metric, title, y_title in (
        ("lens_loss", "loss of the read-out", "nats per token"),
        ("lens_kl", "distance to the final prediction", "KL divergence, nats"),
        ("effective_rank", "directions in use", "effective rank"),
        ("anisotropy", "are tokens of different texts alike?", "cosine"),
        ("cka", "likeness to the block before", "linear CKA"),
    ):
        rows = rounded(finite(table[table.metric == metric])[["layer", "value"]])
        if len(rows):
            style = {"color": alt.value(COLOURS[9])}
            chart = lines(rows, _layers("after block (-1: embedding)"), y_title, style)
            figure.panels.append(Panel(title, chart))
    return figure


def landscape(table: pd.DataFrame) -> Figure:
    """The loss along one direction, over a plane, and that plane as a surface."""
    figure = Figure(
        "landscape",
        "The loss around the trained weights",
        "Weights are moved along random directions, each filter in proportion to its own size (Li et al. 2018, "
        "arXiv:1712.09913). A wide, smooth bowl is easy to train in; cliffs and ridges are not.",
    )
    gone = table[~np.isfinite(table.loss)]
    table = rounded(table[np.isfinite(table.loss)].assign(value=lambda frame: frame.loss))
    if len(gone):
        figure.note = f"{len(gone)} points are not finite (orange)."
    x = alt.X("a:Q", title="along d1")
    layers = [lines(table[table.kind == "line"], x, "nats per token", {"color": alt.value(COLOURS[9])})]
    if len(gone[gone.kind == "line"]):
        layers.append(alt.Chart(gone[gone.kind == "line"][["a"]]).mark_rule(color=FAILED).encode(x="a:Q"))
    figure.panels.append(Panel("along one direction", stacked(*layers, height=300)))
    plane = table[table.kind == "plane"]
    if len(plane) > 3:
        half = float(np.diff(np.sort(plane.a.unique())).min()) / 2
        squares = plane.assign(a2=plane.a + half, b2=plane.b + half, a=plane.a - half, b=plane.b - half)
        scale = alt.Scale(scheme="viridis", domain=[float(plane.loss.min()), float(plane.loss.max())])
        colour = alt.Color("value:Q", title="nats", scale=scale, legend=alt.Legend(gradientLength=150))
        flat = alt.Chart(squares[["a", "a2", "b", "b2", "value"]]).mark_rect()
        flat = flat.encode(x=x, x2="a2:Q", y=alt.Y("b:Q", title="along d2"), y2="b2:Q", color=colour, tooltip=["value"])
        figure.panels.append(Panel("over a plane", flat.properties(height=300)))
        figure.panels.append(Panel("that plane as a surface", _surface(plane, scale)))
    return figure


def _surface(plane: pd.DataFrame, scale: alt.Scale) -> alt.Chart:
    """Squares seen from a corner above, drawn from the back to the front."""
    grid = plane.pivot_table(index="b", columns="a", values="loss")
    height = (grid - grid.min().min()) / max(1e-12, float(grid.max().max() - grid.min().min()))
    rows = []
    for i in range(len(grid) - 1, 0, -1):
        for j in range(len(grid.columns) - 1, 0, -1):
            corners = [(i, j), (i - 1, j), (i - 1, j - 1), (i, j - 1), (i, j)]
            value = float(np.mean([grid.iat[k, m] for k, m in corners[:4]]))
            for order, (k, m) in enumerate(corners):
                a, b = grid.columns[m], grid.index[k]
                # An isometric projection: both axes at 30 degrees, the loss straight up.
                rows.append((f"{i:03d}-{j:03d}", order, a - b, (a + b) / 2 + 1.6 * height.iat[k, m], value))
    frame = rounded(pd.DataFrame(rows, columns=["cell", "order", "x", "y", "value"]))
    y = alt.Y("y:Q", scale=alt.Scale(zero=False), axis=None)
    surface = alt.Chart(frame).mark_line(filled=True, stroke="#333333", strokeWidth=0.3)
    fill = alt.Fill("value:Q", legend=None, scale=scale)
    surface = surface.encode(x=alt.X("x:Q", axis=None), y=y, fill=fill, detail="cell:N", order="order:O")
    return surface.properties(height=300)


def curvature(table: pd.DataFrame) -> Figure:
    of = table.set_index("metric").value
    rates = table[table.metric.str.contains("edge|learning_rate")]
    rates = rates[np.isfinite(rates.value) & (rates.value > 0)][["metric", "value"]]
    x = alt.X("value:Q", scale=alt.Scale(type="log"), title="learning rate (log)")
    points = alt.Chart(rounded(rates)).mark_point(filled=True, size=90, color=COLOURS[9])
    chart = points.encode(x=x, y=alt.Y("metric:N", title=None, axis=alt.Axis(labelLimit=200)), tooltip=list(rates))
    return Figure(
        "curvature",
        "Learning rates beyond which a step no longer lowers the loss",
        "Read off the sharpest direction of the loss here (edge) and off the loss along the gradient itself.",
        [Panel("", chart.properties(height=140))],
        note=f"Largest eigenvalue of the Hessian {of['sharpness']:.4g}, its trace {of['trace']:.4g}.",
    )


def reuse(table: pd.DataFrame) -> Figure:
    figure = Figure(
        "reuse",
        "Which earlier writes each site reads, along the wiring alone",
        "A column is a writer (-1: the embedding), a row a reader. In a plain residual stream every row is even; a "
        "connection that forgets has a dark lower left.",
    )
    sites = len(table.reader.unique())
    for column, title in (("weight", "weight of the path"), ("share", "share of what is read")):
        chart = alt.Chart(rounded(table.assign(value=table[column])[["reader", "source", "value"]])).mark_rect()
        chart = chart.encode(
            x=alt.X("source:O", title="written by site", axis=alt.Axis(labelOverlap=True)),
            y=alt.Y("reader:O", title="read by site", sort="descending", axis=alt.Axis(labelOverlap=True)),
            color=alt.Color("value:Q", title=title, scale=alt.Scale(scheme="viridis")),
            tooltip=["reader:O", "source:O", "value:Q"],
        )
        figure.panels.append(Panel(title, chart.properties(height=max(240, 5 * sites))))
    return figure


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "init": init, "lesion": lesion, "lens": lens, "landscape": landscape, "curvature": curvature, "reuse": reuse,
}  # fmt: skip
