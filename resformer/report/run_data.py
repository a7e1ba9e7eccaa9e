"""The files of one run, as frames."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    """

    folder: Path
    layers: pd.DataFrame
    metrics: pd.DataFrame
    summary: dict[str, Any]
    config: dict[str, Any]

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
