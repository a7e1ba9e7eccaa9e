"""Figures of a single run: the stream by depth over time, gradient flow, branches, updates, attention, internals."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLOURS
from .run_data import RunFiles

WIDTH, HEIGHT = 460, 240
FAILED = "#D55E00"
_WHOLE = alt.Axis(labelExpr="datum.value % 1 ? '' : format(datum.value, 'd')")

Chart = alt.TopLevelMixin


def loss_curve(run: RunFiles) -> Chart | None:
    """Every step's training loss, its average (0.9), held-out losses, and spikes where they began."""
    train = run.whole("train_loss")[["step", "value"]]
    if train.empty:
        return None
    smooth = train.assign(value=train.value.ewm(alpha=0.1).mean())
    x = alt.X("step:Q", title="optimiser step")
    y = alt.Y("value:Q", title="loss, nats per token", scale=alt.Scale(zero=False))
    layers = [
        alt.Chart(_finite(train)).mark_line(color="#999999", strokeWidth=0.6).encode(x=x, y=y),
        alt.Chart(_finite(smooth)).mark_line(color=COLOURS[0]).encode(x=x, y=y),
    ]
    if "val_loss" in run.metrics:
        held_out = run.metrics.dropna(subset=["val_loss"])[["step", "val_loss"]].rename(columns={"val_loss": "value"})
        layers.append(alt.Chart(held_out).mark_point(color=COLOURS[5], filled=True, size=50).encode(x=x, y=y))
    if entropy := run.summary.get("unigram_entropy"):
        line = alt.Chart(pd.DataFrame({"value": [entropy]})).mark_rule(strokeDash=[4, 3], color="#666666")
        layers.append(line.encode(y=y))
    spikes = run.summary.get("spikes", {})
    events = [{"step": e["step"], "of": of} for of in ("loss", "grad_norm") for e in spikes.get(of, [])]
    events += [{"step": step, "of": "not finite"} for step in spikes.get("not_finite", [])]
    if events:
        marks = alt.Chart(pd.DataFrame(events)).mark_tick(orient="vertical", thickness=2, size=14, yOffset=HEIGHT / 2)
        colour = alt.Color("of:N", title="spike of", scale=alt.Scale(range=[COLOURS[6], COLOURS[1], COLOURS[4]]))
        layers.append(marks.encode(x=x, y=alt.value(HEIGHT / 2 - 8), color=colour))
    title = ["Training loss (thin), its average (0.9), held-out loss (dots), unigram entropy (dashes)"]
    return _sized(alt.layer(*layers), title)


def stream_heatmap(run: RunFiles) -> Chart | None:
    """F3: the stream's RMS by depth over time; marked where it is above 10 and 100 times its start."""
    if not run.steps:  # only loss and gradient were watched
        return None
    frame = _cells(run.of("stream_rms"), run.steps)
    start = frame[frame.step == frame.step.min()].set_index("depth").value
    frame["times"] = frame.value / frame.depth.map(start)
    frame["log"] = np.log10(frame.value.where(frame.value > 0))
    frame["shown"] = [f"{value:.4g}" for value in frame.value]
    base = alt.Chart(_finite(frame, "log")).encode(
        x=alt.X("step:Q", scale=_log_steps(run.steps), title="optimiser step (log)"),
        x2="until:Q",
        y=alt.Y("depth:Q", scale=alt.Scale(nice=False), title="depth, sites from the embedding up", axis=_WHOLE),
        y2="above:Q",
    )
    cells = base.mark_rect().encode(
        color=alt.Color("log:Q", title="log10 RMS", scale=alt.Scale(scheme="viridis")),
        tooltip=["site:N", "step:Q", alt.Tooltip("shown:N", title="RMS"), alt.Tooltip("times:Q", title="x its start")],
    )
    marks = [
        base.transform_filter(f"datum.times >= {times}").mark_rect(fillOpacity=0, stroke=stroke, strokeWidth=1.2)
        for times, stroke in ((10, "white"), (100, FAILED))
    ]
    failed = alt.Chart(frame[~np.isfinite(frame.value)][["step", "until", "depth", "above"]])
    crossed = failed.mark_rect(color=FAILED).encode(x="step:Q", x2="until:Q", y="depth:Q", y2="above:Q")
    return _sized(
        alt.layer(cells, *marks, crossed),
        ["F3  RMS of the residual stream by depth over time", f"frame: 10 x (white), 100 x its start; {_growth(run)}"],
        height=max(HEIGHT, 4 * frame.depth.nunique()),
    )


