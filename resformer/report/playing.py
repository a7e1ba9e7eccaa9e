"""Stream and gradient by depth, playing over the steps of training: a slider on the page, a GIF for slides."""

from __future__ import annotations

import altair as alt
import numpy as np

from ..stability.metrics import metric
from .charts import CELLS, HEIGHT, Figure, Panel, finite, lit, over_seeds, rounded, shown, site_axis, styled, thinned
from .study import Study

MOST_LOOKS = 40


def playing(study: Study) -> Figure:
    """Each look is a frame; the axes are those of all looks, so that what moves is the model."""
    figure = Figure(
        "playing",
        "Stream and gradient by depth, step by step",
        "Move the slider, or let it play: each frame is one look at the whole stack, from the embedding up; the axes "
        "stay. Calm is a line that keeps its shape.",
        empty="the stream was not looked at",
    )
    steps: set[int] = set()
    for name in ("stream_rms", "stream_gradient_rms"):
        whole = finite(study.of(name), log=True)
        for point in [point for point in study.points if (whole.point == point).any()]:
            rows = over_seeds(whole[whole.point == point], "arm", "depth", "site", "step")
            sites = max(1, len(rows.drop_duplicates(["arm", "depth"])))
            rows = thinned(rows, min(MOST_LOOKS, max(2, CELLS // 4 // sites)))
            steps |= set(rows.step.astype(int))
            domain = [float(rows.value.min()), float(rows.value.max())]
            scale = alt.Scale(type="log", nice=False, domain=domain if domain[0] < domain[1] else alt.Undefined)
            chart = shown(rounded(rows)).transform_filter("datum.step == look").mark_line(point=True)
            chart = chart.encode(
                x=alt.X("depth:Q", title="site, from the embedding up", axis=site_axis(rows),
                        scale=alt.Scale(domain=[0, float(rows.depth.max())], nice=False)),
                y=alt.Y("value:Q", title=metric(name).unit or metric(name).formula, scale=scale),
                opacity=lit(rows), tooltip=["arm", "site", "step", "value"],
                **styled("arm", study.arms, study.a_a_control),
            )  # fmt: skip
            title = " · ".join(word for word in (metric(name).title, point) if word)
            figure.panels.append(Panel(title, chart.properties(height=HEIGHT), None, point))
    figure.looks = [int(step) for step in np.sort(list(steps))]
    return figure
