"""One measurement: every metric of a model on one batch, as rows ``(layer, sublayer, metric, value)``.

Rows of layer -1 are of the whole model: sublayer ``embedding`` (the stream before the first site), ``head`` (output
projection), ``model``. Gradients are of the mean cross-entropy in nats per token; a gradient with respect to the stream
is the one that arrives at the site's output, and where the state is more than that one stream, the one that arrives at
what the branch wrote: the same thing wherever the write is an addition.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from .attention import watching_attention
from .internals import internals, numbers
from .seam import SiteView, measurable, run, watching
from .signal import STREAM, amax_gain, angular_distance, cosine, rms

Row = tuple[int, str, str, float]
Batch = dict[str, torch.Tensor]

WHOLE = -1


class Rows:
    """Collects scalars on the device, and brings them over at once."""

    def __init__(self) -> None:
        self.places: list[tuple[int, str, str]] = []
        self.values: list[torch.Tensor] = []

    def add(self, layer: int, sublayer: str, metric: str, value: torch.Tensor) -> None:
        self.places.append((layer, sublayer, metric))
        self.values.append(value.detach().double().reshape(()))

    def finish(self) -> list[Row]:
        values = torch.stack(self.values).tolist() if self.values else []
        return [(*place, value) for place, value in zip(self.places, values, strict=True)]


def measure(model: nn.Module, batch: Batch, reference: torch.Tensor | None = None, gradients: bool = True) -> list[Row]:
    """All metrics of one forward and backward pass on ``batch``; the model's gradients and mode stay as they are.

    Args:
        model: a resformer, not wrapped; float32 for numbers that compare.
        batch: ``input_ids`` and ``shift_labels`` ``[batch, time]``, on the model's device.
        reference: final hidden states on this batch at initialisation, for the accumulated model update.
        gradients: whether to run the backward pass.
    """
    rows = Rows()
    with measurable(model), watching(model) as views, watching_attention(model) as attention:
        with torch.set_grad_enabled(gradients), FinalStates(model) as final:
            output = run(model, batch)
        _sites(rows, views)
        for layer, found in attention.items():
            sublayer = next((view.sublayer for view in views if view.layer == layer), "attention")
            for metric, value in found.items():
                rows.add(layer, sublayer, metric, value)
        _head(rows, output.logits, output.cross_entropy)
        _weights(rows, model)
        if reference is not None:
            rows.add(WHOLE, "model", "accumulated_update", rms(final[0] - reference))
        if gradients:
            _gradients(rows, model, views, output.cross_entropy)
    return rows.finish()


class FinalStates:
    """Context in which a forward pass leaves the final hidden states ``[batch, time, hidden]`` in the list it gives."""

    def __init__(self, model: nn.Module):
        self.head = model.get_output_embeddings()  # type: ignore[operator]

    def __enter__(self) -> list[torch.Tensor]:
        found: list[torch.Tensor] = []
        self.hook = self.head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0].detach()))
        return found

    def __exit__(self, *error) -> None:
        self.hook.remove()


@torch.no_grad()
def reference_states(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Final hidden states on ``batch``, to measure the accumulated update against. Wang et al. 2022 (DeepNet),
    arXiv:2203.00555."""
    with measurable(model), watching_attention(model), FinalStates(model) as final:
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
        for name, given in view.norm_inputs.items():
            rows.add(*place, f"norm_input_rms.{name}", rms(given))
        found = internals(view.connection, view.state)
        for name, value in numbers(found, view.after.shape[-1]).items():
            rows.add(*place, f"internal.{name}", value)
        mixing = found.get("mixing")
        if mixing is None or view.connection.enters:
            composite = None
        if mixing is not None:
            composite = mixing if composite is None else mixing @ composite
            for label, matrix in (("mixing", mixing), ("composite", composite)):
                for name, value in amax_gain(matrix).items():
                    rows.add(*place, f"{label}_gain.{name}", value)


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


