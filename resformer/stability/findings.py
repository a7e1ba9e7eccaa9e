"""What stands out in a run: declared rules over its table, each with its source, to plain sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .metrics import METRICS, metric

GROWN = 10.0
"""Times its size before a block, or at the first look, from which the stream's growth is worth a sentence."""
UNEVEN = 100.0
"""Times by which the gradient at the two ends of the stack may differ."""
LOST = 0.5
"""Share of its first value under which a layer's attention entropy counts as fallen."""
COLLAPSED = 0.99
"""Cosine of two tokens from which the stream counts as one direction."""

OURS = "threshold declared here, no paper names one"
ORDER = {"embedding": 0, "attention": 1, "parallel": 1, "mlp": 2}
"""Of a block's sublayers, from below."""


@dataclass(frozen=True)
class Finding:
    """One thing that stands out.

    Attributes:
        sentence: in plain words.
        metric: its name in the glossary, and in the figures.
        step, layer, sublayer: where it was seen; of the whole model the layer is -1.
        value: that was seen.
        source: of the rule.
    """

    sentence: str
    metric: str
    step: int
    layer: int
    sublayer: str
    value: float
    source: str


def findings(layers: pd.DataFrame) -> list[Finding]:
    """What the rules find in one run, the gravest first: at most one sentence for each rule and metric.

    Args:
        layers: layers.parquet of one run: ``step, layer, sublayer, metric, value``.

    Raises:
        ValueError: if it has a metric that the glossary does not know.
    """
    table = layers.sort_values(["step", "layer", "sublayer", "metric"], ignore_index=True)
    return [] if table.empty else [found for rule in RULES for found in rule(table)]


def not_finite(table: pd.DataFrame) -> Iterator[Finding]:
    """The first value that is no number, of the loss, the stream, or their gradients."""
    watched = ("stream_rms", "train_loss", "stream_gradient_rms", "train_gradient_norm")
    gone = table[table.metric.isin(watched) & ~np.isfinite(table.value)]
    if not gone.empty:
        yield _finding(gone.iloc[0], "the {title} is not finite {place} at step {step}", "arithmetic")


def outside_a_healthy_range(table: pd.DataFrame) -> Iterator[Finding]:
    """The value furthest outside, of every metric for which a source gives a range."""
    finite = table[np.isfinite(table.value)]
    parents = finite.metric.str.partition(".")[0]
    ranges = {entry.name: entry.healthy for entry in METRICS.values() if entry.healthy is not None}
    for name, healthy in ranges.items():
        rows = finite[parents == name]
        if rows.empty:
            continue
        highest, lowest = rows.loc[rows.value.idxmax()], rows.loc[rows.value.idxmin()]
        if healthy.high is not None and highest.value > healthy.high:
            limit = f"healthy is up to {number(healthy.high)}"
            yield _finding(
                highest, f"the {{title}} rose to {{value}} {{place}} at step {{step}}; {limit}", healthy.source
            )
        elif healthy.low is not None and lowest.value < healthy.low:
            limit = f"healthy is from {number(healthy.low)}"
            yield _finding(
                lowest, f"the {{title}} fell to {{value}} {{place}} at step {{step}}; {limit}", healthy.source
            )


def growth_in_a_block(table: pd.DataFrame) -> Iterator[Finding]:
    """The block in which the stream grows most at the last look, if tenfold or more."""
    after = _after_blocks(table, "stream_rms")
    if len(after) and len(after.columns) > 1:
        times = (after / after.shift(axis=1)).iloc[-1].drop(-1, errors="ignore").dropna()
        if len(times) and times.max() >= GROWN:
            layer = int(times.idxmax())
            row = _row(after.index[-1], layer, "block", "stream_rms", times.max())
            yield _finding(row, "the stream grows {value}-fold {place}", OURS, last=int(after.columns[-1]))


def growth_since_the_start(table: pd.DataFrame) -> Iterator[Finding]:
    """The depth at which the stream has grown most since the first look, if tenfold or more."""
    after = _after_blocks(table, "stream_rms")
    if len(after) > 1:
        times = (after.iloc[-1] / after.iloc[0]).dropna()
        if len(times) and times.max() >= GROWN:
            layer = int(times.idxmax())
            where = "the embedding" if layer < 0 else f"the stream after {block(layer, int(after.columns[-1]))}"
            row = _row(after.index[-1], layer, "block", "stream_rms", times.max())
            yield _finding(row, f"{where} has grown {{value}}-fold since step {after.index[0]}", OURS)


