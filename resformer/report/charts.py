"""What all figures share: panels that a page lays out, colours, lines with the range of seeds, cells over depth."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from .study import few

# After Okabe and Ito 2008, darkened or lightened to a contrast of at least 3 with white and with the dark page.
COLOURS = ["#767676", "#D0561A", "#2F8FC4", "#8A8A00", "#AA4466", "#2F9A8C", "#7C6BC8", "#C47800", "#008F63", "#4477AA",
           "#C0609A", "#5B8C2A"]  # fmt: skip
DASHES = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3]]
FEW_POINTS = 300
FAILED, GUIDE, HEALTHY = "#D0561A", "#767676", "#008F63"
HEIGHT, WIDTH = 210, 240
SHORT = "datum.label && (abs(log(datum.value)) < 7 ? format(datum.value, '~g') : format(datum.value, '~e'))"
"""Labels of a logarithmic axis: no row of zeros; those that the axis leaves empty stay so."""
alt.data_transformers.disable_max_rows()  # 5,000 by default; figures are thinned here
CELLS = 60_000
"""Of one figure's maps: more looks than that are thinned."""
ARM = ["arm", "point", "seed", "learning_rate"]
"""What names a run in a frame."""


@dataclass
class Panel:
    """One chart of a figure, of one arm or point where it says so; ``switch``: its y axis may be linear or log."""

    title: str
    chart: Any
    """An altair chart, single or layered, with a height."""
    arm: str | None = None
    point: str | None = None
    switch: bool = False


@dataclass
class Figure:
    """Panels under one title.

    Attributes:
        name: of its files.
        title: what is shown, as a statement.
        how: how to read it, in a sentence or two.
        panels: none where there is nothing to draw.
        empty: why there is nothing, where that is so.
        note: what the numbers say, where one line can.
        looks: steps that its panels show one at a time, as their parameter ``look``; the last one in print.
        lit: arms that are drawn strongly where all would be too many; empty: all.
    """

    name: str
    title: str
    how: str
    panels: list[Panel] = field(default_factory=list)
    empty: str = "nothing of it was recorded"
    note: str = ""
    columns: int = 3
    looks: list[int] = field(default_factory=list)
    lit: Sequence[str] = ()

    def chart(self) -> alt.TopLevelMixin:
        """All panels as one chart, for print and for a notebook."""
        drawn = [panel.chart.properties(width=WIDTH, title=panel.title) for panel in self.panels]
        whole = alt.concat(*drawn, columns=self.columns, title=alt.TitleParams(self.title, anchor="start"))
        whole = whole.resolve_scale(color="independent", strokeDash="independent", shape="independent")
        return (
            whole.add_params(*self._parameters())
            .configure_legend(orient="bottom")
            .configure_view(continuousWidth=WIDTH)
        )

    def specs(self) -> list[dict[str, Any]]:
        """Of each panel, for the page: as wide as its place, without the legend of arms that the page has once."""
        found = []
        for panel in self.panels:
            chart = panel.chart.add_params(*self._parameters()).properties(width="container")
            spec = chart.properties(autosize=alt.AutoSizeParams(type="fit-x", contains="padding")).to_dict(
                validate=False
            )
            _without_legend_of_arms(spec)
            found.append(spec)
        return found

    def _parameters(self) -> list[alt.Parameter]:
        look = [alt.param(name="look", value=self.looks[-1])] if self.looks else []
        return [alt.param(name="lit", value=list(self.lit)), alt.param(name="hidden", value=[]), *look]


def _without_legend_of_arms(part: Any) -> None:
    if isinstance(part, list):
        for item in part:
            _without_legend_of_arms(item)
    elif isinstance(part, dict):
        for channel in ("color", "strokeDash", "shape"):
            if isinstance(given := part.get(channel), dict) and given.get("field") == "arm":
                given["legend"] = None
        for name, item in part.items():
            if name not in ("datasets", "data"):
                _without_legend_of_arms(item)


def colour(index: int) -> str:
    return COLOURS[index % len(COLOURS)]


