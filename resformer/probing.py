"""Probes in a line of Python: what a model's residual stream does, asked of any checkpoint or configuration."""

from __future__ import annotations

import dataclasses
import html
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from .keys import did_you_mean
from .model import ResformerConfig
from .run import Run
from .training import RunConfig
from .training.probes import PROBES, ProbeConfig, refuse
from .training.probing import Target, open_target

if TYPE_CHECKING:
    import altair as alt


@dataclass(frozen=True)
class Probe:
    """What a probe found.

    Attributes:
        name: of the probe.
        target: what was probed, in words.
        conditions: how the table was made, in words.
        table: its rows; ``layer, sublayer, metric, value`` unless the probe is of another form.
        folder: where ``save`` writes by default.
    """

    name: str
    target: str
    conditions: str
    table: pd.DataFrame
    folder: Path

    def figure(self) -> alt.TopLevelMixin:
        """The table as an Altair chart."""
        from .report.probes import FIGURES

        chart: alt.TopLevelMixin = FIGURES[self.name](self.table).chart()
        return chart

    def save(self, folder: str | Path | None = None) -> Path:
        """Write the table (parquet) and its figure (HTML, SVG, PNG, PDF). Returns their folder."""
        from .report.probes import write_probe_page

        out = self.folder if folder is None else Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        self.table.to_parquet(out / f"{self.name}.parquet")
        if trouble := write_probe_page(self.name, self.table, out, self.target, self.conditions):
            print(f"warning: {out / self.name}.html: {trouble}", file=sys.stderr)
        return out

    def shown(self) -> pd.DataFrame:
        """What of the table a person reads, layers or depths as rows."""
        table = self.table
        if self.name in ("lesion", "lens"):
            by_site = table[table.sublayer != "model"]
            return by_site.pivot_table(index="layer", columns=["metric", "sublayer"], values="value")
        if self.name == "curvature":
            return table[["metric", "value"]].set_index("metric")
        if self.name == "landscape":
            return table[table.kind == "line"][["a", "loss"]].iloc[::2].set_index("a")
        if self.name == "reuse":
            return table.groupby("reader")[["reach", "entropy"]].first()
        of_seeds = table.drop(columns=["seed"]).groupby(["depth", "dtype"])
        return of_seeds.median(numeric_only=True).assign(finite=of_seeds.finite.all())

    def of_the_model(self) -> str:
        """The numbers of the whole model, in one line; empty where there are none."""
        if self.name not in ("lesion", "lens"):
            return ""
        whole = self.table[self.table.sublayer == "model"]
        return ", ".join(f"{row.metric} {row.value:.4g}" for row in whole.itertuples())

    def __repr__(self) -> str:
        shown = self.shown().to_string(float_format=lambda value: f"{value:.4g}", na_rep="")
        return "\n".join(line for line in (self.name, self.of_the_model(), shown) if line)

    def _repr_html_(self) -> str:
        from .display import svg

        words = html.escape("; ".join(text for text in (self.conditions, self.of_the_model()) if text))
        table = self.shown().to_html(float_format=lambda value: f"{value:.4g}", na_rep="")
        return f"<p><b>{html.escape(self.name)}</b> {words}</p>{svg(self.figure())}{table}"


def probe(
    target: Run | PreTrainedModel | ResformerConfig | RunConfig | Target | str | Path, name: str, **options: Any
) -> Probe:
    """Ask one question of a model.

    Args:
        target: a run, a model (any Hugging Face causal language model), a configuration, or the folder or YAML file of
            one of them.
        name: ``init`` (what depth does to a signal before training), ``lesion`` (what each branch is worth), ``lens``
            (what the read-out says after each block), ``landscape``, ``curvature``, or ``reuse`` (who reads whom).
        options: fields of ``ProbeConfig``, such as ``source="text.txt"``, ``sequences=8``, ``seed=0``. A model or a
            checkpoint that lies in no run needs a ``source`` of text.

    Raises:
        ValueError: one line, for a probe that does not exist, that this model's class does not allow, or that lacks
            its text.
    """
    known = [field.name for field in dataclasses.fields(ProbeConfig)]
    for key in options:
        if key not in known:
            raise ValueError(f"a probe has no option {key!r}{did_you_mean(key, known)}; there are {', '.join(known)}")
    config = ProbeConfig(**options)
    config.check()
    if name not in PROBES:
        raise ValueError(f"there is no probe {name!r}{did_you_mean(name, PROBES)}; there are {', '.join(PROBES)}")
    with torch.random.fork_rng():
        opened = opened_target(target, config.seed)
        refuse(name, opened.model)
        torch.manual_seed(config.seed)
        table = PROBES[name](opened, config)
    return Probe(name, opened.name, _conditions(name, opened, config), table, opened.out)


def opened_target(target: Any, seed: int = 0) -> Target:
    """What ``probe`` takes, opened once for several probes. Raises ValueError, one line, for what cannot be probed."""
    if isinstance(target, Target):
        return target
    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        return open_target(target.folder if isinstance(target, Run) else target, seed)
    finally:
        if bars:
            logging.enable_progress_bar()


def _conditions(name: str, target: Target, config: ProbeConfig) -> str:
    if name == "init":
        return f"{target.name}; without training, width {config.width}, {config.seeds} seed(s) from {config.seed}; CPU"
    data = target.data_config(config.source, config.tokenizer, config.sequence_length)
    return (
        f"{target.name}, {target.model.num_parameters():,} parameters; {config.sequences} held-out sequences of "
        f"{data.sequence_length} tokens of {data.source}; seed {config.seed}; float32, {target.model.device.type}"
    )
