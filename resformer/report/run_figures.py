"""Figures of a single run: the stream by depth over time, gradient flow, branches, updates, attention, internals."""

from __future__ import annotations

from collections.abc import Callable

import altair as alt
import numpy as np
import pandas as pd

from .charts import COLOURS
from .run_charts import (
    GUIDE,
    HEIGHT,
    WHOLE_NUMBERS,
    WIDTH,
    Chart,
    aggregated,
    at_times,
    banded,
    finite,
    over_depth,
    positive,
    sized,
    styled,
)
from .run_data import RunFiles
from .run_heatmaps import internals, stream_heatmap

NOISE_SMOOTHING = 0.3
"""Of the trace and the signal of the gradient noise scale, apart: weight of the latest look."""
FIRST = 200
"""Steps in which post-norm's function runs away, if it does."""


def loss_curve(run: RunFiles) -> Chart | None:
    """Every step's training loss, its average (0.9), held-out losses, and spikes where they began."""
    train = run.whole("train_loss")
    if train.empty:
        return None
    smooth = train.sort_values("step")
    smooth = smooth.assign(value=smooth.value.ewm(alpha=0.1).mean())
    x = alt.X("step:Q", title="optimiser step")
    y = alt.Y("value:Q", title="loss, nats per token", scale=alt.Scale(zero=False))
    layers = [
        alt.Chart(finite(train)[["step", "value"]]).mark_line(color="#999999", strokeWidth=0.6).encode(x=x, y=y),
        alt.Chart(finite(smooth)[["step", "value"]]).mark_line(color=COLOURS[0]).encode(x=x, y=y),
    ]
    if "val_loss" in run.metrics:
        held_out = run.metrics.dropna(subset=["val_loss"])[["step", "val_loss"]].rename(columns={"val_loss": "value"})
        layers.append(alt.Chart(held_out).mark_point(color=COLOURS[5], filled=True, size=50).encode(x=x, y=y))
    if entropy := run.summary.get("unigram_entropy"):
        line = alt.Chart(pd.DataFrame({"value": [entropy]})).mark_rule(strokeDash=[4, 3], color=GUIDE)
        layers.append(line.encode(y=y))
    spikes = run.summary.get("spikes", {})
    events = [{"step": e["step"], "of": of} for of in ("loss", "grad_norm") for e in spikes.get(of, [])]
    events += [{"step": step, "of": "not finite"} for step in spikes.get("not_finite", [])]
    if events:
        marks = alt.Chart(pd.DataFrame(events)).mark_tick(orient="vertical", thickness=2, size=14, yOffset=HEIGHT / 2)
        colour = alt.Color("of:N", title="spike of", scale=alt.Scale(range=[COLOURS[6], COLOURS[1], COLOURS[4]]))
        layers.append(marks.encode(x=x, y=alt.value(HEIGHT / 2 - 8), color=colour))
    title = ["Training loss (thin), its average (0.9), held-out loss (dots), unigram entropy (dashes)"]
    return sized(alt.layer(*layers), title)


def gradient_flow(run: RunFiles) -> Chart | None:
    """F4: gradient of the loss with respect to the stream and to the MLP's output matrix, at three times."""
    stream = at_times(run, "stream_gradient_rms")
    weights = at_times(run, "gradient_norm.down_proj")
    if stream.empty:
        return None
    slopes = ", ".join(
        f"{_slope(part):+.3f} at {step}" for step, part in positive(stream).groupby("step") if len(part) > 1
    )
    left = over_depth(stream, "depth", "depth, sites", "RMS of dL/dx")
    left = sized(left, ["F4  gradient that arrives at the stream", f"slope of its log over depth: {slopes}"])
    if weights.empty:
        return left
    right = over_depth(weights, "layer", "layer", "norm of dL/dW (MLP out)")
    ratios = run.whole("gradient_first_last_ratio")
    ratios = ratios[ratios.step.isin(weights.step)]
    shown = ", ".join(f"{row.value:.2g} at {row.step}" for row in ratios.itertuples())
    title = ["of the MLP's output matrix"] + ([f"first block's over the last one's: {shown}"] if shown else [])
    return left | sized(right, title)


def branches(run: RunFiles) -> Chart | None:
    """F6: branch-to-stream ratio and cosine of what a branch writes with the stream, first and last."""
    parts = []
    for metric, label in (("branch_ratio", "RMS(f) / RMS(x)"), ("branch_cosine", "cosine of f and x")):
        frame = at_times(run, metric, ends_only=True)
        if not frame.empty:
            parts.append(over_depth(frame, "depth", "depth, sites", label, log=metric == "branch_ratio"))
    return alt.hconcat(*parts, title="F6  what the branches write, against the stream they write to") if parts else None


