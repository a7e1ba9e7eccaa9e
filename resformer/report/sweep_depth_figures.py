"""What happened inside: F3, F4, F6, F8, F9 and F12 of the method, over the reporting runs at their arms' best rates.

Lines are medians over seeds, bands reach from the smallest seed to the largest; heat maps are medians over seeds.
"""

from collections.abc import Sequence
from typing import Literal

import altair as alt
import numpy as np
import pandas as pd

from .sweep_data import SweepReport
from .sweep_figures import chart_of, colour_of_arms, conditions, dash_of_arms, titled

_WIDTH, _HEIGHT = 195, 170
_INSIDE = ("internal.", "mixing_gain.", "composite_gain.")
_WHOLE = alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, 'd')")
_BANDS = "Lines: medians over seeds; bands: smallest to largest."


def depth_figures(report: SweepReport) -> dict[str, alt.TopLevelMixin]:
    """By name; a figure that the runs recorded nothing for is left out."""
    if report.layers.empty:
        return {}
    made = {
        "f3-stream-rms": stream(report),
        "f4-gradient-flow": gradient_flow(report),
        "f6-branches": branches(report),
        "f8-updates": updates(report),
        "f9-attention": attention(report),
        "f12-internals": internals(report),
    }
    return {name: chart for name, chart in made.items() if chart is not None}


def stream(report: SweepReport) -> alt.VConcatChart | None:
    """F3. RMS of the stream by depth and step, one panel for each arm, one colour scale for all."""
    frame = _over_seeds(report.layers[report.layers.metric == "stream_rms"], "step", "depth")
    if frame.empty:
        return None
    start = frame.sort_values("step").groupby(["arm", "point", "depth"]).value.transform("first")
    frame = _cells(frame.assign(times=frame.value / start, log=np.log10(frame.value.where(frame.value > 0))))
    panels = []
    for (point, arm), part in frame.groupby(["point", "arm"], sort=False):
        base = chart_of(part).encode(
            x=alt.X("step:Q", scale=_log_steps(part), title="step (log)"), x2="until:Q",
            y=alt.Y("depth:Q", title="depth, sites", scale=alt.Scale(nice=False), axis=_WHOLE), y2="above:Q",
        )  # fmt: skip
        layers = [
            base.mark_rect().encode(
                color=alt.Color("log:Q", title="log10 RMS", scale=alt.Scale(scheme="viridis")),
                tooltip=["arm", "point", "depth", "step", "value", "times"],
            ),
            *(
                base.transform_filter(f"datum.times >= {times}").mark_rect(fillOpacity=0, stroke=stroke)
                for times, stroke in ((10, "white"), (100, "#D55E00"))
            ),
        ]
        panels.append(_panel(alt.layer(*layers), arm, point))
    caption = f"Medians over seeds. Frames: 10 times its start (white), 100 times. {conditions(report)}"
    return titled(report, _grid(panels, 4, "shared"), "F3  RMS of the residual stream", caption)


def gradient_flow(report: SweepReport) -> alt.VConcatChart | None:
    """F4. What arrives at the stream, by depth, at three times, and at the MLP's output matrix at the end."""
    at_stream, at_weights = (_of(report, name) for name in ("stream_gradient_rms", "gradient_norm.down_proj"))
    panels = [(_looked(at_stream, when), "depth", f"RMS of dL/dx, {when}", True) for when in ("start", "100", "end")]
    panels.append((_looked(at_weights, "end"), "depth", "norm of dL/dW (MLP out), end", True))
    return _rows(report, panels, "F4  Gradient flow", "depth, sites")


def branches(report: SweepReport) -> alt.VConcatChart | None:
    """F6. Branch-to-stream ratio at the start and the end, and the branch's cosine with the stream."""
    ratio, cosine = _of(report, "branch_ratio"), _of(report, "branch_cosine")
    panels = [(_looked(ratio, when), "depth", f"RMS(f) / RMS(x), {when}", True) for when in ("start", "end")]
    panels += [(_looked(cosine, when), "depth", f"cosine of f and x, {when}", False) for when in ("start", "end")]
    return _rows(report, panels, "F6  What the branches write, against the stream", "depth, sites")


