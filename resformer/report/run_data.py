"""The files of one run, as frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

_ORDER = {"embedding": 0, "attention": 1, "parallel": 1, "mlp": 2}


@dataclass(frozen=True)
class RunFiles:
    """A run that ended, or is under way.

    Attributes:
        folder: the run's.
        layers: layers.parquet with ``depth`` (0 the embedding, then one for each site) and ``site`` besides; of the
            rows of the whole model both are missing.
        metrics: metrics.jsonl.
        summary: summary.json, empty while the run is under way.
        config: config.yaml.
        members: the runs that were pooled into this one; empty for a single run.
    """

    folder: Path
    layers: pd.DataFrame
    metrics: pd.DataFrame
    summary: dict[str, Any]
    config: dict[str, Any]
    members: tuple[RunFiles, ...] = ()

    def of(self, *metrics: str) -> pd.DataFrame:
        """Rows of sites, of these metrics."""
        return self.layers[self.layers.metric.isin(metrics) & self.layers.depth.notna()]

    def whole(self, *metrics: str) -> pd.DataFrame:
        """Rows of the whole model, of these metrics."""
        return self.layers[self.layers.metric.isin(metrics) & (self.layers.sublayer == "model")]

    @property
    def steps(self) -> list[int]:
        """Those at which the stream was looked at."""
        return sorted(int(step) for step in self.of("stream_rms").step.unique())


def read_run(folder: Path) -> RunFiles:
    """Raises ValueError, one line, if ``folder`` is no run's or its recorder was off."""
    if not (folder / "layers.parquet").exists():
        why = "its recorder was off (train.record_every 0)" if (folder / "config.yaml").exists() else "it is no run's"
        raise ValueError(f"{folder} has no layers.parquet: {why}; give the run_dir of a run")
    layers = with_depth(pd.read_parquet(folder / "layers.parquet"))
    metrics = pd.read_json(folder / "metrics.jsonl", lines=True) if (folder / "metrics.jsonl").exists() else None
    summary = folder / "summary.json"
    config = folder / "config.yaml"
    return RunFiles(
        folder,
        layers,
        pd.DataFrame(columns=["step"]) if metrics is None else metrics,
        json.loads(summary.read_text(encoding="utf-8")) if summary.exists() else {},
        yaml.safe_load(config.read_text(encoding="utf-8")) if config.exists() else {},
    )


def with_depth(layers: pd.DataFrame) -> pd.DataFrame:
    """Add ``depth`` and ``site`` (``embedding``, ``3 mlp``) to a table with ``layer`` and ``sublayer``."""
    sites = layers.loc[layers.metric == "stream_rms", ["layer", "sublayer"]].drop_duplicates()
    places = sorted(sites.itertuples(index=False), key=lambda place: (place.layer, _ORDER.get(place.sublayer, 3)))
    # Without a stream in the table (of a probe), every place counts.
    depth = pd.DataFrame(places, columns=["layer", "sublayer"]).assign(depth=range(len(places)))
    depth["site"] = [p.sublayer if p.layer < 0 else f"{p.layer} {p.sublayer}" for p in places]
    found = layers.merge(depth, how="left", on=["layer", "sublayer"])
    # Weights of a parallel block's two branches belong to its one site.
    parallel = depth[depth.sublayer == "parallel"].set_index("layer")
    inside = found.depth.isna() & found.layer.isin(parallel.index) & found.sublayer.isin(["attention", "mlp"])
    for column in ("depth", "site"):
        found.loc[inside, column] = found.layer[inside].map(parallel[column])
    return found


def pool(runs: list[RunFiles], folder: Path) -> RunFiles:
    """Seeds of one configuration as one run: ``value`` of ``layers`` is the median, and ``low`` and ``high`` beside it
    are the ends of their range; not a number where any of them has no finite value, so that a failure shows.

    Raises:
        ValueError: if the runs differ in more than their seeds and folders.
    """
    for run in runs[1:]:
        for group in ("model", "data", "optimizer", "schedule", "train"):
            if run.config.get(group) != runs[0].config.get(group):
                raise ValueError(
                    f"{run.folder} and {runs[0].folder} differ in {group}.*; pool runs that differ in their seeds alone"
                )
    layers = pd.concat([run.layers for run in runs])
    found = layers.value.where(np.isfinite(layers.value))
    keys = ["step", "layer", "sublayer", "metric", "depth", "site"]
    groups = layers.assign(value=found, gone=found.isna()).groupby(keys, dropna=False, sort=False)
    pooled = groups.agg(value=("value", "median"), low=("value", "min"), high=("value", "max"), gone=("gone", "any"))
    pooled.loc[pooled.gone, "value"] = np.nan
    metrics = pd.concat([run.metrics for run in runs])
    spikes = {
        of: [event for run in runs for event in run.summary.get("spikes", {}).get(of, [])]
        for of in ("loss", "grad_norm", "not_finite")
    }
    return RunFiles(
        folder,
        pooled.drop(columns="gone").reset_index(),
        metrics,
        runs[0].summary | {"spikes": spikes},
        runs[0].config,
        tuple(runs),
    )
