"""Figures of what happens inside: loss, gradients, branches, updates, attention, over depth and over steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import altair as alt
import numpy as np
import pandas as pd

from ..stability.metrics import Metric, metric
from .charts import (
    ARM,
    Figure,
    Panel,
    crosses,
    finite,
    lines,
    log_steps,
    over_seeds,
    site_axis,
    stacked,
    styled,
    thinned,
)
from .maps import internals_maps, stream_maps
from .playing import playing
from .study import Study, number

EMA = 0.9
"""Of the training loss that is drawn thick."""
NOISE_SMOOTHING = 0.3
"""Of the trace and the signal of the gradient noise scale, apart: weight of the latest look."""
MOST_STEPS = 400
"""Of a curve over steps; more are thinned."""


def parted(
    study: Study,
    frame: pd.DataFrame,
    x: str,
    name: str,
    *,
    log: bool = False,
    log_x: bool = True,
    guides: Sequence[float] | None = None,
    title: str | None = None,
    parts: Sequence[str] = (),
) -> list[Panel]:
    """Lines over depth or step. Where the study has one arm, its parts (looks, thirds of the depth, worst and median)
    are the lines of one panel; where it has several, each part has its panel and the arms are the lines.

    Args:
        frame: of runs, with ``x`` and, if there is more than one, ``part``.
        name: in the glossary, which gives title, unit, guides and the healthy range.
        log: whether y is logarithmic to begin with; what is not positive is then left out.
        log_x: whether steps are.
    """
    entry = metric(name)
    if frame.empty:
        return []
    guides = entry.guides if guides is None else guides
    frame = frame if "part" in frame else frame.assign(part="")
    order = [part for part in parts if (frame.part == part).any()] or list(dict.fromkeys(frame.part))
    panels = []
    for point in [point for point in study.points if (frame.point == point).any()]:
        here = frame[frame.point == point]
        for chosen in [order] if study.single else [[part] for part in order]:
            part = here[here.part.isin(chosen)]
            keys = ["arm", "part", x, *(["site"] if x == "depth" else [])]
            rows = over_seeds(part, *keys).assign(point=point)
            if rows.empty or (log and not (rows.value > 0).any()):
                continue
            by = "part" if study.single and chosen != [""] else "arm"
            if x == "depth":
                over = alt.X("depth:Q", title="site, from the embedding up", axis=site_axis(rows))
            else:
                scale = log_steps(part.step) if log_x else alt.Scale(nice=False)
                over = alt.X("step:Q", title="optimiser step" + (" (log)" if log_x else ""), scale=scale)
            style = styled(by, chosen if by == "part" else study.arms, study.a_a_control)
            top = float(rows.value.max())
            near = [guide for guide in guides if guide < 20 * abs(top)]
            chart = lines(
                rows, over, entry.unit or entry.formula, style, log=log, guides=near, healthy=_healthy(entry, rows)
            )
            if (marks := crosses(part, over)) is not None:
                chart = stacked(chart, marks, height=chart.height)
            words = [entry.title if title is None else title, "" if by == "part" else chosen[0], point]
            panels.append(Panel(" · ".join(word for word in words if word), chart, None, point, log))
    return panels


def _healthy(entry: Metric, rows: pd.DataFrame) -> tuple[float, float] | None:
    """The healthy range as far as the drawn values reach; none where it has no edge among them."""
    if entry.healthy is None:
        return None
    low, high = float(rows.value.min()), float(rows.value.max())
    edges = [edge for edge in (entry.healthy.low, entry.healthy.high) if edge is not None]
    if not any(low <= edge <= high for edge in edges):
        return None
    ends = (entry.healthy.low, entry.healthy.high)
    return (low if ends[0] is None else ends[0], high if ends[1] is None else ends[1])


def explained(lead: str, *names: str) -> str:
    """How to read a figure: its marks, then what the glossary says of what it shows."""
    entries = [metric(name) for name in names]
    told = [f"{entry.title[0].upper()}{entry.title[1:]}: {entry.reading} ({entry.source}.)" for entry in entries]
    healthy = [f"Healthy, shaded: {e.title}, {e.healthy.source}." for e in entries if e.healthy is not None]
    return " ".join([lead, *told, *healthy])


def looks(frame: pd.DataFrame, middle: bool = True) -> pd.DataFrame:
    """Of each run the first look, the one nearest to step 100, and the last, with the ``part`` that says which."""
    if frame.empty:
        return frame.assign(part="")
    steps = frame.groupby(ARM, dropna=False).step
    first, last = steps.transform("min"), steps.transform("max")
    near = steps.transform(lambda s: s.iloc[(s - 100).abs().argmin()])
    found = [frame[frame.step == first].assign(part="start")]
    if middle:
        found.append(frame[(frame.step == near) & (near != first) & (near != last)].assign(part="about step 100"))
    found.append(frame[(frame.step == last) & (last != first)].assign(part="end"))
    return pd.concat(found)


LOOKS = ("end", "about step 100", "start")


def loss(study: Study) -> Figure:
    train = study.whole("train_loss").sort_values("step")
    lead = (
        f"Training loss of every step, averaged ({EMA}); of one arm, the thin line is the raw loss, ticks above are "
        "steps at which loss or gradient spiked. Dashed: the unigram entropy, which a model reaches that knows "
        "frequencies alone."
    )
    how = explained(lead, "val_loss", "unigram_entropy")
    figure = Figure("loss", "Loss over training", how, empty="no training loss was recorded")
    smooth = train.assign(
        value=train.groupby(ARM, dropna=False).value.transform(lambda s: s.ewm(alpha=1 - EMA).mean()),
        part="training, averaged",
    )
    held_out = [
        run.metrics[["step", "val_loss"]].dropna().rename(columns={"val_loss": "value"})
        .assign(arm=run.arm, point=run.point, seed=run.seed, learning_rate=run.learning_rate, part="held-out")
        for run in study.runs if {"step", "val_loss"} <= set(run.metrics)
    ]  # fmt: skip
    entropies = {number(run.summary.get("unigram_entropy")) for run in study.runs}
    guides = [value for value in entropies if value is not None]
    both = pd.concat([thinned(smooth, MOST_STEPS), *(part for part in held_out if len(part))])
    parts = ("training, averaged", "held-out")
    figure.panels = parted(study, both, "step", "train_loss", title="", log_x=False, guides=guides, parts=parts)
    if study.single and len(figure.panels) == 1:
        panel, x = figure.panels[0], alt.X("step:Q")
        raw = alt.Chart(thinned(train, MOST_STEPS)[["step", "value"]]).mark_line(
            strokeWidth=0.6, opacity=0.45, color="#767676"
        )
        layers = [raw.encode(x=x, y=alt.Y("value:Q", scale=alt.Scale(zero=False))), panel.chart]
        if events := study.spikes():
            ticks = alt.Chart(pd.DataFrame(events)).mark_tick(orient="vertical", thickness=2, size=10, color="#AA4466")
            layers.append(ticks.encode(x=x, y=alt.value(6), tooltip=["of:N", "step:Q", "seed:Q"]))
        panel.chart = stacked(*layers, height=panel.chart.height)
    return figure


def stream(study: Study) -> Figure:
    lead = (
        "Each cell is one site at one look: how large the stream is that leaves it. Solid lines: ten times the size at "
        "the first look; dashed: a hundred times. Orange: not finite. Calm is a colour that changes little from bottom "
        "to top and from left to right."
    )
    names = ("stream_growth_linear_r2", "stream_growth_exponential_r2")
    figure = Figure(
        "stream", "Size of the residual stream by depth, over training", explained(lead, "stream_rms", *names),
        stream_maps(study), empty="the stream was not looked at",
    )  # fmt: skip
    fits = study.whole(*names)
    kind = fits.metric.str.extract(r"growth_(\w+)_r2")[0]
    question = "does RMS² grow linearly or exponentially with depth?"
    figure.panels += parted(
        study, fits.assign(part=kind), "step", names[0], title=question, parts=("linear", "exponential")
    )
    return figure


def gradients(study: Study) -> Figure:
    lead = (
        "From left to right: from the embedding to the last site. A line that falls to the left vanishes on its way "
        "down, one that rises to the left explodes."
    )
    figure = Figure(
        "gradients",
        "Gradient that arrives at each depth",
        explained(lead, "stream_gradient_rms", "gradient_norm"),
        empty="no gradients were recorded",
    )
    at_stream = looks(study.of("stream_gradient_rms"))
    figure.panels = parted(study, at_stream, "depth", "stream_gradient_rms", log=True, parts=LOOKS)
    at_weights = looks(study.of("gradient_norm.down_proj"))
    title = "gradient of the MLP's output matrix"
    figure.panels += parted(study, at_weights, "depth", "gradient_norm", log=True, title=title, parts=LOOKS)
    if study.single:
        slopes = [
            f"{_slope(part):+.3f} at {name}"
            for name, part in finite(at_stream, log=True).groupby("part", sort=False)
            if part.depth.nunique() > 1
        ]
        figure.note = f"Slope of its logarithm over depth: {', '.join(slopes)}." if slopes else ""
    return figure


def branches(study: Study) -> Figure:
    lead = "At the first and at the last look."
    figure = Figure(
        "branches",
        "What each branch writes, against the stream it writes to",
        explained(lead, "branch_ratio", "branch_cosine"),
        empty="no branch outputs were recorded",
    )
    for name in ("branch_ratio", "branch_cosine"):
        frame, log = looks(study.of(name), middle=False), name == "branch_ratio"
        figure.panels += parted(study, frame, "depth", name, log=log, parts=("end", "start"))
    return figure


def updates(study: Study) -> Figure:
    figure = Figure(
        "updates",
        "How much each step changes the weights, and how far the model has moved",
        explained("By thirds of the depth.", "update_to_weight", "accumulated_update"),
        empty="no updates were recorded",
    )
    ratio = study.of("update_to_weight")
    thirds = ["lower third", "middle third", "upper third"]
    if not ratio.empty:
        top = ratio.groupby(["arm", "point"]).depth.transform("max")
        third = (3 * (ratio.depth - 1) // top.clip(lower=1)).clip(0, 2).astype(int)
        ratio = ratio.assign(part=[thirds[index] for index in third])
        ratio = ratio.groupby([*ARM, "part", "step"], as_index=False, dropna=False).value.median()
    figure.panels = parted(study, ratio, "step", "update_to_weight", log=True, parts=thirds)
    moved = study.whole("accumulated_update")
    figure.panels += parted(study, moved[moved.step > 0], "step", "accumulated_update", log=True)
    return figure


def learning(study: Study) -> Figure:
    figure = Figure(
        "learning",
        "Where something is learned, and how noisy the gradient is",
        explained("", "coordinate_weights", "coordinate_inputs", "gradient_snr", "gradient_noise_scale"),
        empty="neither changes of the outputs nor gradients of single sequences were recorded",
    )
    moved = study.frame[study.frame.metric.str.match(r"coordinate_(weights|inputs)\.") & study.frame.depth.notna()]
    if len(moved):
        moved = moved[moved.step == moved.groupby(ARM, dropna=False).step.transform("max")]
        labels = {"weights": "learned here", "inputs": "carried up"}
        cause = moved.metric.str.extract(r"coordinate_(weights|inputs)")[0].map(labels)
        keys = [*ARM, "part", "depth", "site"]
        moved = moved.assign(part=cause).groupby(keys, as_index=False, dropna=False).value.median()
    title = "change of the linear layers' outputs by the last look"
    figure.panels = parted(study, moved, "depth", "coordinate_weights", log=True, title=title)
    agreed = looks(study.of("gradient_snr"))
    figure.panels += parted(study, agreed, "depth", "gradient_snr", log=True, parts=LOOKS)
    scale = finite(noise_scale(study), log=True)
    if scale.step.nunique() > 1:
        figure.panels += parted(study, scale, "step", "gradient_noise_scale", log=True, log_x=False)
    elif len(study.whole("gradient_noise_trace")):
        figure.note = "Gradient noise scale: not drawn, the noise hides the signal at all looks but one at most."
    return figure


def noise_scale(study: Study) -> pd.DataFrame:
    """Exponential averages of trace and signal over the looks, then divided (McCandlish et al. 2018,
    arXiv:1812.06162); not positive where noise hides the signal."""
    parts = finite(study.whole("gradient_noise_trace", "gradient_noise_signal"))
    if parts.metric.nunique() < 2:
        return pd.DataFrame(columns=[*ARM, "step", "value"])
    wide = parts.pivot_table(index=[*ARM, "step"], columns="metric", values="value").sort_index()
    smooth = wide.groupby(level=ARM).transform(lambda s: s.ewm(alpha=NOISE_SMOOTHING).mean())
    value = smooth["gradient_noise_trace"] / smooth["gradient_noise_signal"]
    return value.rename("value").reset_index()


def attention(study: Study) -> Figure:
    figure = Figure(
        "attention",
        "Attention and logits",
        explained(
            "The worst layer and the median one.", "attention_entropy_share_min", "attention_logit_max", "log_z_max"
        ),
        empty="no attention was recorded",
    )
    for name, worst in (("attention_entropy_share_min", "min"), ("attention_logit_max", "max")):
        groups = study.of(name).groupby([*ARM, "step"], as_index=False, dropna=False).value
        both = pd.concat([groups.agg(worst).assign(part="worst layer"), groups.median().assign(part="median layer")])
        figure.panels += parted(study, both, "step", name, log=worst == "max", log_x=False)
    log_z = study.whole("log_z_mean", "log_z_max")
    log_z = log_z.assign(part=log_z.metric.map({"log_z_mean": "mean token", "log_z_max": "largest token"}))
    figure.panels += parted(study, log_z, "step", "log_z_max", title="log Z", log_x=False)
    return figure


def internals(study: Study) -> Figure:
    names = study.of(*[n for n in set(study.frame.metric) if n.startswith("internal.")]).metric
    parents = dict.fromkeys(metric(name.partition("[")[0]).reading for name in sorted(set(names)))
    panels, still = internals_maps(study)
    constant = f"One number at every site and step: {'; '.join(still)}" if still else ""
    return Figure(
        "internals",
        "Inside the connections: gates, scales and weights over depth",
        "Over depth and step, or, where a site has several, all of them at the last look. "
        + " ".join([*parents, f"{constant}." if constant else ""]),
        panels,
        empty=constant or "these connections have no parameters or gates of their own",
    )


FIGURES: tuple[Callable[[Study], Figure], ...] = (
    loss, stream, gradients, playing, branches, updates, learning, attention, internals,
)  # fmt: skip


def depth_figures(study: Study) -> list[Figure]:
    """All; those that the study has no data for are empty and say why."""
    return [draw(study) for draw in FIGURES]


def _slope(part: pd.DataFrame) -> float:
    return float(np.polyfit(part.depth, np.log(part.value), 1)[0])