def gradient_flow(run: RunFiles) -> Chart | None:
    """F4: gradient of the loss with respect to the stream and to the MLP's output matrix, at three times."""
    stream = _at_times(run, "stream_gradient_rms")
    weights = _at_times(run, "gradient_norm.down_proj")
    if stream.empty:
        return None
    slopes = ", ".join(
        f"{_slope(part):+.3f} at {step}" for step, part in stream[stream.value > 0].groupby("step") if len(part) > 1
    )
    left = _lines(stream, "depth", "depth, sites", "RMS of dL/dx").properties(
        title=["F4  gradient that arrives at the stream", f"slope of its log over depth: {slopes}"]
    )
    if weights.empty:
        return left
    right = _lines(weights, "layer", "layer", "norm of dL/dW (MLP out)").properties(title="of the MLP's output matrix")
    return left | right


def branches(run: RunFiles) -> Chart | None:
    """F6: branch-to-stream ratio and cosine of what a branch writes with the stream, first and last."""
    parts = []
    for metric, label in (("branch_ratio", "RMS(f) / RMS(x)"), ("branch_cosine", "cosine of f and x")):
        frame = _at_times(run, metric, ends_only=True)
        if not frame.empty:
            parts.append(_lines(frame, "depth", "depth, sites", label, log=metric == "branch_ratio"))
    return alt.hconcat(*parts, title="F6  what the branches write, against the stream they write to") if parts else None


def updates(run: RunFiles) -> Chart | None:
    """F8: update-to-weight ratio by thirds of the depth, and how far the model has moved from its start."""
    frame = run.of("update_to_weight")
    if frame.empty:
        return None
    third = pd.cut(frame.depth, 3, labels=["lower third", "middle third", "upper third"])
    frame = frame.assign(part=third.astype(str)).groupby(["step", "part"], as_index=False).value.median()
    x = alt.X("step:Q", scale=alt.Scale(type="log"), title="optimiser step (log)")
    y = alt.Y("value:Q", scale=alt.Scale(type="log"), title="update / weight")
    colour = alt.Color("part:N", title=None, scale=alt.Scale(range=[COLOURS[i] for i in (5, 1, 3)]))
    guide = alt.Chart(pd.DataFrame({"value": [1e-3]})).mark_rule(strokeDash=[4, 3], color="#666666").encode(y=y)
    lines = alt.Chart(_positive(frame)).mark_line(point=True).encode(x=x, y=y, color=colour)
    left = _sized(lines + guide, ["F8  update-to-weight ratio, median by depth", "dashes: 1e-3"])
    moved = run.whole("accumulated_update")
    moved = moved[moved.step > 0]
    right = alt.Chart(_positive(moved)).mark_line(point=True, color=COLOURS[0])
    return left | _sized(
        right.encode(x=x, y=alt.Y("value:Q", title="RMS of F(x; now) - F(x; start)")), ["accumulated model update"]
    )


def learning(run: RunFiles) -> Chart | None:
    """What moved the outputs of the linear layers by the last look, and how far sequences agree on the gradient."""
    parts = []
    moved = run.layers[run.layers.metric.str.match(r"coordinate_(weights|inputs)\.") & run.layers.depth.notna()]
    moved = moved[moved.step == moved.step.max()]
    if not moved.empty:
        labels = {"weights": "(W - W0) x, learned here", "inputs": "W0 (x - x0), carried up"}
        cause = moved.metric.str.extract(r"coordinate_(weights|inputs)")[0].map(labels)
        frame = moved.assign(cause=cause).groupby(["depth", "site", "cause"], as_index=False).value.median()
        colour = alt.Color("cause:N", title=None, scale=alt.Scale(range=[COLOURS[5], COLOURS[1]]))
        lines = _lines(frame, "depth", "depth, sites", "RMS, median of the site's matrices").encode(
            color=colour, tooltip=["site:N", "cause:N", "value:Q"]
        )
        parts.append(lines.properties(title=f"change of the linear layers' outputs by step {moved.step.max()}"))
    agreed = _at_times(run, "gradient_snr")
    if not agreed.empty:
        parts.append(_lines(agreed, "depth", "depth, sites", "SNR").properties(title="signal-to-noise of gradients"))
    return alt.hconcat(*parts) if parts else None


