"""Models that are trained: a sweep whose runs are looked at afterwards."""

from __future__ import annotations

import contextlib
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..run import Run
from ..stability.endstate import FAILED
from ..stability.rows import WHOLE
from ..sweeping import sweep
from ..training.probes import ProbeConfig, batch_of
from ..training.probing import open_target
from .looks import Found, Look
from .terms import COLUMNS

SWEPT: dict[str, dict[str, Any]] = {
    "laptop": {"model.hidden_size": 64, "model.num_attention_heads": 2, "data.tokenizer": "bytes",
               "data.sequence_length": 32, "data.validation_fraction": 0.0015, "train.batch_size": 16,
               "train.max_steps": 200, "train.eval_sequences": 64, "train.compile": False},
    "gpu": {"model.hidden_size": 512, "model.num_attention_heads": 8, "data.tokenizer": "gpt2",
            "data.source": "hub:HuggingFaceFW/fineweb-edu:sample-10BT", "data.sequence_length": 512,
            "data.validation_fraction": 0.002, "train.batch_size": 64, "train.max_steps": 2000},
}  # fmt: skip
"""Keys of all runs, by size."""
QUIET = {"optimizer.name": "adamw", "train.record_every": 0, "train.draw": False, "train.eval_every": 10**6,
         "train.save_every": 10**6}  # fmt: skip
BLOCKS, RATE, WARMUP = "model.num_hidden_layers", "optimizer.learning_rate", "schedule.warmup_steps"
WINDOW = 10
"""Steps over which a training loss is smoothed before it is asked when it fell below a bar."""
SEQUENCES = 16
"""Held-out sequences on which a trained model is looked at."""


