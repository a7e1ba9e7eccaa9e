"""Lesions: what the loss loses when one branch writes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn
from tqdm.auto import tqdm

from .layouts import block_streams, layout, loss_of, silenced
from .measure import Batch
from .rows import WHOLE, Row
from .seam import measurable
from .signal import angular_distance, cosine

USEFUL = 0.01
"""Nats below which a branch counts as useless."""


@torch.no_grad()
def lesion(model: nn.Module, batch: Batch) -> list[Row]:
    """Drop one branch at a time: Srivastava et al. 2015, arXiv:1505.00387; Sun et al. 2025, arXiv:2502.05795.

    Returns:
        ``lesion_increase`` (nats per token) of each branch, ``angular_distance`` and ``block_influence`` (one minus the
        cosine, Men et al. 2024, arXiv:2403.03853) of each block under sublayer ``block``, there too ``above_increase``,
        what the loss loses without any branch above the block (-1: without all; where little is lost, short paths carry
        the model, Veit et al. 2016, arXiv:1605.06431), and for the whole model
        ``probe_loss``, ``lesion_sum`` (all increases) and ``useful_share``: of the branches whose loss would be missed
        by 0.01 nat or more.
    """
    where = layout(model)
    sites = [(layer, name) for layer in range(len(where.blocks)) for name in where.branches]
    rows: list[Row] = []
    with measurable(model):
        whole = loss_of(model, batch).item()
        for layer, name in tqdm(sites, desc="lesion", disable=None, leave=False):
            with without(where.blocks[layer], name):
                rows.append((layer, name, "lesion_increase", loss_of(model, batch).item() - whole))
    total = sum(increase for *_, increase in rows)
    useful = sum(increase >= USEFUL for *_, increase in rows) / len(rows)
    streams, _ = block_streams(model, batch)
    for layer, (before, after) in enumerate(itertools.pairwise(streams)):
        if before.shape == after.shape:
            rows.append((layer, "block", "angular_distance", angular_distance(before, after).item()))
            rows.append((layer, "block", "block_influence", 1 - cosine(before, after).item()))
    with measurable(model), ExitStack() as off:
        for layer in reversed(range(len(where.blocks))):
            for name in where.branches:
                off.enter_context(without(where.blocks[layer], name))
            rows.append((layer - 1, "block", "above_increase", loss_of(model, batch).item() - whole))
    sums = {"probe_loss": whole, "lesion_sum": total, "useful_share": useful}
    return [*rows, *((WHOLE, "model", metric, value) for metric, value in sums.items())]


@contextmanager
def without(block: nn.Module, branch: str) -> Iterator[None]:
    """The branch writes nothing; what that means its connection says (a gate closes)."""
    connection = getattr(block, f"{branch}_residual", None)
    if connection is None:
        with silenced(block.get_submodule(branch)):
            yield
        return
    connection.forward = connection.lesioned
    try:
        yield
    finally:
        del connection.forward
