"""Figures of a sweep's outcome: differences, stability, loss over learning rates, the ladder, cost, spikes."""

from __future__ import annotations

from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from ..stability.endstate import FAILED as ENDED_BADLY
from ..sweeps.inference import clopper_pearson, t_estimate
from .charts import (
    COLOURS,
    FAILED,
    GUIDE,
    HEIGHT,
    Figure,
    Panel,
    heights_of_labels,
    lit,
    rounded,
    shown,
    stacked,
    styled,
)
from .study import MOST_TOGETHER
from .sweep import SweepStudy

VERDICTS = {"better": 8, "equivalent": 9, "worse": 1, "unresolved": 0, "baseline": 0}
"""Each verdict's colour; the verdict stands beside its interval as a word too."""


def outcome_figures(study: SweepStudy) -> list[Figure]:
    """All; those that the sweep has nothing for are empty and say why."""
    return [
        forest(study), stability(study), cost(study), loss_over_learning_rate(study), ladder(study), spikes(study)
    ]  # fmt: skip


def _style(study: SweepStudy) -> dict[str, Any]:
    return styled("arm", study.arms, study.a_a_control)


def _points(study: SweepStudy, frame: pd.DataFrame) -> list[str]:
    return [point for point in study.points if (frame.point == point).any()] if len(frame) else []


def _rates(runs: pd.DataFrame) -> alt.X:
    """With a tick at each rate of the grid; best rates lie between them."""
    axis = alt.Axis(values=sorted(set(runs[runs.role == "tuning"].learning_rate)), format="~e", labelOverlap="greedy")
    scale = alt.Scale(type="log", padding=14, nice=False)
    return alt.X("learning_rate:Q", scale=scale, title="peak learning rate", axis=axis)


def forest(study: SweepStudy) -> Figure:
    margin = study.sweep.config.statistics.margin
    figure = Figure(
        "forest",
        f"Difference of held-out loss from {study.baseline}, each arm at its own best rate",
        f"Left of the line is better than {study.baseline}. Bars: 95 % intervals of the paired difference over seeds, "
        "where there are three pairs or more; the best stands highest. "
        f"Shaded: the margin of {margin:g} nats that was declared too small to matter. The word is the verdict, which "
        "asks more than the interval alone: controls, the other arm's rate, and all comparisons together.",
        empty="no arm has a reporting run beside the baseline's yet",
        columns=2,
    )
    told = ["arm", "verdict", "reason", "difference", "difference_low", "difference_high", "p_adjusted", "detectable"]
    table = study.verdicts
    table = table[(table.runs > 0) & (table.arm != study.baseline)] if len(table) else table
    order = [*study.by_merit(), *study.arms]
    for point in _points(study, table):
        rows = table[table.point == point][["point", "failed", "runs", *told]]
        rows = rounded(rows.astype(dict.fromkeys(("difference", "difference_low", "difference_high"), float)))
        known = rows[np.isfinite(rows.difference)]
        if known.empty:
            continue
        rows = rows.assign(why=[f"no sound run: {row.failed} of {row.runs} ended badly" if row.failed == row.runs
                                else "no sound run beside the baseline's" for row in rows.itertuples()])  # fmt: skip
        sort = [arm for arm in dict.fromkeys(order) if (rows.arm == arm).any()]
        few_arms = len(sort) <= MOST_TOGETHER
        y = alt.Y("arm:N", sort=sort, title=None, axis=alt.Axis(labelLimit=150))
        x = alt.X("difference:Q", title="nats per token; left is better")
        names = [name for name in VERDICTS if (rows.verdict == name).any()]
        hues = alt.Scale(domain=names, range=[COLOURS[VERDICTS[name]] for name in names])
        colour = alt.Color("verdict:N", scale=hues, legend=None)
        band = alt.Chart(pd.DataFrame([{"low": -margin, "high": margin}])).mark_rect(color=GUIDE, opacity=0.12)
        zero = alt.Chart(pd.DataFrame([{"zero": 0}])).mark_rule(color=GUIDE)
        spread, opacity = known.dropna(subset=["difference_low"]), lit(rows, crowded=False)
        # Of many arms, the word is said only of what is decided.
        worded = known if few_arms else known[known.verdict != "unresolved"]
        layers = [band.encode(x=alt.X("low:Q"), x2="high:Q"), zero.encode(x="zero:Q")]
        if len(spread):
            bars = shown(spread).mark_rule(strokeWidth=2.5)
            layers.append(bars.encode(y=y, x=alt.X("difference_low:Q"), x2="difference_high:Q", color=colour,
                                      opacity=opacity))  # fmt: skip
        dots = shown(known).mark_point(filled=True, size=70, opacity=1)
        layers.append(dots.encode(y=y, x=x, color=colour, opacity=opacity, tooltip=told))
        layers.append(shown(worded).mark_text(dy=-9, fontSize=11).encode(y=y, x=x, text="verdict:N", opacity=opacity))
        if len(gone := rows[~np.isfinite(rows.difference)]):
            marks = shown(gone).mark_text(fontSize=11, color=FAILED, align="right").encode(y=y, text="why:N")
            layers.append(marks.encode(x=alt.value("width"), opacity=opacity, tooltip=["arm", "why", "reason"]))
        figure.panels.append(Panel(point, stacked(*layers, height=(36 if few_arms else 18) * len(rows)), None, point))
    return figure


