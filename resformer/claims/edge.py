"""A model trained by full-batch Adam until its preconditioned sharpness settles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..data import DataConfig, load_corpus
from ..model import ResformerConfig, ResformerForCausalLM
from ..stability.curvature import ADAPTIVE_EDGE, hessian_operator, largest_eigenvalue
from ..stability.layouts import loss_of
from ..stability.measure import Batch
from ..stability.rows import WHOLE
from ..stability.seam import measurable
from ..training.instrumentation import probe_batch
from .studies import SIZES
from .terms import COLUMNS

BETAS, EPS = (0.9, 0.999), 1e-7
LOOKS = 5
"""Over the last third of the steps: the sharpness swings about where it settles."""


@dataclass(frozen=True)
class FullBatch:
    """``of_the_edge``: the largest eigenvalue of P^-1 H, P from Adam's second moments, times rate / 38, mean over the
    last third of the run; ``fell``: by how many nats the loss did. x is the learning rate.

    Args:
        rates: of Adam, constant.
        model: keys of the model, by size; and ``sequences``, ``sequence_length``, ``steps``.
        seconds: that it takes on one core.
    """

    rates: tuple[float, ...]
    seeds: int
    model: Mapping[str, Mapping[str, Any]]
    seconds: float
    sizes: tuple[str, ...] = SIZES

    def minutes(self, size: str) -> float:
        return self.seconds / 60

    def table(self, folder: Path, size: str) -> pd.DataFrame:
        keys = dict(self.model[size])
        sequences, length, steps = (keys.pop(name) for name in ("sequences", "sequence_length", "steps"))
        corpus = load_corpus(DataConfig(tokenizer="bytes", sequence_length=length))
        batch = probe_batch(corpus, sequences)
        rows = []
        for rate in self.rates:
            for seed in range(self.seeds):
                with torch.random.fork_rng(devices=()):
                    torch.manual_seed(seed)
                    model = ResformerForCausalLM(ResformerConfig(vocab_size=corpus.vocab_size, **keys))
                for metric, value in settled(model, batch, rate, steps):
                    rows.append(("Adam", rate, seed, WHOLE, metric, value))
        return pd.DataFrame(rows, columns=COLUMNS)


def settled(model: ResformerForCausalLM, batch: Batch, rate: float, steps: int) -> Iterator[tuple[str, float]]:
    weights = list(model.parameters())
    optimizer = torch.optim.Adam(weights, lr=rate, betas=BETAS, eps=EPS)
    asked = {round(steps * (1 - share / 3)) for share in np.linspace(0, 1, LOOKS)}
    found, losses = [], []
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        with measurable(model):
            (loss := loss_of(model, batch)).backward()
        losses.append(loss.item())
        optimizer.step()
        if step in asked:
            moments = torch.cat([optimizer.state[p]["exp_avg_sq"].reshape(-1) for p in weights])
            preconditioner = (moments / (1 - BETAS[1] ** step)).sqrt() + EPS
            found.append(largest_eigenvalue(hessian_operator(model, batch, preconditioner.rsqrt())))
    yield "of_the_edge", float(np.mean(found)) * rate / ADAPTIVE_EDGE
    yield "fell", losses[0] - losses[-1]