def attention_health(run: RunFiles) -> Chart | None:
    """F9: entropy of attention, largest logit, log Z."""
    entropy, logits = run.of("attention_entropy_share_min"), run.of("attention_logit_max")
    parts = []
    if not entropy.empty:
        parts.append(_worst(entropy, "min", "entropy / log(keys)", "F9  lowest head's attention entropy"))
    if not logits.empty:
        guides = [g for g in (1e3, 1e4) if g <= 10 * logits.value.max()]
        parts.append(_worst(logits, "max", "logit", "largest attention logit", guides))
    log_z = run.whole("log_z_mean", "log_z_max")
    if not log_z.empty:
        lines = alt.Chart(_finite(log_z)).mark_line(point=True)
        y = alt.Y("value:Q", title="nats", scale=alt.Scale(zero=False))
        parts.append(_sized(lines.encode(x="step:Q", y=y, strokeDash="metric:N"), ["log Z"], width=WIDTH // 2))
    return alt.hconcat(*parts) if parts else None


def internals(run: RunFiles) -> Chart | None:
    """F12: gates, scales, weights over depth and gains of stream mixing, each over depth and time."""
    inside = run.layers[run.layers.metric.str.startswith(("internal.", "mixing_gain.", "composite_gain."))]
    inside = inside[inside.depth.notna()]
    if inside.empty:
        return None
    name = inside.metric.str.replace(r"^internal\.", "", regex=True)
    listed = name.str.extract(r"^(?P<base>[^\[]+)\[(?P<index>[\d,]+)\]$")
    parts = []
    last = inside[(inside.step == inside.step.max()) & listed.base.notna()]
    for base, frame in last.groupby(listed.base):
        frame = _finite(frame.assign(index=listed["index"]))
        cells = (
            alt.Chart(frame)
            .mark_rect()
            .encode(
                x=alt.X("index:O", sort=list(dict.fromkeys(frame["index"])), title="entry"),
                y=alt.Y("site:O", sort=alt.EncodingSortField("depth", order="descending"), title=None),
                color=alt.Color("value:Q", title=None, scale=alt.Scale(scheme="purpleorange", domainMid=0)),
                tooltip=["site:N", "index:N", "value:Q"],
            )
        )
        parts.append(cells.properties(title=f"F12  {base} at the last look").resolve_scale(color="independent"))
    single = inside[listed.base.isna()].assign(name=name)
    single = single[~single.name.str.endswith((".std", ".min", ".max"))]
    for one, frame in single.groupby("name"):
        heat = _cells(frame, run.steps)
        cells = alt.Chart(_finite(heat)).mark_rect().encode(
            x=alt.X("step:Q", scale=_log_steps(run.steps), title="optimiser step (log)"), x2="until:Q",
            y=alt.Y("depth:Q", title="depth, sites", scale=alt.Scale(nice=False), axis=_WHOLE), y2="above:Q",
            color=alt.Color("value:Q", title=None, scale=alt.Scale(scheme="viridis")),
            tooltip=["site:N", "step:Q", "value:Q"],
        )  # fmt: skip
        parts.append(cells.properties(width=WIDTH // 2, height=HEIGHT // 2, title=f"F12  {one}"))
    return alt.concat(*parts, columns=2).resolve_scale(color="independent") if parts else None


FIGURES: dict[str, Callable[[RunFiles], Chart | None]] = {
    "loss": loss_curve,
    "stream_rms": stream_heatmap,
    "gradient_flow": gradient_flow,
    "branches": branches,
    "updates": updates,
    "learning": learning,
    "attention": attention_health,
    "internals": internals,
}


def figures(run: RunFiles) -> dict[str, Chart]:
    """Those that the run has data for."""
    found = {name: draw(run) for name, draw in FIGURES.items()}
    return {name: chart for name, chart in found.items() if chart is not None}


def _sized(chart, title: list[str], width: int = WIDTH, height: int = HEIGHT):
    return chart.properties(width=width, height=height, title=alt.TitleParams(title, anchor="start"))


def _finite(frame: pd.DataFrame, column: str = "value") -> pd.DataFrame:
    return frame[np.isfinite(frame[column].astype(float))]


def _positive(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[np.isfinite(frame.value) & (frame.value > 0)]


def _log_steps(steps: list[int]) -> alt.Scale:
    """Logarithmic, and with a place for step 0."""
    return alt.Scale(type="symlog", constant=max(1, steps[1] - steps[0] if len(steps) > 1 else 1), nice=False)


def _cells(frame: pd.DataFrame, steps: list[int]) -> pd.DataFrame:
    """Each look lasts until the next, each site until the one above."""
    ends = dict(zip(steps, [*steps[1:], steps[-1] + (steps[-1] - steps[-2] if len(steps) > 1 else 1)], strict=True))
    return frame.assign(until=frame.step.map(ends), above=frame.depth + 1)


def _at_times(run: RunFiles, metric: str, ends_only: bool = False) -> pd.DataFrame:
    """At the first look, the one nearest to step 100, and the last."""
    frame = run.of(metric)
    if frame.empty:
        return frame
    steps = sorted(frame.step.unique())
    chosen = {steps[0], steps[-1]} | (set() if ends_only else {min(steps, key=lambda step: abs(step - 100))})
    return frame[frame.step.isin(chosen)]


def _lines(frame: pd.DataFrame, x: str, x_title: str, y_title: str, log: bool = True) -> alt.Chart:
    y = alt.Y("value:Q", title=y_title, scale=alt.Scale(type="log") if log else alt.Scale(zero=False))
    shown = _positive(frame) if log else _finite(frame)
    return (
        alt.Chart(shown)
        .mark_line(point=True)
        .encode(
            x=alt.X(f"{x}:Q", title=x_title, axis=_WHOLE),
            y=y,
            color=alt.Color("step:O", title="step", scale=alt.Scale(range=[COLOURS[i] for i in (2, 1, 0)])),
            tooltip=["site:N", "step:Q", "value:Q"],
        )
        .properties(width=WIDTH, height=HEIGHT)
    )


def _worst(frame: pd.DataFrame, how: str, y_title: str, title: str, guides: list[float] | None = None):
    by = frame.groupby("step").value
    both = pd.concat([by.agg(how).rename("value").reset_index().assign(layer="worst layer"),
                      by.median().rename("value").reset_index().assign(layer="median layer")])  # fmt: skip
    y = alt.Y("value:Q", title=y_title)
    colour = alt.Color("layer:N", title=None, scale=alt.Scale(range=[COLOURS[5], COLOURS[6]]))
    lines = alt.Chart(_finite(both)).mark_line(point=True).encode(x="step:Q", y=y, color=colour)
    rules = [alt.Chart(pd.DataFrame({"value": [g]})).mark_rule(strokeDash=[4, 3]).encode(y=y) for g in guides or []]
    return _sized(alt.layer(lines, *rules), [title], width=WIDTH // 2)


def _slope(part: pd.DataFrame) -> float:
    return float(np.polyfit(part.depth, np.log(part.value), 1)[0])


def _growth(run: RunFiles) -> str:
    """How well the last look's squared RMS grows linearly, and exponentially, with depth (R squared)."""
    frame = run.of("stream_rms")
    last = frame[frame.step == frame.step.max()].sort_values("depth")
    square = last.value.to_numpy() ** 2
    if len(square) < 3 or not np.isfinite(square).all() or not (square > 0).all() or square.std() == 0:
        return "no fit over depth"
    fits = []
    for values in (square, np.log(square)):
        fitted = np.polyval(np.polyfit(last.depth, values, 1), last.depth)
        fits.append(1 - ((values - fitted) ** 2).sum() / ((values - values.mean()) ** 2).sum())
    return f"at the end RMS^2 linear in depth R2 {fits[0]:.2f}, exponential R2 {fits[1]:.2f}"