@dataclass(frozen=True)
class Trained:
    """A sweep without tuning, for a claim that names its recipe is not one about the best of each.

    Metrics of the table, beside those of the looks: ``loss`` (held-out, nats per token, clipped at that of the start),
    ``excess`` (that above the unigram entropy: what has learned more than frequencies is below 0), ``failed`` (whether
    the run ended stuck or diverged), ``gradient_spikes`` (per 1,000 steps), and, with ``bar``, ``steps_to_bar``.

    Args:
        arms: keys of a run each.
        values: of x, by size; a size that is not here cannot be run.
        x: the key of a run that is varied: blocks, warm-up, or the learning rate.
        learning_rate: of all runs, where it is not x.
        base: keys of all runs, over ``SWEPT``.
        looks: at each final model, on held-out text.
        recorded: metrics of the recorder's last look, after each block.
        bar: a training loss, in nats per token.
        steps: of each run, by size.
    """

    arms: Mapping[str, Mapping[str, Any]]
    values: Mapping[str, tuple[float, ...]]
    seeds: int
    x: str = BLOCKS
    learning_rate: float = 3e-3
    base: Mapping[str, Any] = field(default_factory=dict)
    looks: tuple[Look, ...] = ()
    recorded: tuple[str, ...] = ()
    bar: float | None = None
    steps: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[str, ...]:
        return tuple(self.values)

    def keys(self, size: str) -> dict[str, Any]:
        """Of all runs."""
        found = SWEPT[size] | QUIET | dict(self.base)
        if size in self.steps:
            found["train.max_steps"] = self.steps[size]
        if self.recorded:
            found["train.record_every"] = found["train.max_steps"]
        return found

    def minutes(self, size: str) -> float:
        """From 1.6 ms and 7 us a token for each step and block on a core at the laptop's size, and 1e14 FLOP/s at the
        GPU's."""
        keys = self.keys(size)
        tokens = keys["train.batch_size"] * keys["data.sequence_length"]
        width = keys["model.hidden_size"]
        block = (0.0016 + 7e-6 * tokens * width / 64) / 2 if size == "laptop" else 72 * width**2 * tokens / 1e14
        blocks = sum(arm.get(BLOCKS, keys.get(BLOCKS, 6)) if self.x != BLOCKS else value
                     for arm in self.arms.values() for value in self.values[size])  # fmt: skip
        return self.seeds * blocks * keys["train.max_steps"] * block / 60

    def definition(self, folder: Path, size: str) -> dict[str, Any]:
        """Keys and values of the sweep, in ``folder``. Where nothing is tuned, no seed has chosen anything: the one
        that the sweep calls a tuning seed counts as the others do."""
        rates = list(self.values[size]) if self.x == RATE else [self.learning_rate]
        return {
            "sweep_dir": str(folder), "base": self.keys(size),
            "arms": {name: dict(keys) for name, keys in self.arms.items()},
            "grid": {} if self.x == RATE else {self.x: list(self.values[size])},
            "learning_rates": {"grid": rates, "extend_by": 0, "multiples": [1.0]},
            "seeds": {"tuning": [0], "reporting": list(range(1, self.seeds)), "reporting_rates": "all"},
            "controls": {"baseline": next(iter(self.arms))}, "keep": "model" if self.looks else "figures",
            "executor": {"time_steps": False}, "on_difference": "rerun",
        }  # fmt: skip

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        definition = self.definition(Path(), size)
        home = folder / hashlib.sha256(repr(definition).encode()).hexdigest()[:12]
        home.mkdir(parents=True, exist_ok=True)
        with _said_to(home / "said.txt"):
            found = sweep(definition | {"sweep_dir": str(home)})
        points, rows = found.study.sweep.points, []
        for run in found.runs.itertuples():
            x = run.learning_rate if self.x == RATE else points[run.point][self.x]
            if x not in self.values[size]:  # the sweep's own: the best rate between those of the grid
                continue
            rows += [(run.arm, x, run.seed, *row) for row in self._of(run, home / run.folder)]
        return pd.DataFrame(rows, columns=COLUMNS)

    def _of(self, run: Any, folder: Path) -> Found:
        summary = Run(folder).summary
        yield WHOLE, "loss", run.loss
        yield WHOLE, "excess", run.loss - summary["unigram_entropy"]
        yield WHOLE, "failed", float(run.end_state in FAILED or not np.isfinite(run.val_loss))
        if (spikes := summary.get("spikes")) is not None:
            yield WHOLE, "gradient_spikes", 1000 * len(spikes["grad_norm"]) / max(1, run.steps)
        if self.bar is not None:
            yield WHOLE, "steps_to_bar", steps_to(Run(folder).metrics, self.bar)
        if self.recorded:
            yield from last_look(Run(folder).layers, self.recorded)
        if self.looks and (folder / "model").exists():
            target = open_target(folder)
            batch = batch_of(target, ProbeConfig(sequences=SEQUENCES))
            for look in self.looks:
                yield from look(target.model, batch, run.seed)  # type: ignore[arg-type]


@contextlib.contextmanager
def _said_to(file: Path) -> Iterator[None]:
    """Plan and table of a sweep, which is a means here, go to a file where no terminal shows how it proceeds."""
    terminal = sys.stdout.isatty()
    with file.open("a", encoding="utf-8") as log, contextlib.redirect_stdout(sys.stdout if terminal else log):
        yield


def steps_to(metrics: pd.DataFrame, bar: float) -> float:
    """The first step at which the mean training loss of the last ``WINDOW`` steps lies below ``bar``; the length of the
    run where none does, which is too short."""
    smooth = metrics.dropna(subset="loss").set_index("step").loss.rolling(WINDOW).mean()
    below = smooth.index[smooth < bar]
    return float(below[0] if len(below) else smooth.index[-1])


def last_look(layers: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[tuple[int, str, float]]:
    """After each block (-1: of the embedding, or of the whole model), at the last recorded step."""
    last = layers[(layers.step == layers.step.max()) & layers.metric.isin(metrics) & (layers.sublayer != "attention")]
    yield from last[["layer", "metric", "value"]].itertuples(index=False, name=None)
