"""Figures of the probes, each a function of the probe's table."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLOURS
from .run_charts import FAILED, GUIDE, WHOLE_NUMBERS, banded, finite, sized, styled

WIDTH, HEIGHT = 300, 220
GREY = "#999999"


def init_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """F10: what depth does to a signal before training, with the bounds and slopes of Xiong et al. 2020 for Pre-LN."""
    depths = np.geomspace(table.depth.min(), table.depth.max(), 40)
    band = pd.DataFrame({"depth": depths, "low": np.sqrt(1 + depths / 2), "high": np.sqrt(1 + 3 * depths / 2)})
    first = table[table.depth == table.depth.min()].weight_last.median()
    slope = pd.DataFrame({"depth": depths, "value": first * (depths / depths[0]) ** -0.5})
    x = alt.X("depth:Q", scale=alt.Scale(type="log", nice=False), title="blocks (log)")
    bounds = (
        alt.Chart(band)
        .mark_area(opacity=0.15, color="#666666")
        .encode(x=x, y=alt.Y("low:Q", scale=alt.Scale(type="log")), y2="high:Q")
    )
    theory = alt.Chart(slope).mark_line(strokeDash=[4, 3], color="#666666").encode(x=x, y="value:Q")
    as_in_theory = abs(table.rms_first.median() - 1) < 0.1  # the bounds are of embeddings of unit variance
    bounds_note = "grey: sqrt(1 + L/2) to sqrt(1 + 3L/2)" if as_in_theory else ""
    shown = {
        "rms_last": ("RMS of the last stream", bounds_note, True),
        "token_cosine": ("cosine of two tokens", "1: collapsed", False),
        "gain": ("mean squared singular value", "embedding to final states", True),
        "weight_last": ("norm of last dL/dW (MLP out)", "dashes: L^-1/2", True),
        "weight_first": ("norm of first dL/dW (MLP out)", "", True),
        "gradient_first": ("RMS of dL/d embedding", "", True),
    }
    panels = []
    for name, (title, note, log) in shown.items():
        frame = table.assign(value=table[name].where(np.isfinite(table[name]))).dropna(subset=["value"])
        groups = frame.groupby(["depth", "dtype"], as_index=False).value
        seeds = groups.median().assign(low=groups.min().value, high=groups.max().value)
        seeds = seeds.sort_values("dtype", ascending=False)  # dashes above the whole line
        lines = banded(seeds if table.seed.nunique() > 1 else seeds.drop(columns=["low", "high"]), x,
                       alt.Y("value:Q", title=title, scale=alt.Scale(zero=False)), log=log,
                       **styled("dtype:N", sorted(table.dtype.unique(), reverse=True), [5, 1]))  # fmt: skip
        drawn = {"rms_last": [bounds] if as_in_theory else [], "weight_last": [theory]}
        layers = drawn.get(name, [])
        panels.append(alt.layer(*layers, lines).properties(width=WIDTH, height=HEIGHT, title=[title, note]))
    failed = table[~table.finite]
    note = "" if failed.empty else f"; not finite at {', '.join(f'{r.depth} ({r.dtype})' for r in failed.itertuples())}"
    seeds = table.seed.nunique()
    of = "1 seed" if seeds == 1 else f"{seeds} seeds, median and range"
    title = f"F10  signal propagation at initialisation, {of}{note}"
    return alt.concat(*panels, columns=3, title=title)


def lesion_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """F7: what each branch is worth and, on the right axis, how far each block turns the stream; what the loss loses
    without all branches above a block."""
    lesions = table[table.metric == "lesion_increase"]
    turns = table[table.metric == "angular_distance"]
    useful = table[table.metric == "useful_share"].value.iloc[0]
    x = alt.X("layer:Q", title="layer", axis=WHOLE_NUMBERS)
    y = alt.Y("value:Q", title="increase of the loss, nats", scale=alt.Scale(type="symlog", constant=0.01))
    worth = alt.Chart(finite(lesions)).mark_line(point=True)
    worth = worth.encode(x=x, y=y, **styled("sublayer:N", list(lesions.sublayer.unique()), [5, 1]))
    limit = alt.Chart(pd.DataFrame({"value": [0.01]})).mark_rule(strokeDash=[4, 3], color=GUIDE).encode(y=y)
    angle = alt.Y("value:Q", title="angular distance of the block, share of pi (grey)")
    turned = alt.Chart(turns).mark_line(point={"color": GREY, "shape": "square"}, color=GREY).encode(x=x, y=angle)
    title = [f"F7  loss without one branch; {100 * (1 - useful):.0f} % are worth less than 0.01 nat (dashes)"]
    left = alt.layer(alt.layer(worth, limit), turned).resolve_scale(y="independent")
    above = alt.Chart(finite(table[table.metric == "above_increase"])).mark_line(point=True, color=COLOURS[0])
    above = above.encode(x=alt.X("layer:Q", title="last block that is left (-1: none)", axis=WHOLE_NUMBERS), y=y)
    return sized(left, title) | sized(above, ["loss without all branches above a block"], width=WIDTH)


def lens_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Loss of the read-out after each block, its divergence from the end, and what the stream holds there."""
    labels = {
        "lens_loss": "nats per token",
        "lens_kl": "KL(final || here), nats",
        "effective_rank": "effective rank, directions",
        "anisotropy": "cosine of tokens of different sequences",
        "cka": "linear CKA with the block before",
    }
    parts = []
    for metric, label in labels.items():
        frame = table[table.metric == metric]
        if not frame.empty:
            lines = alt.Chart(finite(frame)).mark_line(point=True, color=COLOURS[5])
            x = alt.X("layer:Q", title="after block (-1: embedding)", axis=WHOLE_NUMBERS)
            panel = lines.encode(x=x, y=alt.Y("value:Q", title=label, scale=alt.Scale(zero=False)))
            parts.append(panel.properties(width=WIDTH, height=HEIGHT))
    return alt.concat(*parts, columns=3, title="Logit lens, through the model's own read-out, and the stream there")


