"""One measurement: every metric of a model on one batch, as rows.

Gradients are of the mean cross-entropy in nats per token; a gradient with respect to the stream is the one that arrives
at the site's output, and where the state is more than that one stream, the one that arrives at what the branch wrote:
the same thing wherever the write is an addition.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from .attention import watching_attention
from .internals import numbers
from .linears import Calls, LinearStart, add_coordinates, add_gradient_noise, linear_start, watching_linears
from .rows import WHOLE, Row, Rows, place_of, ratio, square_sums, tensor_class
from .seam import SiteView, measurable, run, watching, watching_final_states
from .signal import STREAM, amax_gain, angular_distance, cosine, growth_fits, rms, stream_rms_ratio

Batch = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Start:
    """The model at initialisation, on the batch: final hidden states ``[batch, time, hidden]`` and linear layers."""

    states: torch.Tensor
    linears: LinearStart


def measure(
    model: nn.Module,
    batch: Batch,
    start: Start | None = None,
    before: tuple[torch.Tensor, float] | None = None,
    gradients: bool = True,
) -> list[Row]:
    """All metrics of one forward and backward pass on ``batch``; the model's gradients and mode stay as they are.

    Args:
        model: a resformer, not wrapped; float32 for numbers that compare.
        batch: ``input_ids`` and ``shift_labels`` ``[batch, time]``, on the model's device.
        start: what ``measure_start`` gave, for what is measured against the initialisation.
        before: what ``final_states`` gave before the last optimiser step, and that step's learning rate.
        gradients: whether to run the backward pass.
    """
    rows = Rows()
    with measurable(model), watching(model) as views, watching_attention(model) as attention:
        with torch.set_grad_enabled(gradients), watching_final_states(model) as final, watching_linears(model) as calls:
            output = run(model, batch)
        _sites(rows, views)
        for layer, found in attention.items():
            sublayer = next((view.sublayer for view in views if view.layer == layer), "attention")
            for metric, value in found.items():
                rows.add(layer, sublayer, metric, value)
        _head(rows, output.logits, output.cross_entropy)
        _weights(rows, model)
        if start is not None:
            rows.add(WHOLE, "model", "accumulated_update", rms(final[0].detach() - start.states))
            add_coordinates(rows, model, calls, start.linears)
        if before is not None:
            rows.add(WHOLE, "model", "one_step_update", rms(final[0].detach() - before[0]) / before[1])
        if gradients:
            _gradients(rows, model, views, calls, output.cross_entropy)
    return rows.finish()


@contextmanager
def _plain(model: nn.Module) -> Iterator[None]:
    """The conditions of a measurement, without one."""
    with measurable(model), watching_attention(model, measured=False):
        yield


@torch.no_grad()
def measure_start(model: nn.Module, batch: Batch) -> Start:
    """Of a model at its initialisation, what later measurements are held against: how far the function has moved is
    what Wang et al. 2022 (DeepNet), arXiv:2203.00555, trace instability to."""
    with _plain(model), watching_final_states(model) as final, watching_linears(model) as calls:
        run(model, batch)
    return Start(final[0], linear_start(model, calls))


@torch.no_grad()
def final_states(model: nn.Module, batch: Batch) -> torch.Tensor:
    """``[batch, time, hidden]``, under the conditions of a measurement."""
    with _plain(model), watching_final_states(model) as final:
        run(model, batch)
    return final[0]


@torch.no_grad()
def _sites(rows: Rows, views: list[SiteView]) -> None:
    for metric, compute in STREAM.items():
        rows.add(WHOLE, "embedding", metric, compute(views[0].before))
    composite: torch.Tensor | None = None
    for view in views:
        place = (view.layer, view.sublayer)
        for metric, compute in STREAM.items():
            rows.add(*place, metric, compute(view.after))
        if view.after.shape == view.before.shape:
            rows.add(*place, "write_ratio", rms(view.after - view.before) / rms(view.before))
            rows.add(*place, "angular_distance", angular_distance(view.before, view.after))
            rows.add(*place, "block_influence", 1 - cosine(view.before, view.after))
        if view.written is not None and view.read is not None:
            rows.add(*place, "read_rms", rms(view.read))
            rows.add(*place, "branch_rms", rms(view.written))
            rows.add(*place, "branch_ratio", rms(view.written) / rms(view.before))
            if view.written.shape == view.before.shape:
                rows.add(*place, "branch_cosine", cosine(view.written, view.before))
            # The other canonical view, where a site reads something else than the stream.
            if view.reads is not None and view.reads is not view.before and view.reads.shape == view.written.shape:
                rows.add(*place, "branch_read_ratio", rms(view.written) / rms(view.reads))
                rows.add(*place, "branch_read_cosine", cosine(view.written, view.reads))
        for name, given in view.norm_inputs.items():
            rows.add(*place, f"norm_input_rms.{name}", rms(given))
        found = view.connection.internals(view.state, view.written)
        for name, value in numbers(found, view.after.shape[-1]).items():
            rows.add(*place, f"internal.{name}", value)
        mixing = found.get("mixing")
        if mixing is None or view.connection.enters:
            composite = None
        if mixing is not None:
            composite = mixing if composite is None else mixing @ composite
            rows.add(*place, "stream_rms_ratio", stream_rms_ratio(view.state))
            for label, matrix in (("mixing", mixing), ("composite", composite)):
                for name, value in amax_gain(matrix).items():
                    rows.add(*place, f"{label}_gain.{name}", value)
    sizes = [rms(views[0].before), *(rms(view.after) for view in views)]
    for fit, value in growth_fits(torch.stack(sizes)).items():
        rows.add(WHOLE, "model", f"stream_growth_{fit}_r2", value, optional=True)
    rows.add(WHOLE, "model", "growth_exponent", _growth_exponent(views, rms(views[0].before), rms(views[-1].after)))


def _growth_exponent(views: list[SiteView], first: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """``log(last / first)`` for each block: 0 where nothing vanishes or explodes. OLMo 2 2024, arXiv:2501.00656, take
    the norm of the mean over tokens; here it is of RMS values."""
    return (last / first).log() / len({view.layer for view in views})


@torch.no_grad()
def _head(rows: Rows, logits: torch.Tensor, loss: torch.Tensor) -> None:
    log_z = torch.logsumexp(logits.float(), dim=-1)
    rows.add(WHOLE, "model", "probe_loss", loss)
    rows.add(WHOLE, "model", "log_z_mean", log_z.mean())
    rows.add(WHOLE, "model", "log_z_max", log_z.amax())
    rows.add(WHOLE, "model", "logit_mean", logits.float().mean())


@torch.no_grad()
def _weights(rows: Rows, model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            rows.add(*place_of(name), f"weight_rms.{tensor_class(name)}", rms(parameter))


def _gradients(rows: Rows, model: nn.Module, views: list[SiteView], calls: Calls, loss: torch.Tensor) -> None:
    """Through ``torch.autograd.grad``, which leaves ``.grad`` and the hooks of several processes alone."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    start = {0: views[0].before} if views[0].before.requires_grad else {}
    streams = {i: view.after for i, view in enumerate(views) if view.single}
    branches = {i: view.written for i, view in enumerate(views) if view.written is not None}
    outputs = {(name, i): output for name in calls if name in parameters for i, (_, output) in enumerate(calls[name])}
    of_start, of_streams, of_branches, of_outputs, gradients = gradients_of(
        loss, start, streams, branches, outputs, parameters
    )
    if of_start:
        rows.add(WHOLE, "embedding", "stream_gradient_rms", rms(of_start[0]))
    for i, view in enumerate(views):
        of_stream = of_streams.get(i) if view.single else of_branches.get(i)
        for metric, gradient in (("branch", of_branches.get(i)), ("stream", of_stream)):
            if gradient is not None:
                rows.add(view.layer, view.sublayer, f"{metric}_gradient_rms", rms(gradient))
        if of_start and of_stream is not None and view is views[-1]:
            growth = _growth_exponent(views, rms(of_start[0]), rms(of_stream))
            rows.add(WHOLE, "model", "gradient_growth_exponent", growth)
    sums = square_sums(gradients)
    parts = {name: torch.stack([part, part.new_tensor(gradients[name].numel())]) for name, part in sums.items()}
    rows.add_pooled("gradient_norm", model, parts, lambda square, count: square.sqrt(), vectors=True)
    rows.add_pooled("gradient_rms", model, parts, lambda square, count: (square / count).sqrt(), vectors=True)
    down = [part for name, part in sums.items() if name.endswith(".mlp.down_proj.weight")]
    if len(down) > 1:
        rows.add(WHOLE, "model", "gradient_first_last_ratio", ratio(down[0], down[-1]).sqrt(), optional=True)
    add_gradient_noise(rows, model, calls, of_outputs, sequences=len(views[0].before))


def gradients_of(loss: torch.Tensor, *groups: Mapping[Any, torch.Tensor]) -> list[dict[Any, torch.Tensor]]:
    """Of the loss with respect to the tensors of each group, by their keys, from one backward pass; what the loss does
    not depend on is left out."""
    asked = [tensor for group in groups for tensor in group.values()]
    found = iter(torch.autograd.grad(loss, asked, allow_unused=True))
    return [{key: gradient for key in group if (gradient := next(found)) is not None} for group in groups]
