"""The figures of a sweep, F1, F2, F5 and F11 of the method, each a pure function of its tables.

Every chart has the parameters ``shown_arms`` and ``shown_points``, so that a page can filter all of them at once.
"""

import altair as alt
import numpy as np
import pandas as pd

from ..sweeps.inference import t_estimate
from .charts import colours
from .sweep_data import SweepReport

FAILED = ("stuck", "diverged")
_WIDTH, _HEIGHT = 300, 240


def figures(report: SweepReport) -> dict[str, alt.TopLevelMixin]:
    """By name; a figure that the sweep has nothing for is left out."""
    made = {
        "f1-loss-over-learning-rate": loss_over_learning_rate(report),
        "f2-ladder": ladder(report),
        "f5-spikes": spike_timeline(report),
        "f11-cost": cost_and_quality(report),
    }
    return {name: chart.configure_view(continuousWidth=_WIDTH) for name, chart in made.items() if chart is not None}


def loss_over_learning_rate(report: SweepReport) -> alt.VConcatChart | None:
    """F1. Final held-out loss over peak learning rate, one panel for each point of the grid."""
    runs = report.runs
    if runs.empty:
        return None
    curve = _curve(runs)
    levels = _levels(report, runs)
    failures = _failures(runs)
    axis = alt.Axis(values=sorted(set(runs.learning_rate)), format="~e", labelOverlap="greedy")
    x = alt.X(
        "learning_rate:Q", scale=alt.Scale(type="log", padding=12, nice=False), title="peak learning rate", axis=axis
    )
    y = alt.Y("loss:Q", scale=alt.Scale(zero=False), title="held-out loss, nats per token (clipped)")
    colour = colour_of_arms(report)
    few = int(curve.seeds.max()) < 5
    panels = []
    for point in report.sweep.points:
        base = [frame[frame.point == point] for frame in (curve, runs, failures, levels)]
        if base[0].empty:
            continue
        lines = chart_of(base[0])
        layers = [
            lines.mark_area(opacity=0.06).encode(x=x, y=y, y2="best:Q", color=colour),
            lines.mark_line().encode(x=x, y=y, color=colour, strokeDash=dash_of_arms(report)),
            lines.mark_rule().encode(x=x, y="low:Q", y2="high:Q", color=colour),
            chart_of(base[1]).mark_point(size=28, opacity=0.75).encode(
                x=x, y=y, color=colour, shape=alt.Shape("role:N", title="seed"),
                tooltip=["arm", "point", "learning_rate", "seed", "role", "end_state", "val_loss", "folder"],
            ),
            chart_of(base[2]).mark_text(dy=-9, fontSize=10, fontWeight="bold").encode(
                x=x, y=y, color=colour, text="text:N", tooltip=["arm:N", "learning_rate:Q", "text:N"]
            ),
            chart_of(base[3]).mark_rule(strokeDash=[4, 4], color="#777").encode(y="loss:Q", tooltip=["what", "loss"]),
            chart_of(base[3]).mark_text(align="left", dx=4, dy=-5, color="#555", fontSize=10).encode(
                y="loss:Q", x=alt.value(0), text="what:N"
            ),
        ]  # fmt: skip
        panels.append(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=point or "all runs"))
    whiskers = "smallest and largest" if few else "95 % t intervals"
    seeds = f"{curve.seeds.min()} to {curve.seeds.max()}" if curve.seeds.nunique() > 1 else str(curve.seeds.max())
    caption = (
        f"Lines: means over the {seeds} seed(s) that ran at every rate; whiskers: {whiskers}; shaded down to the best "
        f"mean: its average is S. x k/n: runs stuck or diverged. {conditions(report)}"
    )
    rows = [alt.hconcat(*panels[i : i + 3]).resolve_scale(y="shared") for i in range(0, len(panels), 3)]
    return titled(report, alt.vconcat(*rows).resolve_scale(y="shared"), "Loss over learning rate", caption)


