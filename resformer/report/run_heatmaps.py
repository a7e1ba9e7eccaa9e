"""Figures over depth and time: the stream (F3), and what the connections keep inside (F12)."""

from __future__ import annotations

import itertools

import altair as alt
import numpy as np
import pandas as pd

from .run_charts import FAILED, HEIGHT, WHOLE_NUMBERS, WIDTH, Chart, cells, finite, log_steps, sized, styled
from .run_data import RunFiles


def stream_heatmap(run: RunFiles) -> Chart | None:
    """F3: the stream's RMS by depth over time, where it crosses 10 and 100 times its start, and below how well RMS^2
    grows linearly and exponentially over depth."""
    if not run.steps:  # only loss and gradient were watched
        return None
    frame = cells(run.of("stream_rms"), run.steps)
    start = frame[frame.step == frame.step.min()].set_index("depth").value
    frame["times"] = frame.value / frame.depth.map(start)
    frame["log"] = np.log10(frame.value.where(frame.value > 0))
    frame["shown"] = [f"{value:.4g}" for value in frame.value]
    x = alt.X("step:Q", scale=log_steps(run.steps), title="optimiser step (log)")
    y = alt.Y("depth:Q", scale=alt.Scale(nice=False), title="depth, sites from the embedding up", axis=WHOLE_NUMBERS)
    shown = alt.Chart(finite(frame, "log")).mark_rect().encode(
        x=x, x2="until:Q", y=y, y2="above:Q",
        color=alt.Color("log:Q", title="log10 RMS", scale=alt.Scale(scheme="viridis")),
        tooltip=["site:N", "step:Q", alt.Tooltip("shown:N", title="RMS"), alt.Tooltip("times:Q", title="x its start")],
    )  # fmt: skip
    lines = [
        alt.Chart(contour(frame, times)).mark_rule(color=colour, strokeWidth=2, strokeDash=dash)
        .encode(x=x, x2="x2:Q", y=y, y2="y2:Q")
        for times, colour, dash in ((10, "white", [1, 0]), (100, "black", [5, 3]))
    ]  # fmt: skip
    failed = alt.Chart(frame[~np.isfinite(frame.value)][["step", "until", "depth", "above"]])
    crossed = failed.mark_rect(color=FAILED).encode(x=x, x2="until:Q", y=y, y2="above:Q")
    title = [
        "F3  RMS of the residual stream by depth over time",
        "lines: 10 x its start (white), 100 x (black, dashed)",
    ]
    if not frame[~np.isfinite(frame.value)].empty:
        title.append("orange: not finite")
    tall = max(HEIGHT, 4 * frame.depth.nunique())
    heat = sized(alt.layer(shown, *lines, crossed), title, height=tall)
    fits = _growth(run)
    if fits.empty:
        return heat
    strip = alt.Chart(fits).mark_line(point=True).encode(
        x=x, y=alt.Y("value:Q", title="R squared", scale=alt.Scale(domain=[0, 1])),
        **styled("fit:N", ["linear", "exponential"], [5, 6], "RMS^2 over depth"),
    )  # fmt: skip
    last = ", ".join(f"{row.fit} R2 {row.value:.2f}" for row in fits[fits.step == fits.step.max()].itertuples())
    below = sized(strip, [f"growth of RMS^2 over depth, at the end {last}"], height=60)
    return alt.vconcat(heat, below).resolve_scale(x="shared", color="independent", strokeDash="independent")


def contour(frame: pd.DataFrame, times: float) -> pd.DataFrame:
    """Edges between cells that have grown ``times``-fold since their start and neighbours that have not."""
    inside = {(row.step, row.depth): row.times >= times for row in frame.itertuples()}
    steps, depths = sorted(frame.step.unique()), sorted(frame.depth.unique())
    edges = []
    for before, step in itertools.pairwise(steps):
        edges += [(step, depth, step, depth + 1) for depth in depths
                  if inside.get((before, depth)) != inside.get((step, depth))]  # fmt: skip
    ends = frame.drop_duplicates("step").set_index("step").until
    for below, depth in itertools.pairwise(depths):
        edges += [(step, depth, ends[step], depth) for step in steps
                  if inside.get((step, below)) != inside.get((step, depth))]  # fmt: skip
    return pd.DataFrame(edges, columns=["step", "depth", "x2", "y2"]).astype(float)


def _growth(run: RunFiles) -> pd.DataFrame:
    frame = run.whole("stream_growth_linear_r2", "stream_growth_exponential_r2")
    return finite(frame.assign(fit=frame.metric.str.extract(r"growth_(\w+)_r2")[0]))[["step", "fit", "value"]]


def internals(run: RunFiles) -> Chart | None:
    """F12: gates, scales, weights over depth and gains of stream mixing, each over depth and time."""
    inside = run.layers[
        run.layers.metric.str.startswith(("internal.", "mixing_gain.", "composite_gain.", "stream_rms_ratio"))
    ]
    inside = inside[inside.depth.notna()]
    if inside.empty:
        return None
    name = inside.metric.str.replace(r"^internal\.", "", regex=True)
    listed = name.str.extract(r"^(?P<base>[^\[]+)\[(?P<index>[\d,]+)\]$")
    parts = []
    last = inside[(inside.step == inside.step.max()) & listed.base.notna()]
    for base, frame in last.groupby(listed.base):
        frame = finite(frame.assign(index=listed["index"]))
        squares = (
            alt.Chart(frame)
            .mark_rect()
            .encode(
                x=alt.X("index:O", sort=list(dict.fromkeys(frame["index"])), title="entry"),
                y=alt.Y("site:O", sort=alt.EncodingSortField("depth", order="descending"), title=None),
                color=alt.Color("value:Q", title=None, scale=alt.Scale(scheme="purpleorange", domainMid=0)),
                tooltip=["site:N", "index:N", "value:Q"],
            )
        )
        parts.append(squares.properties(title=f"F12  {base} at the last look").resolve_scale(color="independent"))
    single = inside[listed.base.isna()].assign(name=name)
    single = single[~single.name.str.endswith((".std", ".min", ".max"))]
    for one, frame in single.groupby("name"):
        heat = cells(frame, run.steps)
        squares = alt.Chart(finite(heat)).mark_rect().encode(
            x=alt.X("step:Q", scale=log_steps(run.steps), title="optimiser step (log)"), x2="until:Q",
            y=alt.Y("depth:Q", title="depth, sites", scale=alt.Scale(nice=False), axis=WHOLE_NUMBERS), y2="above:Q",
            color=alt.Color("value:Q", title=None, scale=alt.Scale(scheme="viridis")),
            tooltip=["site:N", "step:Q", "value:Q"],
        )  # fmt: skip
        parts.append(squares.properties(width=WIDTH // 2, height=HEIGHT // 2, title=f"F12  {one}"))
    return alt.concat(*parts, columns=2).resolve_scale(color="independent") if parts else None
