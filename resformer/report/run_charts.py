"""What the figures of a run share: sizes, scales, lines with the range of seeds, cells over depth and time."""

from __future__ import annotations

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLOURS
from .run_data import RunFiles

WIDTH, HEIGHT = 460, 240
FAILED = "#D55E00"
GUIDE = "#666666"
WHOLE_NUMBERS = alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, 'd')")

Chart = alt.TopLevelMixin


def sized(chart, title: list[str], width: int = WIDTH, height: int = HEIGHT):
    return chart.properties(width=width, height=height, title=alt.TitleParams(title, anchor="start"))


def finite(frame: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    return frame[np.isfinite(frame[column].astype(float))]


def positive(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[np.isfinite(frame.value) & (frame.value > 0)]


def aggregated(frame: pd.DataFrame, by: list[str], how: str = "median") -> pd.DataFrame:
    """Of the value, and of the ends of the range of seeds where several runs are shown."""
    columns = [column for column in ("value", "low", "high") if column in frame]
    return frame.groupby(by, as_index=False)[columns].agg(how)


def log_steps(steps: list[int]) -> alt.Scale:
    """Logarithmic, and with a place for step 0."""
    return alt.Scale(type="symlog", constant=max(1, steps[1] - steps[0] if len(steps) > 1 else 1), nice=False)


def cells(frame: pd.DataFrame, steps: list[int]) -> pd.DataFrame:
    """Each look lasts until the next, each site until the one above."""
    ends = dict(zip(steps, [*steps[1:], steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)], strict=True))
    return frame.assign(until=frame.step.map(ends), above=frame.depth + 1)


def at_times(run: RunFiles, metric: str, ends_only: bool = False) -> pd.DataFrame:
    """At the first look, the one nearest to step 100, and the last."""
    frame = run.of(metric)
    if frame.empty:
        return frame
    steps = sorted(frame.step.unique())
    chosen = {steps[0], steps[-1]} | (set() if ends_only else {min(steps, key=lambda step: abs(step - 100))})
    return frame[frame.step.isin(chosen)]


def banded(frame: pd.DataFrame, x: alt.X, y: alt.Y, log: bool = False, **channels):
    """Lines with points, and behind them the range of the runs where the frame has one.

    Args:
        log: whether y is logarithmic; what is not positive, or not finite, is left out.
    """
    shown = positive(frame) if log else finite(frame)
    y = y.scale(type="log") if log else y
    lines = alt.Chart(shown).mark_line(point=True).encode(x=x, y=y, **channels)
    if "low" not in frame:
        return lines
    ends = shown[shown.low > 0] if log else shown
    colour = {"color": channels["color"]} if "color" in channels else {}
    band = alt.Chart(ends).mark_area(opacity=0.2).encode(x=x, y=alt.Y("low:Q"), y2="high:Q", **colour)
    return alt.layer(lines, band)


def styled(field: str, names: list, colours: list[int], title: str | None = None) -> dict:
    """A colour and a dash for each of up to three names: a print in black and white tells them apart too."""
    hues = [COLOURS[index] for index in colours[: len(names)]]
    dashes = [[1, 0], [7, 3], [2, 2]][: len(names)]
    legend = alt.Legend(title=title, symbolType="stroke")
    return {
        "color": alt.Color(field, legend=legend, scale=alt.Scale(domain=names, range=hues)),
        "strokeDash": alt.StrokeDash(field, legend=legend, scale=alt.Scale(domain=names, range=dashes)),
    }


def over_depth(frame: pd.DataFrame, x: str, x_title: str, y_title: str, log: bool = True):
    """One line for each step, the last one black and whole."""
    steps = sorted((int(step) for step in frame.step.unique()), reverse=True)
    return banded(
        frame,
        x=alt.X(f"{x}:Q", title=x_title, axis=WHOLE_NUMBERS),
        y=alt.Y("value:Q", title=y_title, scale=alt.Scale(zero=False)),
        log=log,
        tooltip=["site:N", "step:Q", "value:Q"],
        **styled("step:O", steps, [0, 1, 2], "step"),
    )