def updates(run: RunFiles) -> Chart | None:
    """F8: update-to-weight ratio by thirds of the depth, and how far the model has moved from its start."""
    frame = run.of("update_to_weight")
    if frame.empty:
        return None
    thirds = ["lower third", "middle third", "upper third"]
    frame = frame.assign(part=pd.cut(frame.depth, 3, labels=thirds).astype(str))
    x = alt.X("step:Q", scale=alt.Scale(type="log", nice=False), title="optimiser step (log)")
    y = alt.Y("value:Q", title="update / weight")
    guide = alt.Chart(pd.DataFrame({"value": [1e-3]})).mark_rule(strokeDash=[4, 3], color=GUIDE).encode(y=y)
    lines = banded(aggregated(frame, ["step", "part"]), x, y, log=True, **styled("part:N", thirds, [5, 1, 3]))
    left = sized(lines + guide, ["F8  update-to-weight ratio, median by depth", "dashes: 1e-3"])
    parts: list = [left]
    moved = run.whole("accumulated_update")
    moved = positive(moved[moved.step > 0])
    title = alt.Y("value:Q", title="RMS of F(x; now) - F(x; start)")
    if not moved.empty:
        parts.append(sized(banded(moved, x, title, color=alt.value(COLOURS[0])), ["accumulated model update"]))
    if not moved.empty and moved.step.min() <= FIRST < moved.step.max():
        early = alt.X("step:Q", title="optimiser step", scale=alt.Scale(domain=[0, FIRST]))
        lines = banded(moved[moved.step <= FIRST], early, title, color=alt.value(COLOURS[0]))
        parts.append(sized(lines, [f"its first {FIRST} steps"], width=WIDTH // 2))
    return alt.hconcat(*parts)


def learning(run: RunFiles) -> Chart | None:
    """What moved the outputs of the linear layers by the last look, and how far sequences agree on the gradient."""
    parts: list = []
    moved = run.layers[run.layers.metric.str.match(r"coordinate_(weights|inputs)\.") & run.layers.depth.notna()]
    moved = moved[moved.step == moved.step.max()]
    if not moved.empty:
        labels = {"weights": "(W - W0) x, learned here", "inputs": "W0 (x - x0), carried up"}
        cause = moved.metric.str.extract(r"coordinate_(weights|inputs)")[0].map(labels)
        lines = banded(
            aggregated(moved.assign(cause=cause), ["depth", "site", "cause"]),
            x=alt.X("depth:Q", title="depth, sites", axis=WHOLE_NUMBERS),
            y=alt.Y("value:Q", title="RMS, median of the site's matrices"),
            log=True,
            tooltip=["site:N", "cause:N", "value:Q"],
            **styled("cause:N", list(labels.values()), [5, 1]),
        )
        parts.append(sized(lines, [f"change of the linear layers' outputs by step {moved.step.max()}"]))
    agreed = at_times(run, "gradient_snr")
    if not agreed.empty:
        parts.append(sized(over_depth(agreed, "depth", "depth, sites", "SNR"), ["signal-to-noise of gradients"]))
    scale = noise_scale(run)
    if not scale.empty:
        lines = alt.Chart(positive(scale)).mark_line(point=True, color=COLOURS[0])
        y = alt.Y("value:Q", title="sequences", scale=alt.Scale(type="log"))
        title = ["gradient noise scale", f"EMA ({1 - NOISE_SMOOTHING:g}) of trace and signal, then divided"]
        x = alt.X("step:Q", title="optimiser step", scale=alt.Scale(domain=[0, int(scale.step.max())]))
        parts.append(sized(lines.encode(x=x, y=y), title, width=WIDTH // 2))
    if not parts:
        return None
    return alt.concat(*parts, columns=2).resolve_scale(color="independent", strokeDash="independent")


def noise_scale(run: RunFiles) -> pd.DataFrame:
    """``step, value``: exponential averages of trace and signal over the looks, then divided (McCandlish et al. 2018,
    arXiv:1812.06162); not positive where noise hides the signal."""
    parts = run.whole("gradient_noise_trace", "gradient_noise_signal")
    parts = finite(parts).pivot_table(index="step", columns="metric", values="value")
    if len(parts.columns) < 2:
        return pd.DataFrame(columns=["step", "value"])
    smooth = parts.ewm(alpha=NOISE_SMOOTHING).mean()
    value = smooth["gradient_noise_trace"] / smooth["gradient_noise_signal"]
    return value.rename("value").reset_index()


def attention_health(run: RunFiles) -> Chart | None:
    """F9: entropy of attention, largest logit, log Z."""
    entropy, logits = run.of("attention_entropy_share_min"), run.of("attention_logit_max")
    parts: list = []
    if not entropy.empty:
        parts.append(_worst(entropy, "min", "entropy / log(keys)", ["F9  lowest head's attention entropy"]))
    if not logits.empty:
        title = ["largest attention logit (log)", "dashes: 1e3, 1e4"]
        parts.append(_worst(logits, "max", "logit", title, guides=[1e3, 1e4], log=True))
    log_z = run.whole("log_z_mean", "log_z_max")
    if not log_z.empty:
        y = alt.Y("value:Q", title="nats", scale=alt.Scale(zero=False))
        log_z = log_z.assign(of=log_z.metric.map({"log_z_mean": "mean", "log_z_max": "largest"}))
        x = alt.X("step:Q", title="optimiser step")
        lines = banded(log_z, x, y, **styled("of:N", ["largest", "mean"], [6, 5], "log Z"))
        parts.append(sized(lines, ["log Z"], width=WIDTH // 2))
    return alt.hconcat(*parts).resolve_scale(color="independent", strokeDash="independent") if parts else None


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


def _worst(frame: pd.DataFrame, how: str, y_title: str, title: list[str], guides=(), log: bool = False) -> Chart:
    names = ["worst layer", "median layer"]
    both = pd.concat([aggregated(frame, ["step"], way).assign(layer=name)
                      for name, way in zip(names, (how, "median"), strict=True)])  # fmt: skip
    y = alt.Y("value:Q", title=y_title)
    x = alt.X("step:Q", title="optimiser step")
    lines = banded(both, x, y, log=log, **styled("layer:N", names, [6, 5]))
    rules = [alt.Chart(pd.DataFrame({"value": [g]})).mark_rule(strokeDash=[4, 3], color=GUIDE).encode(y=y)
             for g in guides]  # fmt: skip
    return sized(alt.layer(lines, *rules), title, width=WIDTH // 2)


def _slope(part: pd.DataFrame) -> float:
    return float(np.polyfit(part.depth, np.log(part.value), 1)[0])