def vanishing_or_exploding_gradient(table: pd.DataFrame) -> Iterator[Finding]:
    """The gradient at the embedding against that at the top, at the last look, if a hundredfold apart."""
    after = _after_blocks(table, "stream_gradient_rms")
    if len(after) and -1 in after.columns and len(after.columns) > 1:
        times = after.iloc[-1, 0] / after.iloc[-1, -1]
        row = _row(after.index[-1], -1, "embedding", "stream_gradient_rms", times)
        if times >= UNEVEN:
            yield _finding(row, "the gradient explodes on its way down: {value} times as large at the embedding", OURS)
        elif 0 < times <= 1 / UNEVEN:
            shown = number(1 / times)
            yield _finding(row, f"the gradient vanishes on its way down: {shown} times smaller at the embedding", OURS)


def fallen_entropy(table: pd.DataFrame) -> Iterator[Finding]:
    """The layer whose attention entropy has fallen most since the first look, if to less than half."""
    layers = _looks(table[table.metric == "attention_entropy_share"].pivot_table("value", "step", "layer"))
    if len(layers) > 1:
        kept = (layers.iloc[-1] / layers.iloc[0]).dropna()
        if len(kept) and kept.min() < LOST:
            layer = int(kept.idxmin())
            row = _row(layers.index[-1], layer, "attention", "attention_entropy_share", layers.iloc[-1][layer])
            fell = f"from {number(layers.iloc[0][layer])} to {{value}} in {block(layer, int(layers.columns[-1]))}"
            source = f"{METRICS['attention_entropy_share'].source} (collapse); {OURS}"
            yield _finding(row, f"attention entropy fell {fell}", source)


def collapsed_stream(table: pd.DataFrame) -> Iterator[Finding]:
    """The lowest block after which all tokens of a sequence point one way, at the last look."""
    after = _after_blocks(table, "token_similarity")
    if after.empty:
        return
    alike = after.iloc[-1][after.iloc[-1] >= COLLAPSED]
    if len(alike):
        row = _row(after.index[-1], int(alike.index[0]), "block", "token_similarity", alike.iloc[0])
        yield _finding(row, "the tokens of a sequence are one direction {place} (cosine {value})",
                       f"{METRICS['dong_residual'].source} (rank collapse); {OURS}")  # fmt: skip


def massive(table: pd.DataFrame) -> Iterator[Finding]:
    """The first massive activations."""
    rows = table[(table.metric == "massive_activations") & (table.value > 0)]
    if not rows.empty:
        sentence = "massive activations from step {step} on, first {place} ({value} elements)"
        yield _finding(rows.iloc[0], sentence, METRICS["massive_activations"].source)


RULES: tuple[Callable[[pd.DataFrame], Iterator[Finding]], ...] = (
    not_finite, outside_a_healthy_range, growth_in_a_block, growth_since_the_start, vanishing_or_exploding_gradient,
    fallen_entropy, collapsed_stream, massive,
)  # fmt: skip


def block(layer: int, last: int | None = None) -> str:
    return "the first block" if layer == 0 else "the last block" if layer == last else f"block {layer}"


def number(value: float) -> str:
    """Three digits, and no exponent where a person would write none."""
    return f"{value:,.0f}" if 100 <= abs(value) < 1e6 else f"{value:.3g}"


def _finding(row, sentence: str, source: str, last: int | None = None) -> Finding:
    entry = metric(row.metric)
    parent = METRICS.get(row.metric.partition(".")[0], entry)
    part = entry.name.removeprefix(parent.name).removeprefix(".")
    if row.layer < 0:
        place = {"embedding": "at the embedding", "head": "at the head"}.get(row.sublayer, "")
    else:
        branch = "" if row.sublayer == "block" else f", {row.sublayer}"
        place = f"in {block(int(row.layer), last)}{branch}"
    words = {"title": f"{parent.title} of {part}" if part else entry.title, "value": number(row.value),
             "place": place, "step": int(row.step)}  # fmt: skip
    plain = " ".join(sentence.format(**words).split()).replace(" ;", ";").replace(" ,", ",")
    return Finding(plain, row.metric, int(row.step), int(row.layer), row.sublayer, float(row.value), source)


def _row(step, layer: int, sublayer: str, name: str, value: float) -> pd.Series:
    return pd.Series({"step": step, "layer": layer, "sublayer": sublayer, "metric": name, "value": value})


def _after_blocks(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """The metric by step and layer, after the block's last branch; layer -1 is the embedding."""
    rows = table[(table.metric == name) & table.sublayer.isin(ORDER)]
    rows = rows.assign(order=rows.sublayer.map(ORDER)).sort_values(["step", "layer", "order"])
    return _looks(rows.groupby(["step", "layer"]).value.last().unstack("layer"))


def _looks(by_step: pd.DataFrame) -> pd.DataFrame:
    """Those at which every value is finite: what is not is another rule's to say."""
    return by_step[np.isfinite(by_step).all(axis=1)]