def updates(report: SweepReport) -> alt.VConcatChart | None:
    """F8. Update-to-weight ratio by thirds of the depth, and how far the model has moved from its start."""
    ratio, moved = _of(report, "update_to_weight"), _whole(report, "accumulated_update")
    panels = []
    if not ratio.empty:
        third = (3 * (ratio.depth - 1) // ratio.groupby("point").depth.transform("max")).clip(0, 2)
        for number, name in enumerate(("lower", "middle", "upper")):
            part = ratio[third == number].groupby(["arm", "point", "seed", "step"], as_index=False).value.median()
            panels.append((part, "step", f"update / weight, {name} third", True))
    panels.append((moved[moved.step > 0], "step", "RMS of F(x; now) - F(x; start)", True))
    return _rows(report, panels, "F8  Updates", "step")


def attention(report: SweepReport) -> alt.VConcatChart | None:
    """F9. The worst layer's attention entropy and largest logit, and log Z."""
    panels = []
    for metric, how, title in (
        ("attention_entropy_share_min", "min", "lowest entropy / log(keys)"),
        ("attention_logit_max", "max", "largest attention logit"),
    ):
        frame = _of(report, metric).groupby(["arm", "point", "seed", "step"], as_index=False).value.agg(how)
        panels.append((frame, "step", title, False))
    panels.append((_whole(report, "log_z_max"), "step", "largest log Z, nats", False))
    return _rows(report, panels, "F9  Attention and logits", "step")


def internals(report: SweepReport) -> alt.VConcatChart | None:
    """F12. Gates, scales and gains of stream mixing over depth and step; weights over depth at the last look."""
    inside = report.layers[report.layers.metric.str.startswith(_INSIDE) & report.layers.depth.notna()]
    inside = inside[~inside.metric.str.endswith((".std", ".min", ".max"))]
    if inside.empty:
        return None
    inside = _over_seeds(inside, "metric", "step", "depth", "site")
    listed = inside.metric.str.extract(r"^(?P<name>[^\[]+)(?:\[(?P<entry>[\d,]+)\])?$")
    inside = _cells(inside.assign(name=listed.name.str.removeprefix("internal."), entry=listed.entry))
    panels = []
    for (point, arm, name), frame in inside.groupby(["point", "arm", "name"], sort=False):
        scheme = alt.Scale(scheme="viridis")
        if frame.entry.notna().any():
            frame = frame[frame.step == frame.step.max()]
            entries = list(dict.fromkeys(frame.entry))
            x: dict = {"x": alt.X("entry:O", title="entry, last look", sort=entries)}
            scheme = alt.Scale(scheme="purpleorange", domainMid=0)
        else:
            x = {"x": alt.X("step:Q", title="step (log)", scale=_log_steps(frame)), "x2": "until:Q"}
        y = alt.Y("depth:Q", title="depth, sites", scale=alt.Scale(nice=False), axis=_WHOLE)
        cells = chart_of(frame).mark_rect().encode(
            **x, y=y, y2="above:Q", color=alt.Color("value:Q", title=None, scale=scheme),
            tooltip=["arm", "point", "site", "name", "entry", "step", "value"],
        )  # fmt: skip
        panels.append(_panel(cells, f"{arm}: {name}", point))
    whole = _grid(panels, 3, "independent")
    return titled(report, whole, "F12  Inside the connections", f"Medians over seeds. {conditions(report)}")


def _panel(chart, title: str, point: str):
    return chart.properties(width=_WIDTH, height=_HEIGHT, title=alt.TitleParams(title, subtitle=point, fontSize=11))


def _grid(panels: list, columns: int, colours: Literal["independent", "shared"]) -> alt.VConcatChart:
    rows = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    return alt.vconcat(*(alt.hconcat(*row).resolve_scale(color=colours) for row in rows)).resolve_scale(color=colours)


Panel = tuple[pd.DataFrame, str, str, bool]


def _rows(report: SweepReport, panels: Sequence[Panel], title: str, x_title: str) -> alt.VConcatChart | None:
    """One row for each point; a panel is (values of runs, its x, its title, whether y is logarithmic)."""
    banded = [(_banded(frame, x, log), x, name, log) for frame, x, name, log in panels if not frame.empty]
    rows = []
    for point in report.sweep.points:
        drawn = []
        for frame, x, name, log in banded:
            part = frame[frame.point == point]
            if part.empty:
                continue
            over = alt.X(f"{x}:Q", title=x_title, axis=_WHOLE, scale=_log_steps(part) if x == "step" else alt.Scale())
            scale = alt.Scale(type="log", nice=False) if log else alt.Scale(zero=False)
            base = chart_of(part).encode(x=over, color=colour_of_arms(report))
            layers = [
                base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", scale=scale, title=None), y2="high:Q"),
                base.mark_line(point=alt.OverlayMarkDef(size=14)).encode(
                    y=alt.Y("middle:Q", scale=scale, title=None), strokeDash=dash_of_arms(report),
                    tooltip=["arm", "point", x, "low", "middle", "high", "seeds"],
                ),
            ]  # fmt: skip
            drawn.append(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=name))
        if drawn:
            rows.append(alt.hconcat(*drawn, title=alt.TitleParams(point, fontSize=12)))
    return titled(report, alt.vconcat(*rows), title, f"{_BANDS} {conditions(report)}") if rows else None