def ladder(report: SweepReport) -> alt.VConcatChart | None:
    """F2. Sensitivity, headroom and best loss over depth; the loss with the paired interval against the baseline."""
    table = report.verdicts
    if report.depth is None or table.empty:
        return None
    name = report.depth.rpartition(".")[2]
    table = table.assign(depth=[report.sweep.points[point][report.depth] for point in table.point])
    half = (table.difference_high - table.difference_low) / 2
    table = table.assign(half=half, low=table.loss - half, high=table.loss + half)
    x = alt.X(
        "depth:Q", scale=alt.Scale(type="log", base=2), title=name, axis=alt.Axis(values=sorted(set(table.depth)))
    )
    panels = []
    for column, title in (
        ("S", "sensitivity S, nats"),
        ("headroom", "headroom H, decades"),
        ("loss", "best loss, nats"),
    ):
        y = alt.Y(f"{column}:Q", title=title, scale=alt.Scale(zero=column != "loss"))
        chart = chart_of(table).encode(x=x, color=colour_of_arms(report))
        layers = [
            chart.mark_line(point=True).encode(
                y=y, strokeDash=dash_of_arms(report), tooltip=["arm", "point", column, "verdict", "end_states"]
            )
        ]
        if column == "loss":
            layers.append(chart.mark_rule().encode(y="low:Q", y2="high:Q"))
        panels.append(alt.layer(*layers).properties(width=220, height=_HEIGHT))
    caption = (
        "Bars of the best loss: half width of the 95 % interval of the paired difference from the baseline. "
        + conditions(report)
    )
    return titled(report, alt.vconcat(alt.hconcat(*panels)), f"Ladder over {name}", caption)


def spike_timeline(report: SweepReport) -> alt.VConcatChart | None:
    """F5. One row for each reporting run at its arm's best rate; ticks are spikes, the background is the clip rate."""
    lines = report.timelines
    if lines.empty or not lines.counted.any():
        return None
    rate = report.verdicts[["arm", "point", "events_per_1000", "events_low", "events_high"]]
    lines = lines.merge(rate, on=["arm", "point"]).assign(start=0)
    lines["run"] = _run_label(lines)
    lines["rate"] = [
        f"{a:.2f} [{b:.2f}, {c:.2f}]"
        for a, b, c in zip(lines.events_per_1000, lines.events_low, lines.events_high, strict=True)
    ]
    events = report.spikes.assign(run=_run_label(report.spikes))
    led = events[events.lead.notna()].assign(source=lambda frame: frame.step - frame.lead)
    y = alt.Y("run:N", title=None, sort=None, axis=alt.Axis(labelLimit=260))
    bars = chart_of(lines).encode(y=y)
    layers = [
        bars.mark_bar(opacity=0.5, height=12).encode(
            x=alt.X("start:Q", title="step"), x2="steps:Q",
            color=alt.Color("clip_rate:Q", scale=alt.Scale(scheme="greys", domain=[0, 1]), title="share clipped"),
            tooltip=["arm", "point", "seed", "clip_rate", "end_state", "rate"],
        ),
        chart_of(events).mark_tick(thickness=2, color="#D55E00").encode(
            x="step:Q", y=y, size=alt.Size("amplitude:Q", title="amplitude"),
            opacity=alt.Opacity("kind:N", scale=alt.Scale(domain=["loss", "grad_norm"], range=[1, 0.35])),
            tooltip=["run:N", "kind:N", "step:Q", "amplitude:Q", "lead:Q"],
        ),
        chart_of(led).mark_rule(color="#0072B2").encode(x="source:Q", x2="step:Q", y=y),
        chart_of(lines[lines.end_state.isin(FAILED)]).mark_text(text="x", fontWeight="bold", color="#D55E00").encode(
            x="divergence_step:Q", y=y, tooltip=["run:N", "end_state:N", "divergence_step:Q"]
        ),
        bars.mark_text(align="left", dx=6, fontSize=10).encode(x="steps:Q", text="rate:N"),
    ]  # fmt: skip
    chart = alt.layer(*layers).properties(width=2 * _WIDTH)
    caption = (
        "Ticks: spikes of the loss (dark) and of the gradient's norm (pale); blue: from a spike of the gradient to the "
        "one of the loss it came before; x: where a run failed; right: loss spikes per 1,000 steps with a 95 % Poisson "
        "interval. " + conditions(report)
    )
    return titled(report, alt.vconcat(chart), "Spikes", caption)


def cost_and_quality(report: SweepReport) -> alt.VConcatChart | None:
    """F11. Best loss over measured step time."""
    table = report.verdicts.dropna(subset=["step_seconds"]) if not report.verdicts.empty else report.verdicts
    if table.empty:
        return None
    table = table.assign(milliseconds=1000 * table.step_seconds)
    x = alt.X("milliseconds:Q", title="milliseconds a step", scale=alt.Scale(zero=False))
    y = alt.Y("loss:Q", title="best held-out loss, nats per token", scale=alt.Scale(zero=False))
    panels = []
    for point in [point for point in report.sweep.points if (table.point == point).any()]:
        chart = chart_of(table[table.point == point]).encode(color=colour_of_arms(report))
        layers = [
            chart.mark_point(size=90, filled=True).encode(
                x=x, y=y, tooltip=["arm", "point", "loss", "milliseconds", "step_ratio", "parameters", "verdict"]
            ),
            chart.mark_rule().encode(x=x, y="loss_low:Q", y2="loss_high:Q"),
            chart.mark_text(align="left", dx=8).encode(x=x, y=y, text="arm:N"),
        ]
        panels.append(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=point or "all runs"))
    how = "measured in turn with the baseline's" if report.steps else "of each arm's fastest run"
    caption = f"Bars: 95 % t intervals over seeds. Step times: {how}. {conditions(report)}"
    rows = [alt.hconcat(*panels[i : i + 3]) for i in range(0, len(panels), 3)]
    return titled(report, alt.vconcat(*rows), "Cost and quality", caption)