def stability(study: SweepStudy) -> Figure:
    figure = Figure(
        "stability",
        "Chance that a run ends badly, over the learning rate",
        "Share of all finished runs at that rate that ended degraded, stuck or diverged, with exact 95 % intervals: "
        "after none of 3 the true chance may still be 71 %. An arm whose line stays at 0 further to the right stands "
        "higher rates.",
        empty="no run is finished yet",
    )
    runs = study.table_of_runs
    if runs.empty:
        return figure
    lines = []
    for (arm, point, rate), cell in runs.groupby(["arm", "point", "learning_rate"], sort=False):
        bad, number = int(cell.bad.sum()), len(cell)
        lines.append((arm, point, rate, bad / number, *clopper_pearson(bad, number), f"{bad} of {number}"))
    frame = pd.DataFrame(lines, columns=["arm", "point", "learning_rate", "value", "low", "high", "bad"])
    x, style = _rates(runs), _style(study)
    y = alt.Y("value:Q", title="share of runs", scale=alt.Scale(domain=[0, 1]), axis=alt.Axis(format="%"))
    for point in _points(study, frame):
        rows = rounded(frame[frame.point == point])
        # Arms that lie on each other are set apart by a little of the rate.
        place = rows.arm.map({arm: i for i, arm in enumerate(study.arms)}) - (len(study.arms) - 1) / 2
        rows = rows.assign(learning_rate=rows.learning_rate * 10 ** (0.12 * place / max(1, len(study.arms))))
        told = ["arm", "bad", alt.Tooltip("learning_rate:Q", format=".2e"), "low", "high"]
        base = shown(rows).encode(x=x, color=style["color"], opacity=lit(rows))
        layers = [
            base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q"), y2="high:Q", opacity=lit(rows, 0.5)),
            base.mark_line(point=True).encode(y=y, strokeDash=style["strokeDash"], tooltip=told),
        ]
        figure.panels.append(Panel(point, stacked(*layers, height=HEIGHT), None, point))
    return figure


def loss_over_learning_rate(study: SweepStudy) -> Figure:
    figure = Figure(
        "loss-over-learning-rate",
        "Held-out loss over the learning rate",
        "Lines: means over the seeds that ran at every rate, bands from the smallest to the largest (from five seeds "
        "on, 95 % t intervals). Dots: every run. Crosses: runs that got stuck or diverged, of all at that rate; losses "
        "are clipped at the loss before training (upper dashed line; lower one: unigram entropy). The mean height of a "
        "line above its lowest place is its sensitivity S.",
        empty="no run is finished yet",
    )
    runs = study.table_of_runs
    if runs.empty:
        return figure
    curve, failures, style = _curve(runs), _failures(runs), _style(study)
    entropy = study.numbers("unigram_entropy")
    x = _rates(runs)
    y = alt.Y("value:Q", scale=alt.Scale(zero=False), title="nats per token, clipped")
    runs = runs.assign(value=runs.loss)
    for point in _points(study, runs):
        mine, dots, crosses = (rounded(frame[frame.point == point]) for frame in (curve, runs, failures))
        levels = [float(dots.initial_loss.mean()), *([float(np.mean(entropy))] if entropy else [])]
        rules = alt.Chart(pd.DataFrame({"value": levels})).mark_rule(strokeDash=[4, 4], color=GUIDE).encode(y=y)
        base = shown(mine).encode(x=x, color=style["color"])
        dots = dots[["arm", "point", "learning_rate", "seed", "role", "end_state", "value", "val_loss", "folder"]]
        layers = [
            base.mark_area().encode(y=alt.Y("low:Q"), y2="high:Q", opacity=lit(mine, 0.15)),
            base.mark_line().encode(y=y, strokeDash=style["strokeDash"], opacity=lit(mine)),
            shown(dots).mark_point(size=22).encode(
                x=x, y=y, color=style["color"], opacity=lit(dots, 0.8), tooltip=[c for c in dots if c != "value"]
            ),
            shown(crosses).mark_text(dy=-9, fontWeight="bold").encode(
                x=x, y=y, color=style["color"], opacity=lit(crosses), text="text:N", tooltip=["arm", "text"]
            ),
            rules,
        ]  # fmt: skip
        figure.panels.append(Panel(point, stacked(*layers, height=240), None, point))
    return figure


