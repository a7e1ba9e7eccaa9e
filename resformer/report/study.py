"""What a page is about: runs by arm, point and seed, on one frame. A single run is a study with one arm."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from ..files import read_whole_lines
from ..keys import flat
from ..stability.findings import ORDER

MOST_TOGETHER = 12
"""Arms whose lines can be told apart in one figure; of more, some stand in front."""
COLUMNS = ["step", "layer", "sublayer", "metric", "value"]
SEEDS = {"seed", "init_seed", "data_seed", "dropout_seed"}
NOT_COMPARED = SEEDS | {"run_dir", "resume", "trackers"}


@dataclass
class Run:
    """The files of one run, as far as they can be read; ``problems`` says what could not."""

    folder: Path
    arm: str
    layers: pd.DataFrame
    metrics: pd.DataFrame
    summary: dict[str, Any]
    config: dict[str, Any]
    problems: list[str]
    point: str = ""

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def seed(self) -> int:
        return int(number(self.config.get("seed")) or 0)

    @property
    def learning_rate(self) -> float:
        return number(group(self.config, "optimizer").get("learning_rate")) or float("nan")


@dataclass
class Study:
    """Runs that one page shows.

    Attributes:
        frame: ``arm, point, seed, learning_rate, step, layer, sublayer, metric, value``, with ``depth`` (0 the
            embedding, then one for each site) and ``site`` besides, both missing of rows of the whole model.
        arms: in order; they keep their colours on every page.
        runs: where the study was made of runs.
        baseline, a_a_control: arms of a sweep that have a part of their own.
    """

    title: str
    folder: Path
    frame: pd.DataFrame
    arms: list[str]
    points: list[str]
    runs: list[Run] = field(default_factory=list)
    baseline: str | None = None
    a_a_control: str | None = None

    @property
    def single(self) -> bool:
        return len(self.arms) == 1

    @property
    def focus(self) -> list[str]:
        """Where arms are too many: the first, the four best and the two worst, which stand in front of the others."""
        if len(self.arms) <= MOST_TOGETHER:
            return []
        order = self.by_merit()
        chosen = {self.baseline or self.arms[0], *order[:4], *order[4:][-2:]}
        return [arm for arm in self.arms if arm in chosen]

    def by_merit(self) -> list[str]:
        """Arms with a held-out loss, from the lowest to the highest."""
        losses: dict[str, list[float]] = {}
        for run in self.runs:
            loss = number(run.summary.get("val_loss"))
            losses.setdefault(run.arm, []).append(np.inf if loss is None or math.isnan(loss) else loss)
        return sorted(losses, key=lambda arm: float(np.median(losses[arm])))

    def of(self, *metrics: str) -> pd.DataFrame:
        """Rows of sites."""
        return self.frame[self.frame.metric.isin(metrics) & self.frame.depth.notna()]

    def whole(self, *metrics: str) -> pd.DataFrame:
        """Rows of the whole model."""
        return self.frame[self.frame.metric.isin(metrics) & (self.frame.sublayer == "model")]

    def spikes(self) -> list[dict[str, Any]]:
        """Of the runs: ``arm``, ``seed``, ``of`` (loss, gradient, not finite), ``step``."""
        found = []
        for run in self.runs:
            spikes = group(run.summary, "spikes")
            for kind, name in (("loss", "loss"), ("grad_norm", "gradient"), ("not_finite", "not finite")):
                for event in listed(spikes.get(kind)):
                    step = number(event.get("step") if isinstance(event, dict) else event)
                    if step is not None:
                        found.append({"arm": run.arm, "seed": run.seed, "of": name, "step": step})
        return found


def number(value: Any) -> float | None:
    """A file of a stranger may hold anything where a number belongs."""
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def group(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def read_run(folder: Path, arm: str = "", point: str = "") -> Run:
    """What stands in ``folder`` and can be read.

    Raises:
        ValueError: one line, if it is no run's folder at all.
    """
    if not (folder / "config.yaml").exists() and not (folder / "layers.parquet").exists():
        raise ValueError(
            f"{folder} is no folder of a run (it has neither config.yaml nor layers.parquet) nor of a sweep (it has no "
            "sweep.yaml)"
        )
    problems: list[str] = []

    def read(name: str, how: Any, empty: Any, kind: type) -> Any:
        if not (folder / name).exists():
            return empty
        try:
            found = how(folder / name)
            if not isinstance(found, kind):
                raise ValueError(f"it holds no {kind.__name__}")
            return found
        except Exception as error:  # a torn, old or forged file may fail in any way; the page says so
            problems.append(f"{name} cannot be read ({str(error).splitlines()[0] if str(error) else 'torn'})")
            return empty

    nothing = pd.DataFrame(columns=COLUMNS)
    config = read("config.yaml", lambda file: yaml.safe_load(file.read_text(encoding="utf-8")), {}, dict)
    layers = read("layers.parquet", lambda file: with_depth(pd.read_parquet(file)[COLUMNS]), nothing, pd.DataFrame)
    if not (folder / "layers.parquet").exists():
        off = number(group(config, "train").get("record_every")) == 0
        problems.append("its recorder was off (train.record_every 0)" if off else "it has no layers.parquet")
    summary = read("summary.json", lambda file: json.loads(file.read_text(encoding="utf-8")), {}, dict)
    metrics = read("metrics.jsonl", _metrics, pd.DataFrame(columns=["step"]), pd.DataFrame)
    return Run(folder, arm or folder.resolve().name, layers, metrics, summary, config, problems, point)


def _metrics(file: Path) -> pd.DataFrame:
    rows = read_whole_lines(file)
    return pd.DataFrame(rows, columns=None if rows else ["step"])


def with_depth(layers: pd.DataFrame) -> pd.DataFrame:
    """Add ``depth`` and ``site`` (``embedding``, ``3 mlp``) to a table with ``layer`` and ``sublayer``."""
    layers = layers.assign(value=layers.value.astype(float), step=layers.step.astype(int))
    sites = layers.loc[layers.metric == "stream_rms", ["layer", "sublayer"]].drop_duplicates()
    places = sorted(sites.itertuples(index=False), key=lambda place: (place.layer, ORDER.get(place.sublayer, 3)))
    depth = pd.DataFrame(places, columns=["layer", "sublayer"]).assign(depth=range(len(places)))
    depth["site"] = [p.sublayer if p.layer < 0 else f"{p.layer} {p.sublayer}" for p in places]
    found = layers.merge(depth, how="left", on=["layer", "sublayer"])
    # Weights of a parallel block's two branches belong to its one site.
    parallel = depth[depth.sublayer == "parallel"].set_index("layer")
    inside = found.depth.isna() & found.layer.isin(parallel.index) & found.sublayer.isin(["attention", "mlp"])
    for column in ("depth", "site"):
        found.loc[inside, column] = found.layer[inside].map(parallel[column])
    return found


def few(steps: Iterable[int], most: int) -> np.ndarray:
    """So many of the steps at most, evenly spaced, the first and the last among them."""
    found = np.sort(np.asarray(steps))
    if len(found) <= most:
        return found
    return found[np.unique(np.linspace(0, len(found) - 1, max(2, most)).round().astype(int))]


def framed(runs: Iterable[Run]) -> pd.DataFrame:
    parts = [
        run.layers.assign(arm=run.arm, point=run.point, seed=run.seed, learning_rate=run.learning_rate)
        for run in runs
        if len(run.layers)
    ]
    if parts:
        return pd.concat(parts, ignore_index=True)
    columns = ["arm", "point", "seed", "learning_rate", *COLUMNS, "depth", "site"]
    numbers = dict.fromkeys(("learning_rate", "step", "value", "depth"), float)
    return pd.DataFrame(columns=columns).astype(dict.fromkeys(("arm", "point", "sublayer", "metric"), str) | numbers)


def differences(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Keys in which the runs' configurations differ, seeds and folders apart, with the value of each run."""
    flats = [{k: v for k, v in flat(run.config).items() if k not in NOT_COMPARED} for run in runs]
    keys = sorted({key for values in flats for key in values})
    found = {key: [values.get(key) for values in flats] for key in keys}
    return {key: values for key, values in found.items() if len({said(value) for value in values}) > 1}


def compared(folders: Sequence[Path], out: Path | None = None) -> Study:
    """Any runs, side by side: those that differ in their seeds alone are one arm, shown with its range.

    Raises:
        ValueError: one line, if a folder is no run's, or is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError("a run is given twice; give each once")
    runs = [read_run(folder) for folder in folders]
    differing = differences(runs)
    own = [tuple(said(values[i]) for values in differing.values()) for i in range(len(runs))]
    names: dict[tuple[str, ...], str] = {}
    for run, values in zip(runs, own, strict=True):
        label = ", ".join(values) if len(differing) == 1 else ""
        label = label if 0 < len(label) <= 40 else run.name
        taken = {name for other, name in names.items() if other != values}
        run.arm = names.setdefault(values, str(run.folder) if label in taken else label)
    arms = list(names.values())
    title = f"Run {runs[0].name}" if len(runs) == 1 else f"{len(runs)} runs side by side"
    if len(runs) > 1 and len(arms) == 1:
        title = f"{len(runs)} seeds of one run"
    return Study(title, out or runs[0].folder, framed(runs), arms, [""], runs)