def _banded(frame: pd.DataFrame, x: str, log: bool) -> pd.DataFrame:
    shown = frame[np.isfinite(frame.value) & ((frame.value > 0) | (not log))]
    groups = shown.groupby(["arm", "point", x], sort=False).value
    return groups.agg(low="min", middle="median", high="max", seeds="count").reset_index()


def _of(report: SweepReport, metric: str) -> pd.DataFrame:
    """Of sites."""
    return report.layers[(report.layers.metric == metric) & report.layers.depth.notna()]


def _whole(report: SweepReport, metric: str) -> pd.DataFrame:
    return report.layers[(report.layers.metric == metric) & (report.layers.sublayer == "model")]


def _looked(frame: pd.DataFrame, when: str) -> pd.DataFrame:
    """Of each run the first look, the one nearest to step 100, or the last."""
    if frame.empty:
        return frame
    runs = frame.groupby(["arm", "point", "seed"]).step
    wanted = {"start": lambda s: s.min(), "100": lambda s: s.iloc[(s - 100).abs().argmin()], "end": lambda s: s.max()}
    return frame[frame.step == runs.transform(wanted[when])]


def _over_seeds(frame: pd.DataFrame, *keys: str) -> pd.DataFrame:
    finite = frame[np.isfinite(frame.value)]
    return finite.groupby(["arm", "point", *keys], as_index=False, sort=False).value.median()


def _cells(frame: pd.DataFrame) -> pd.DataFrame:
    """Each look lasts until the next, each site until the one above."""
    steps = sorted(frame.step.unique())
    ends = dict(zip(steps, [*steps[1:], 2 * steps[-1] - steps[-2] if len(steps) > 1 else steps[-1] + 1], strict=True))
    return frame.assign(until=frame.step.map(ends), above=frame.depth + 1)


def _log_steps(frame: pd.DataFrame) -> alt.Scale:
    """Logarithmic, and with a place for step 0."""
    later = frame.step[frame.step > frame.step.min()]
    return alt.Scale(type="symlog", constant=max(1, int(later.min())) if len(later) else 1, nice=False)