def cost(study: SweepStudy) -> Figure:
    how = "taken in turn with the baseline's" if study.steps else "of each arm's fastest run"
    figure = Figure(
        "cost",
        "What a step costs, against the loss it buys",
        f"Down is better, left is cheaper. Bars: 95 % t intervals over seeds. Step times were {how}.",
        empty="no step was timed yet",
    )
    table = study.verdicts
    table = table.dropna(subset=["step_seconds"]) if len(table) else table
    for point in _points(study, table):
        rows = table[table.point == point]
        rows = rounded(rows.assign(milliseconds=1000 * rows.step_seconds.astype(float), value=rows.loss))
        rows = rows[["arm", "point", "value", "loss_low", "loss_high", "milliseconds", "step_ratio", "verdict"]]
        x = alt.X("milliseconds:Q", title="milliseconds a step", scale=alt.Scale(zero=False, padding=40))
        y = alt.Y("value:Q", title="nats per token", scale=alt.Scale(zero=False, padding=14))
        base = shown(rows).encode(x=x, color=_style(study)["color"], opacity=lit(rows, pale=0.35))
        layers = [
            base.mark_rule().encode(y=alt.Y("loss_low:Q"), y2="loss_high:Q"),
            base.mark_point(size=80, filled=True, opacity=1).encode(y=y, tooltip=list(rows)),
        ]
        heights = heights_of_labels(rows.milliseconds, rows.value, rows.arm)
        for dy in sorted(set(heights)):
            named = shown(rows[heights == dy]).mark_text(dy=dy, fontSize=11)
            layers.append(named.encode(x=x, y=y, text="arm:N", opacity=lit(rows, pale=0)))
        figure.panels.append(Panel(point, stacked(*layers, height=240), None, point))
    return figure


def ladder(study: SweepStudy) -> Figure:
    name = (study.depth or "depth").rpartition(".")[2]
    figure = Figure(
        "ladder",
        f"How it changes with {name}",
        "Best held-out loss, with the half width of the 95 % interval of the paired difference from the baseline; "
        "learning-rate sensitivity S (the smaller, the less the rate matters); the multiple of the "
        "best rate, or the common rate, up to which the median seed trains.",
        empty="the grid has no numeric key with several values",
    )
    table = study.verdicts
    if study.depth is None or table.empty:
        return figure
    table = table.assign(depth=[study.sweep.points[point][study.depth] for point in table.point])
    half = (table.difference_high.astype(float) - table.difference_low.astype(float)) / 2
    style = _style(study)
    axis = alt.Axis(values=sorted(set(table.depth)))
    x = alt.X("depth:Q", scale=alt.Scale(type="log", base=2, padding=14), title=name, axis=axis)
    for column, title in (("loss", "best held-out loss, nats per token"), ("S", "sensitivity S, nats"),
                          ("trains_to", "trains up to")):  # fmt: skip
        rows = table[["arm", "depth", "verdict"]].assign(value=table[column].astype(float))
        rows = rows.assign(low=rows.value - half, high=rows.value + half).dropna(subset=["value"])
        if rows.empty:
            continue
        y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=column != "loss"))
        base = shown(rounded(rows)).encode(x=x, color=style["color"], opacity=lit(rows))
        layers = [base.mark_line(point=True).encode(y=y, strokeDash=style["strokeDash"], tooltip=list(rows))]
        if column == "loss":
            layers.append(base.transform_filter("isValid(datum.low)").mark_rule().encode(y=alt.Y("low:Q"), y2="high:Q"))
        figure.panels.append(Panel(title, stacked(*layers, height=HEIGHT)))
    return figure


