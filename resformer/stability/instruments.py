"""The instruments of a training run: every step's loss and gradient, and every so often a look at the whole stream."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from .endstate import StabilityWatch
from .measure import Batch, final_states, measure, measure_start
from .rows import WHOLE, Row
from .steps import OptimizerWatch, Tensors, changes, snapshot, step_rows
from .table import LayerTable

SCALARS = (
    "probe_loss", "accumulated_update", "one_step_update", "gradient_norm", "gradient_snr", "update_to_weight",
    "update_gradient_cosine", "gradients_below_eps", "log_z_mean", "log_z_max", "logit_mean",
)  # fmt: skip
"""Metrics of the whole model that also stand in metrics.jsonl."""


class Instruments:
    """Watches loss and gradient at every optimiser step and measures the stream on one batch at some.

    Build it while the model is at its initialisation, ``begin`` when a checkpoint, if any, is in place. Only the main
    process measures: the others wait at their next exchange of gradients.

    Args:
        file: layers.parquet.
        model: a resformer, not wrapped, on its device.
        batch: the probe batch, ``input_ids`` and ``shift_labels`` ``[sequences, time]``, on that device.
        optimizers: of the model.
        every: optimiser steps between measurements; 0 measures nothing, and the watch goes on.
        watch: the run's.
        main: whether this process writes.
        track: told the step and ``{name: value}`` of each measurement, for trackers.
    """

    def __init__(
        self,
        file: Path,
        model: nn.Module,
        batch: Batch | None,
        optimizers: list[torch.optim.Optimizer],
        *,
        every: int,
        watch: StabilityWatch,
        main: bool = True,
        track: Callable[[int, dict[str, float]], None] | None = None,
    ):
        self.file, self.model, self.batch, self.watch, self.main, self.track = file, model, batch, watch, main, track
        self.every = every if batch is not None else 0
        self.table: LayerTable | None = None
        self.scalars: dict[str, float] = {}
        self.start = measure_start(model, batch) if self.every and main and batch is not None else None
        self.optimizers = OptimizerWatch(model, optimizers) if self.every and main else None
        self.previous: Tensors = {}

    def begin(self, step: int, state: dict[str, Any] | None = None, tensors: Tensors | None = None) -> None:
        """Go on after ``step`` optimiser steps; at 0 measure the initialisation.

        Args:
            step: optimiser steps done.
            state: what ``state_dict`` gave then; by default the watch looks again at what the table holds.
            tensors: what ``tensors`` gave then, on any device.
        """
        found = tensors or {}
        # In the model's order, whatever the file's: sums over parameters round as in a run that went through.
        own = self.model.named_parameters()
        self.previous = {name: found[name].to(parameter.device) for name, parameter in own if name in found}
        if self.main:
            self.table = LayerTable(self.file, step)
            if step == 0:
                self._measure(0)
                self.scalars = {}
        if state:
            self.watch.load_state_dict(state)
        elif step and self.table is not None:
            for at, loss, grad_norm in self.table.steps("train_loss", "train_gradient_norm"):
                self.watch.update(int(at), loss, grad_norm)

    @contextmanager
    def around(self, step: int, learning_rate: float) -> Iterator[None]:
        """Put this around optimiser step ``step`` (from 1), taken at ``learning_rate``: the weights, and what they make
        of the batch, are held against themselves before it."""
        if self.optimizers is None or self.batch is None:
            yield
            return
        due = step % self.every == 0
        self.optimizers.expect(everything=due)
        before = snapshot(self.model) if due or (step + 1) % self.every == 0 else {}
        states = final_states(self.model, self.batch) if due else None
        yield
        change = changes(before, self.model)
        if states is not None:
            rows = step_rows(self.model, before, change, self.optimizers.gradients, self.previous)
            self._measure(step, (states, learning_rate) if learning_rate else None, rows)
        self.previous = change if (step + 1) % self.every == 0 else {}

    def take(self, step: int, loss: float, grad_norm: float) -> dict[str, float]:
        """Every step's loss (nats) and gradient norm before clipping; what is to be logged of it beside them."""
        spike = self.watch.update(step, loss, grad_norm)
        if self.table is not None:
            seen = {"train_loss": loss, "train_gradient_norm": grad_norm}
            if (coefficient := self.watch.clip_coefficient(grad_norm)) is not None:
                seen["clip_coefficient"] = coefficient
            self.table.append(step, [(WHOLE, "model", metric, value) for metric, value in seen.items()])
        if self.table is not None and self.optimizers is not None:
            rows = self.optimizers.rows()
            self.table.append(step, rows)
            self._say(step, rows)
        found, self.scalars = self.scalars, {}
        return found | ({"spike": 1.0} if spike else {})

    def _measure(self, step: int, before: tuple[torch.Tensor, float] | None = None, more: Sequence[Row] = ()) -> None:
        if not self.every or self.batch is None or self.table is None:
            return
        rows = [*measure(self.model, self.batch, self.start, before), *more]
        self.table.append(step, rows)
        self.table.write_if_grown()
        self._say(step, rows)

    def _say(self, step: int, rows: Sequence[Row]) -> None:
        """Tell trackers all of them, and keep what stands in metrics.jsonl as well."""
        if self.track is not None and rows:
            self.track(step, tracked(rows))
        whole = {metric: value for layer, _, metric, value in rows if layer == WHOLE}
        self.scalars |= {f"layers/{name}": whole[name] for name in SCALARS if name in whole}

    def write(self) -> None:
        """Put everything up to now on the disk; at each checkpoint and at the end."""
        if self.table is not None:
            self.table.write()

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values, for the checkpoint."""
        return self.watch.state_dict()

    def tensors(self) -> Tensors:
        """For the checkpoint too: the latest update, where the next step's is to be held against it; else nothing."""
        return self.previous


def tracked(rows: Sequence[Row]) -> dict[str, float]:
    """Rows under the names that trackers group by: ``stream_rms/003.mlp``."""
    return {
        f"{metric}/{'all' if layer == WHOLE else f'{layer:03d}'}.{sublayer}": value
        for layer, sublayer, metric, value in rows
        if math.isfinite(value)
    }