def dash(index: int, alike: bool = False) -> list[int]:
    """Of the arm at this place; ``alike``: it lies on another one and must be told from it."""
    return DASHES[1] if alike else DASHES[(index // len(COLOURS)) % len(DASHES)]


def styled(by: str, names: Sequence[str], a_a_control: str | None = None) -> dict[str, Any]:
    """Colour and dash of each name; those of ``part`` take colours that no arm's neighbour has."""
    hues = (
        [colour(i) for i in range(len(names))]
        if by == "arm"
        else [COLOURS[i] for i in (9, 7, 8, 4, 5, 10, 1, 3)][: len(names)]
    )
    dashes = [dash(i, name == a_a_control) for i, name in enumerate(names)] if by == "arm" else DASHES[: len(names)]
    legend = alt.Legend(title=None, symbolType="stroke", columns=2)
    return {
        "color": alt.Color(f"{by}:N", legend=legend, scale=alt.Scale(domain=list(names), range=hues)),
        "strokeDash": alt.StrokeDash(f"{by}:N", legend=legend, scale=alt.Scale(domain=list(names), range=dashes)),
    }


def shown(frame: pd.DataFrame) -> alt.Chart:
    """A chart of the arms that the page's reader has not taken out. Each layer has its own data, so its own filter."""
    chart = alt.Chart(frame)
    return chart.transform_filter("indexof(hidden, datum.arm) < 0") if "arm" in frame else chart


def lit(frame: pd.DataFrame, strong: float = 1.0, pale: float = 0.12, crowded: bool = True) -> Any:
    """Opacity: of all arms, of the one that the reader points at, or, where many would be ``crowded``, of the few that
    the study puts in front."""
    if "arm" not in frame:
        return alt.value(strong)
    whole = f"length(lit) {'== 0' if crowded else '!= 1'}"
    return alt.condition(f"{whole} || indexof(lit, datum.arm) >= 0", alt.value(strong), alt.value(pale * strong))


def rounded(frame: pd.DataFrame) -> pd.DataFrame:
    """Numbers with five digits, which is more than a figure can show and half of what a page would weigh."""
    reals = {name: frame[name].map(_short) for name in frame if pd.api.types.is_float_dtype(frame[name])}
    return frame.assign(**reals)


def _short(value: float) -> float:
    return float(f"{value:.5g}") if math.isfinite(value) else value


def finite(frame: pd.DataFrame, log: bool = False) -> pd.DataFrame:
    values = frame.value.astype(float)
    return frame[np.isfinite(values) & ((values > 0) | (not log))]


def over_seeds(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    """``low``, ``value`` (median), ``high`` and ``seeds`` of what is finite."""
    groups = finite(frame).groupby(list(keys), sort=False, dropna=False).value
    return groups.agg(low="min", value="median", high="max", seeds="count").reset_index()


def site_axis(frame: pd.DataFrame) -> alt.Axis:
    """Depth as layer and sublayer: as most arms have it, where they differ."""
    sites = frame.dropna(subset=["depth"]).groupby("depth").site.agg(lambda names: names.mode().iloc[0])
    top = int(sites.index.max()) if len(sites) else 0
    every = max(1, math.ceil((top + 1) / 9))
    names = dict(zip(sites.index.astype(int), sites, strict=True))
    table = [names.get(depth, "") for depth in range(top + 1)]
    return alt.Axis(values=list(range(0, top + 1, every)), labelExpr=f"{table}[datum.value]", labelLimit=90)


def log_steps(steps: Iterable[float]) -> alt.Scale:
    """Logarithmic, and with a place for step 0."""
    later = [step for step in steps if step > 0]
    return alt.Scale(type="symlog", constant=max(1, min(later, default=1)), nice=False)


def lines(
    rows: pd.DataFrame,
    x: alt.X,
    y_title: str,
    style: dict[str, Any],
    *,
    log: bool = False,
    healthy: tuple[float, float] | None = None,
    guides: Sequence[float] = (),
    points: bool = True,
) -> Any:
    """Medians as lines, from the smallest to the largest seed as bands, crosses where a seed has no finite value.

    Args:
        rows: what ``over_seeds`` gave, or the like.
        healthy: the range in which nothing is wrong.
        guides: values to draw a dashed line at.
    """
    rows = rounded(rows[rows.value > 0] if log else rows)
    field = _field(x)
    scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
    y = alt.Y("value:Q", title=y_title, scale=scale, axis=alt.Axis(labelExpr=SHORT) if log else alt.Undefined)
    layers: list = []
    if healthy is not None:
        band = alt.Chart(pd.DataFrame([dict(zip(("low", "value"), healthy, strict=True))]))
        layers.append(band.mark_rect(color=HEALTHY, opacity=0.1).encode(y=alt.Y("low:Q"), y2="value:Q"))
    banded = rows[(rows.seeds > 1) & ((rows.low > 0) | (not log))] if "seeds" in rows else rows[:0]
    if len(banded):
        layers.append(
            shown(banded).mark_area().encode(
                x=x, y=alt.Y("low:Q"), y2="high:Q", color=style["color"], opacity=lit(rows, 0.18)
            )
        )  # fmt: skip
    told = [name for name in ("arm", "part", "point", "site", field, "low", "value", "high", "seeds") if name in rows]
    # Of many points only the place is kept, for who points at it.
    unseen: dict[str, Any] = {"fillOpacity": 0, "strokeOpacity": 0} if len(rows) > FEW_POINTS else {}
    mark = alt.OverlayMarkDef(size=16, **unseen) if points and len(rows) < 2000 else False
    layers.append(shown(rows).mark_line(point=mark).encode(x=x, y=y, opacity=lit(rows), tooltip=told, **style))
    for value in guides:
        rule = alt.Chart(pd.DataFrame({"value": [value]})).mark_rule(strokeDash=[4, 3], color=GUIDE)
        layers.append(rule.encode(y=y))
    return stacked(*layers, height=HEIGHT)


def crosses(frame: pd.DataFrame, x: alt.X) -> alt.Chart | None:
    """At the lower edge, where some seed's value is not finite."""
    field = _field(x)
    gone = frame[~np.isfinite(frame.value.astype(float))]
    if gone.empty:
        return None
    counted = gone.groupby(["arm", field]).value.size().rename("not finite").reset_index()
    marks = shown(counted).mark_text(text="×", color=FAILED, fontSize=16, fontWeight="bold")
    return marks.encode(x=x, y=alt.value(HEIGHT - 7), opacity=lit(counted), tooltip=["arm", field, "not finite"])


def stacked(*layers: Any, height: float) -> Any:
    """Layers as one chart of that height."""
    return alt.layer(*layers).properties(height=height)


def _field(x: alt.X) -> str:
    return str(dict(x.to_dict())["field"])  # type: ignore[arg-type]


def thinned(frame: pd.DataFrame, most: int) -> pd.DataFrame:
    """Of so many steps at most, the first and the last among them."""
    return frame[frame.step.isin(few(frame.step.unique(), most))]


def cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Each look lasts until the next, each site until the one above."""
    steps = sorted(frame.step.unique())
    last = 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1
    ends = dict(zip(steps, [*steps[1:], last], strict=True))
    return frame.assign(until=frame.step.map(ends), above=frame.depth + 1)


def heat(frame: pd.DataFrame, value: str, title: str, scale: alt.Scale, tooltip: list[str]) -> alt.Chart:
    """Cells over step and depth."""
    y = alt.Y("depth:Q", title=None, scale=alt.Scale(nice=False, zero=False), axis=site_axis(frame))
    height = max(HEIGHT, 2 * int(frame.depth.max() or 0))
    gradient = alt.Legend(gradientLength=150, title=title, titleLimit=200)
    return (
        alt.Chart(rounded(frame))
        .mark_rect()
        .encode(
            x=alt.X("step:Q", scale=log_steps(frame.step), title="optimiser step (log)"),
            x2="until:Q",
            y=y,
            y2="above:Q",
            color=alt.Color(f"{value}:Q", scale=scale, legend=gradient),
            tooltip=tooltip,
        )
        .properties(height=height)
    )


def heights_of_labels(
    x: pd.Series, y: pd.Series, labels: pd.Series, width: float = WIDTH - 80, height: float = HEIGHT
) -> np.ndarray:
    """Where to write the labels of dots so that they can be read.

    Args:
        x, y: of the dots, [dots].
        labels: their texts, of 11 pixels.
        width, height: pixels that the dots span; by default in print, where a figure is narrowest, less its padding.

    Returns:
        [dots]: pixels below each dot (negative: above) at which its label lies on no earlier one, or close above it
        where there is no such place.
    """
    across = (x - x.min()) / ((x.max() - x.min()) or 1) * width
    down = (y.max() - y) / ((y.max() - y.min()) or 1) * height
    taken: list[tuple[float, float, float]] = []
    found = []
    for place, dot, label in zip(across, down, labels, strict=True):
        half = 3.2 * len(label)
        near = [line - dot for at, line, other in taken if abs(place - at) <= half + other]
        dy = next((dy for dy in (-9, 12, -21, 24, -33, 36) if all(abs(dy - line) >= 12 for line in near)), -9)
        taken.append((place, dot + dy, half))
        found.append(dy)
    return np.array(found)