def spikes(study: SweepStudy) -> Figure:
    figure = Figure(
        "spikes",
        "Where runs spiked or failed",
        "One row for each reporting run, at its arm's best rate, that spiked or failed. Dark ticks: spikes of the "
        "loss; pale: of the gradient's norm; cross: where it failed. Grey: share of steps whose gradient was clipped.",
        empty="no reporting run counted a spike or failed",
        columns=1,
    )
    runs = study.timelines
    if runs.empty or not runs.counted.any():
        figure.empty = "no run counted spikes yet"
        return figure
    failed = runs.end_state.isin(ENDED_BADLY)
    eventful = runs[failed | (runs.loss.map(len) > 0) | (runs.gradient.map(len) > 0)]
    calm = len(runs) - len(eventful)
    figure.note = f"{calm} of {len(runs)} runs had neither a spike nor a failure and have no row." if calm else ""
    for point in _points(study, eventful):
        rows = eventful[eventful.point == point]
        rows = rows.assign(start=0, run=[f"{arm}, seed {seed}" for arm, seed in zip(rows.arm, rows.seed, strict=True)])
        events = [
            {"arm": row.arm, "run": row.run, "of": of, "step": event.get("step"), "amplitude": event.get("amplitude")}
            for row in rows.itertuples()
            for of in ("loss", "gradient")
            for event in getattr(row, of)
            if isinstance(event, dict)
        ]
        y = alt.Y("run:N", title=None, sort=None, axis=alt.Axis(labelLimit=170))
        bars = shown(rows[["arm", "run", "start", "steps", "clip_rate", "end_state", "divergence_step"]])
        grey = alt.Scale(range=["#E4E4E4", "#8A8A8A"], domain=[0, 1])
        legend = alt.Legend(format="%", gradientLength=120)
        layers = [
            bars.mark_bar(height=11).encode(
                y=y, x=alt.X("start:Q", title="optimiser step"), x2="steps:Q",
                tooltip=["run", "end_state", "clip_rate"],
                color=alt.Color("clip_rate:Q", scale=grey, title="share of steps clipped", legend=legend),
            )
        ]  # fmt: skip
        if events:
            opacity = alt.Scale(domain=["loss", "gradient"], range=[1, 0.5])
            hue = alt.Scale(domain=["loss", "gradient"], range=["#AA4466", "#4477AA"])
            layers.append(
                shown(pd.DataFrame(events)).mark_tick(thickness=2.5, size=12).encode(
                    y=y, x="step:Q", opacity=alt.Opacity("of:N", scale=opacity, legend=None),
                    color=alt.Color("of:N", scale=hue, title="spike of"), tooltip=["run", "of", "step", "amplitude"],
                )
            )  # fmt: skip
        ends = bars.transform_filter("datum.end_state == 'stuck' || datum.end_state == 'diverged'")
        marks = ends.mark_text(text="×", color=FAILED, fontSize=16, fontWeight="bold")
        layers.append(marks.encode(y=y, x="divergence_step:Q", tooltip=["run", "end_state", "divergence_step"]))
        chart = stacked(*layers, height=max(60, 17 * len(rows))).resolve_scale(color="independent")
        figure.panels.append(Panel(point, chart, None, point))
    return figure


def _curve(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and spread of each arm's curve over the seeds that ran at every one of its tuned rates."""
    lines = []
    for (arm, point), group in runs.groupby(["arm", "point"], sort=False):
        tuned = set(group[group.role == "tuning"].learning_rate)
        seeds = [seed for seed, own in group.groupby("seed") if tuned and tuned <= set(own.learning_rate)]
        kept = group[group.seed.isin(seeds) & group.learning_rate.isin(tuned)]
        for rate, cell in kept.groupby("learning_rate"):
            interval = t_estimate(cell.loss)
            low, high = (interval.low, interval.high) if len(seeds) >= 5 else (cell.loss.min(), cell.loss.max())
            lines.append((arm, point, rate, cell.loss.mean(), low, high))
    return pd.DataFrame(lines, columns=["arm", "point", "learning_rate", "value", "low", "high"])


def _failures(runs: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (arm, point, rate), cell in runs.groupby(["arm", "point", "learning_rate"], sort=False):
        if failed := int(cell.end_state.isin(ENDED_BADLY).sum()):
            lines.append((arm, point, rate, float(cell.loss.max()), f"× {failed}/{len(cell)}"))
    return pd.DataFrame(lines, columns=["arm", "point", "learning_rate", "value", "text"])
