"""What a claim is held against: models that are only initialised, or a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from ..model import ResformerConfig, ResformerForCausalLM
from ..sweeping import sweep
from .looks import Look
from .terms import COLUMNS

SIZES = ("laptop", "gpu")
THEORY = {"vocab_size": 256, "hidden_size": 64, "num_attention_heads": 2, "initialization": "xavier",
          "embedding_initializer_range": 1.0, "tie_word_embeddings": False}  # fmt: skip
"""What papers on initialisation assume: Xavier, embeddings of unit variance."""


class Study(Protocol):
    def minutes(self, size: str) -> float:
        """About how long it takes on two cores, or on one GPU."""

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        """Columns ``arm, x, seed, layer, metric, value``; what is in ``folder`` already is not done again.

        Raises:
            ValueError: one line, for what cannot be.
        """


@dataclass(frozen=True)
class Initial:
    """Models without training, of each arm, depth (x) and seed, looked at on random tokens.

    Args:
        arms: a residual connection each, or keys of the model.
        model: keys of all models, over those of the theory.
        seconds: that it takes on one core.
    """

    arms: Mapping[str, Any]
    depths: tuple[int, ...]
    look: Look
    seeds: int = 5
    model: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 5.0

    def minutes(self, size: str) -> float:
        return self.seconds / 60

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        rows = [(arm, depth, seed, *found)
                for arm in self.arms for depth in self.depths for seed in range(self.seeds)
                for found in self.look(self.build(arm, depth, seed), seed)]  # fmt: skip
        return pd.DataFrame(rows, columns=COLUMNS)

    def build(self, arm: str, depth: int, seed: int) -> ResformerForCausalLM:
        told = self.arms[arm]
        keys = told if isinstance(told, Mapping) and "residual" in told else {"residual": told}
        config = ResformerConfig(**{**THEORY, **self.model, "num_hidden_layers": depth, **keys})
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return ResformerForCausalLM(config).eval()


SWEPT: dict[str, dict[str, Any]] = {
    "laptop": {"model.hidden_size": 64, "model.num_attention_heads": 2, "data.tokenizer": "bytes",
               "data.sequence_length": 64, "data.validation_fraction": 0.0015, "train.batch_size": 16,
               "train.max_steps": 200, "train.eval_sequences": 64},
    "gpu": {"model.hidden_size": 512, "model.num_attention_heads": 8, "data.tokenizer": "gpt2",
            "data.source": "hub:HuggingFaceFW/fineweb-edu:sample-10BT", "data.sequence_length": 512,
            "data.validation_fraction": 0.002, "train.batch_size": 64, "train.max_steps": 2000},
}  # fmt: skip
"""Keys of all runs, by size."""


@dataclass(frozen=True)
class Trained:
    """A sweep at one learning rate, without tuning: a claim that names its recipe is not one about the best of each.

    x is the number of blocks. Metrics of the table: ``loss`` (nats per token, clipped at that of the start) and ``bad``
    (whether the run ended badly).

    Args:
        arms: keys of a run each, and ``because``; the first is the baseline.
        depths: by size.
        base: keys of all runs, over ``SWEPT``.
    """

    arms: Mapping[str, Mapping[str, Any]]
    depths: Mapping[str, tuple[int, ...]]
    learning_rate: float
    seeds: int
    base: Mapping[str, Any] = field(default_factory=dict)

    def minutes(self, size: str) -> float:
        """From 0.012 s a step and block on a core at the laptop's size, and 1e14 FLOP/s at the GPU's."""
        keys = SWEPT[size] | dict(self.base)
        tokens = keys["train.batch_size"] * keys["data.sequence_length"]
        block = 0.006 * tokens / 1024 if size == "laptop" else 72 * keys["model.hidden_size"] ** 2 * tokens / 1e14
        steps = len(self.arms) * (self.seeds + 1) * sum(self.depths[size]) * keys["train.max_steps"]
        return steps * block / 60

    def definition(self, folder: Path, size: str) -> dict[str, Any]:
        """Keys and values of the sweep."""
        quiet = {"train.record_every": 0, "train.draw": False, "train.eval_every": 10**6, "train.save_every": 10**6}
        return {
            "sweep_dir": str(folder / "sweep"), "base": SWEPT[size] | quiet | dict(self.base),
            "arms": {name: dict(keys) for name, keys in self.arms.items()},
            "grid": {"model.num_hidden_layers": list(self.depths[size])},
            "learning_rates": {"grid": [self.learning_rate], "extend_by": 0, "multiples": [1.0]},
            "seeds": {"tuning": [1000], "reporting": list(range(self.seeds))},
            "controls": {"baseline": next(iter(self.arms))}, "keep": "figures", "on_difference": "rerun",
        }  # fmt: skip

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        found = sweep(self.definition(folder, size))
        points = found.study.sweep.points
        rows = [(run.arm, points[run.point]["model.num_hidden_layers"], run.seed, -1, metric, float(value))
                for run in found.runs.itertuples() if run.role == "reporting"
                for metric, value in (("loss", run.loss), ("bad", run.bad))]  # fmt: skip
        return pd.DataFrame(rows, columns=COLUMNS)
