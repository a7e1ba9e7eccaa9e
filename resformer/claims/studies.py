"""What a claim is held against: models that are only initialised; ``swept.py`` has those that are trained."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd
import torch

from ..model import ResformerConfig, ResformerForCausalLM
from .looks import Look, tokens
from .terms import COLUMNS

SIZES = ("laptop", "gpu")
THEORY = {"vocab_size": 256, "hidden_size": 64, "num_attention_heads": 2, "initialization": "xavier",
          "embedding_initializer_range": 1.0, "tie_word_embeddings": False}  # fmt: skip
"""What papers on initialisation assume: Xavier, embeddings of unit variance."""


class Study(Protocol):
    """Claims may share one: then it is run once."""

    @property
    def sizes(self) -> tuple[str, ...]:
        """At which it can be run."""

    def minutes(self, size: str) -> float:
        """About how long it takes on two cores, or on one GPU."""

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        """Columns ``arm, x, seed, layer, metric, value``.

        Args:
            folder: of all studies; what is there already is not done again.

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
    sizes: ClassVar[tuple[str, ...]] = SIZES

    def minutes(self, size: str) -> float:
        return self.seconds / 60

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        rows = []
        for arm, depth, seed in itertools.product(self.arms, self.depths, range(self.seeds)):
            model = self.build(arm, depth, seed)
            rows += [(arm, depth, seed, *found) for found in self.look(model, tokens(model, seed), seed)]
        return pd.DataFrame(rows, columns=COLUMNS)

    def build(self, arm: str, depth: int, seed: int) -> ResformerForCausalLM:
        told = self.arms[arm]
        keys = told if isinstance(told, Mapping) and "residual" in told else {"residual": told}
        config = ResformerConfig(**{**THEORY, **self.model, "num_hidden_layers": depth, **keys})
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return ResformerForCausalLM(config).eval()