def landscape_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """The loss along one direction, over a plane, and that plane as a surface."""
    gone = table[~np.isfinite(table.loss)]
    table = table[np.isfinite(table.loss)]
    line = table[(table.kind == "line")]
    curve = alt.Chart(line).mark_line(point=True, color=COLOURS[0])
    curve = curve.encode(
        x=alt.X("a:Q", title="along d1"), y=alt.Y("loss:Q", title="nats per token", scale=alt.Scale(zero=False))
    )
    parts: list = [curve.properties(width=WIDTH, height=WIDTH, title="Filter-normalised slice of the loss")]
    if not gone.empty:
        marks = alt.Chart(gone[gone.kind == "line"]).mark_rule(color=FAILED).encode(x="a:Q")
        parts = [alt.layer(parts[0], marks).properties(title=[f"{len(gone)} points are not finite (orange)"])]
    plane = table[table.kind == "plane"]
    if not plane.empty:
        step = float(np.diff(np.sort(plane.a.unique())).min())
        cells = plane.assign(a2=plane.a + step / 2, b2=plane.b + step / 2, a=plane.a - step / 2, b=plane.b - step / 2)
        scale = alt.Scale(scheme="viridis", domain=[plane.loss.min(), plane.loss.max()])
        colour = alt.Color("loss:Q", title="nats", scale=scale)
        flat = alt.Chart(cells).mark_rect().encode(x=alt.X("a:Q", title="d1"), x2="a2:Q",
                                                   y=alt.Y("b:Q", title="d2"), y2="b2:Q", color=colour)  # fmt: skip
        parts.append(flat.properties(width=WIDTH, height=WIDTH, title="over a plane"))
        parts.append(_surface(plane, scale))
    return alt.hconcat(*parts).resolve_scale(color="independent", fill="independent")


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
    frame = pd.DataFrame(rows, columns=["cell", "order", "x", "y", "loss"])
    return (
        alt.Chart(frame)
        .mark_line(filled=True, stroke="#333333", strokeWidth=0.3)
        .encode(
            x=alt.X("x:Q", axis=None),
            y=alt.Y("y:Q", scale=alt.Scale(zero=False), axis=None),
            fill=alt.Fill("loss:Q", legend=None, scale=scale),
            detail="cell:N",
            order="order:O",
        )
        .properties(width=WIDTH + 60, height=WIDTH, title="as a surface")
    )


def curvature_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Learning rates beyond which a step no longer lowers the loss."""
    rates = table[table.metric.str.contains("edge|learning_rate")]
    points = alt.Chart(rates[np.isfinite(rates.value) & (rates.value > 0)]).mark_point(filled=True, size=90)
    x = alt.X("value:Q", scale=alt.Scale(type="log"), title="learning rate (log)")
    chart = points.encode(x=x, y=alt.Y("metric:N", title=None), color=_colour("metric", legend=False))
    of = table.set_index("metric").value
    title = f"Critical learning rates; lambda_max of the Hessian {of['sharpness']:.4g}, its trace {of['trace']:.4g}"
    return chart.properties(width=460, height=140, title=title)


def reuse_figure(table: pd.DataFrame) -> alt.TopLevelMixin:
    """Which earlier writes each site reads, through the connections alone."""
    parts = []
    for column, title in (("weight", "weight of the path"), ("share", "share of what is read")):
        cells = alt.Chart(table).mark_rect()
        chart = cells.encode(
            x=alt.X("source:O", title="written by site (-1: embedding)"),
            y=alt.Y("reader:O", title="read by site", sort="descending"),
            color=alt.Color(f"{column}:Q", title=None, scale=alt.Scale(scheme="viridis")),
            tooltip=["reader:O", "source:O", "weight:Q", "share:Q"],
        )
        parts.append(chart.properties(width=320, height=320, title=title))
    title = "Reuse: who reads whom along the wiring alone"
    return alt.hconcat(*parts, title=title).resolve_scale(color="independent")


FIGURES = {
    "init": init_figure,
    "lesion": lesion_figure,
    "lens": lens_figure,
    "landscape": landscape_figure,
    "curvature": curvature_figure,
    "reuse": reuse_figure,
}


def _colour(field: str, legend: bool = True) -> alt.Color:
    scale = alt.Scale(range=[COLOURS[i] for i in (5, 1, 3, 6)])
    return alt.Color(f"{field}:N", scale=scale, legend=alt.Legend(title=None) if legend else None)
