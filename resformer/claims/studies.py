"""What a claim is held against: models that are only initialised, or a sweep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pandas as pd
import torch

from ..model import ResformerConfig, ResformerForCausalLM
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