def _gradients(rows: Rows, model: nn.Module, views: list[SiteView], loss: torch.Tensor) -> None:
    """Through ``torch.autograd.grad``, which leaves ``.grad`` and the hooks of several processes alone."""
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    streams = [view.after for view in views if view.single]
    written = [view.written for view in views if view.written is not None]
    start = [views[0].before] if views[0].before.requires_grad else []
    wanted = [*start, *streams, *written, *parameters.values()]
    found = iter(torch.autograd.grad(loss, wanted, allow_unused=True))
    if start:
        _add_rms(rows, WHOLE, "embedding", "stream_gradient_rms", next(found))
    of_streams = {id(view): next(found) for view in views if view.single}
    for view in views:
        of_branch = next(found) if view.written is not None else None
        _add_rms(rows, view.layer, view.sublayer, "branch_gradient_rms", of_branch)
        _add_rms(rows, view.layer, view.sublayer, "stream_gradient_rms", of_streams.get(id(view), of_branch))
    gradients = {name: g for name, g in zip(parameters, found, strict=True) if g is not None}
    per_place(rows, "gradient_norm", gradients, lambda tensors: torch.stack(torch._foreach_norm(tensors)).norm())
    for name, gradient in gradients.items():
        if gradient.ndim >= 2:
            rows.add(*place_of(name), f"gradient_rms.{tensor_class(name)}", rms(gradient))


def _add_rms(rows: Rows, layer: int, sublayer: str, metric: str, tensor: torch.Tensor | None) -> None:
    if tensor is not None:
        rows.add(layer, sublayer, metric, rms(tensor))


def per_place(rows: Rows, metric: str, tensors: dict[str, torch.Tensor], compute) -> None:
    """``compute`` of all tensors of each site and of the whole model, and of each matrix as ``metric.class``."""
    places: dict[tuple[int, str], list[torch.Tensor]] = defaultdict(list)
    for name, tensor in tensors.items():
        places[place_of(name)].append(tensor)
        if tensor.ndim >= 2:
            rows.add(*place_of(name), f"{metric}.{tensor_class(name)}", compute([tensor]))
    for place, members in places.items():
        rows.add(*place, metric, compute(members))
    rows.add(WHOLE, "model", metric, compute(list(tensors.values())))


def place_of(name: str) -> tuple[int, str]:
    """Site of a parameter of a resformer: a connection's parameters count with its branch."""
    match = re.search(r"\.layers\.(\d+)\.([a-z]+)", name)
    if match:
        return int(match[1]), match[2]
    return WHOLE, "embedding" if "embed" in name else "head"


def tensor_class(name: str) -> str:
    """``q_proj``, ``down_proj``, ...; ``residual`` and the name for what belongs to a connection."""
    parts = name.split(".")
    connection = next((i for i, part in enumerate(parts) if part.endswith("_residual")), None)
    if connection is not None:
        return ".".join(["residual", *parts[connection + 1 :]])
    return parts[-2] if parts[-1] in ("weight", "bias") else parts[-1]


@torch.no_grad()
def updates(before: dict[str, torch.Tensor], model: nn.Module) -> list[Row]:
    """Update-to-weight ratios of one optimiser step: RMS of the change over RMS of the weight before it.

    Args:
        before: the parameters before the step, as ``snapshot`` gives them.
        model: after the step.
    """
    rows = Rows()
    now = dict(model.named_parameters())
    changes = {name: now[name] - old for name, old in before.items()}
    norms: dict[str, dict[tuple[int, str, str], torch.Tensor]] = {}
    for label, tensors in (("change", changes), ("weight", before)):
        part = Rows()
        per_place(part, "", tensors, lambda members: torch.stack(torch._foreach_norm(members)).norm())
        norms[label] = dict(zip(part.places, part.values, strict=True))
    for (layer, sublayer, suffix), weight in norms["weight"].items():
        if weight > 0:
            ratio = norms["change"][layer, sublayer, suffix] / weight
            rows.add(layer, sublayer, f"update_to_weight{suffix}", ratio)
    return rows.finish()


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def wide(rows: Iterable[Row]) -> dict[tuple[int, str, str], float]:
    return {(layer, sublayer, metric): value for layer, sublayer, metric, value in rows}