def _curve(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread and best of each arm's curve over the seeds that ran at every one of its tuned rates."""
    lines = []
    for (arm, point), group in runs.groupby(["arm", "point"], sort=False):
        tuned = set(group[group.role == "tuning"].learning_rate)
        if not tuned:
            continue
        seeds = [s for s, own in group.groupby("seed") if tuned <= set(own.learning_rate)]
        if not seeds:
            continue
        kept = group[group.seed.isin(seeds) & group.learning_rate.isin(tuned)]
        best = kept.groupby("learning_rate").loss.mean().min()
        for rate, cell in kept.groupby("learning_rate"):
            interval = t_estimate(cell.loss)
            low, high = (interval.low, interval.high) if len(seeds) >= 5 else (cell.loss.min(), cell.loss.max())
            lines.append((arm, point, rate, cell.loss.mean(), low, high, best, len(seeds)))
    return pd.DataFrame(lines, columns=["arm", "point", "learning_rate", "loss", "low", "high", "best", "seeds"])


def _failures(runs: pd.DataFrame) -> pd.DataFrame:
    lines = []
    for (arm, point, rate), cell in runs.groupby(["arm", "point", "learning_rate"], sort=False):
        if failed := int(cell.end_state.isin(FAILED).sum()):
            lines.append((arm, point, rate, cell.loss.max(), f"x {failed}/{len(cell)}"))
    return pd.DataFrame(lines, columns=["arm", "point", "learning_rate", "loss", "text"])


def _levels(report: SweepReport, runs: pd.DataFrame) -> pd.DataFrame:
    entropy = [float(value) for value in report.common("unigram_entropy")]
    lines = []
    for point, group in runs.groupby("point", sort=False):
        lines.append((point, float(group.initial_loss.mean()), "loss at initialisation"))
        lines += [(point, float(np.mean(entropy)), "unigram entropy")] if entropy else []
    return pd.DataFrame(lines, columns=["point", "loss", "what"])


def _run_label(frame: pd.DataFrame) -> list[str]:
    return [f"{p + ', ' if p else ''}{a}, seed {s}" for a, p, s in zip(frame.arm, frame.point, frame.seed, strict=True)]


def colour_of_arms(report: SweepReport) -> alt.Color:
    """The same in every figure of the page."""
    return alt.Color("arm:N", scale=colours(list(report.sweep.arms)), title="arm", legend=alt.Legend(symbolOpacity=1))


def dash_of_arms(report: SweepReport) -> alt.StrokeDash:
    """The A/A arm is dashed, that it may be told from the baseline it lies on."""
    arms, a_a_control = list(report.sweep.arms), report.sweep.config.controls.a_a_control
    scale = alt.Scale(domain=arms, range=[[4, 3] if arm == a_a_control else [1, 0] for arm in arms])
    return alt.StrokeDash("arm:N", scale=scale, title="arm")


def chart_of(frame: pd.DataFrame) -> alt.Chart:
    """Of the rows that the page's filters let through. Each layer has its own data, so each has its own filter."""
    chart = alt.Chart(frame)
    for column in ("arm", "point"):
        if column in frame:
            chart = chart.transform_filter(f"indexof(shown_{column}s, datum.{column}) >= 0")
    return chart


def titled(report: SweepReport, chart: alt.VConcatChart, title: str, caption: str) -> alt.VConcatChart:
    """With title, caption, and the parameters by which the page filters."""
    shown = [
        alt.param(name="shown_arms", value=list(report.sweep.arms)),
        alt.param(name="shown_points", value=list(report.sweep.points)),
    ]
    text = alt.TitleParams(title, subtitle=_wrapped(caption), anchor="start", subtitleColor="#555")
    return chart.add_params(*shown).properties(title=text)


def _wrapped(text: str, width: int = 150) -> list[str]:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def conditions(report: SweepReport) -> str:
    """What every caption says: tokens, how the rate was chosen, seeds, device."""
    seeds, tokens = report.sweep.config.seeds, report.verdicts.tokens.dropna() if not report.verdicts.empty else []
    each = f"{int(min(tokens)):,} tokens a run; " if len(tokens) else ""
    return (
        f"{each}rate chosen on {len(seeds.tuning)} tuning seed(s), reported on {len(seeds.reporting)} others; "
        f"{', '.join(report.common('device'))}."
    )
