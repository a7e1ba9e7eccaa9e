"""Maps over depth and time: the stream, and what the connections keep inside."""

from __future__ import annotations

import itertools

import altair as alt
import numpy as np
import pandas as pd

from .charts import CELLS, FAILED, Panel, cells, finite, heat, rounded, site_axis, stacked, thinned
from .study import Study

_INSIDE = ("internal.", "mixing_gain.", "composite_gain.", "stream_rms_ratio")
_TOLD = ["site:N", "step:Q", "value:Q"]


def stream_maps(study: Study) -> list[Panel]:
    """One for each arm and point, on one scale of colours; medians over seeds."""
    frame = _over_seeds(study.of("stream_rms"))
    if frame.empty:
        return []
    groups = list(frame.groupby(["point", "arm"], sort=False))
    frame = frame.assign(log=np.log10(frame.value.where(frame.value > 0)))
    ends = frame.log.replace([np.inf, -np.inf], np.nan)
    scale = alt.Scale(scheme="viridis", domain=[float(ends.min()), float(ends.max())])
    panels = []
    for (point, arm), _ in groups:
        one = frame[(frame.point == point) & (frame.arm == arm)]
        one = cells(thinned(one, CELLS // len(groups) // max(1, one.depth.nunique())))
        start = one[one.step == one.step.min()].set_index("depth").value
        one = one.assign(times=one.value / one.depth.map(start))
        base = heat(finite(one), "log", "log10 of the RMS", scale, [*_TOLD, "times:Q"])
        layers: list = [base]
        for times, hue, dash in ((10, "white", [1, 0]), (100, "black", [5, 3])):
            edges = contour(one, times)
            if len(edges):
                rule = alt.Chart(edges).mark_rule(color=hue, strokeWidth=2, strokeDash=dash)
                layers.append(rule.encode(x="step:Q", x2="x2:Q", y="depth:Q", y2="y2:Q"))
        gone = one[~np.isfinite(one.value)]
        if len(gone):
            block = alt.Chart(gone[["step", "until", "depth", "above", "site"]]).mark_rect(color=FAILED)
            layers.append(block.encode(x="step:Q", x2="until:Q", y="depth:Q", y2="above:Q", tooltip=["site:N", "step"]))
        title = " · ".join(word for word in ("RMS of the stream" if study.single else arm, point) if word)
        panels.append(Panel(title, stacked(*layers, height=base.height), arm, point))
    return panels


def _over_seeds(frame: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Median over seeds; not a number where any of them has none, so that a failure shows."""
    keys = ["arm", "point", *more, "step", "depth", "site"]
    found = frame.assign(value=frame.value.where(np.isfinite(frame.value)), gone=~np.isfinite(frame.value))
    pooled = found.groupby(keys, sort=False).agg(value=("value", "median"), gone=("gone", "any")).reset_index()
    return pooled.assign(value=pooled.value.mask(pooled.gone)).drop(columns="gone")


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


def internals_maps(study: Study) -> tuple[list[Panel], list[str]]:
    """Of each arm and name one map over depth and step, or over depth and entry at the last look; and in words those
    that are one number everywhere."""
    inside = study.frame[study.frame.metric.str.startswith(_INSIDE) & study.frame.depth.notna()]
    inside = inside[~inside.metric.str.endswith((".std", ".min", ".max"))]
    if inside.empty:
        return [], []
    inside = finite(_over_seeds(inside, "metric"))
    named = inside.metric.str.extract(r"^(?:internal\.)?(?P<name>[^\[]+)(?:\[(?P<entry>[\d,]+)\])?$")
    inside = inside.assign(name=named.name, entry=named.entry)
    panels, still = [], []
    for (point, arm, name), frame in inside.groupby(["point", "arm", "name"], sort=False):
        words = [word for word in ("" if study.single else arm, str(name), point) if word]
        title = " · ".join(words)
        if frame.value.nunique() == 1:
            still.append(f"{' '.join(words)} {frame.value.iloc[0]:.4g}")
            continue
        if frame.entry.notna().any():
            panels.append(Panel(title, _entries(frame[frame.step == frame.step.max()]), arm, point))
            continue
        frame = cells(thinned(frame.drop(columns="entry"), CELLS // 10 // max(1, frame.depth.nunique())))
        scale = alt.Scale(scheme="viridis")
        panels.append(Panel(title, heat(frame, "value", "value", scale, _TOLD), arm, point))
    return panels, still


def _entries(frame: pd.DataFrame) -> alt.Chart:
    y = alt.Y("depth:Q", title=None, scale=alt.Scale(nice=False, zero=False), axis=site_axis(frame))
    order = list(dict.fromkeys(frame.entry))
    both = frame.value.min() < 0 < frame.value.max()
    scale = alt.Scale(scheme="purpleorange", domainMid=0) if both else alt.Scale(scheme="viridis")
    return (
        alt.Chart(rounded(frame.assign(above=frame.depth + 1)))
        .mark_rect()
        .encode(
            x=alt.X("entry:O", sort=order, title="entry, at the last look"),
            y=y,
            y2="above:Q",
            color=alt.Color("value:Q", title="value", scale=scale, legend=alt.Legend(gradientLength=150)),
            tooltip=["site:N", "entry:N", "value:Q"],
        )
        .properties(height=max(210, 2 * int(frame.depth.max())))
    )
