"""What a connection keeps inside: gates, scales, weights over depth, mixing of streams."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch.nn.functional import linear

from ..model import Residual
from ..model.residual_gated import GRU, Gated, GTrXL, Highway
from ..model.residual_history import AttentionResidual
from ..model.residual_scaled import DeepNorm, LayerNormScaling, Scaled
from ..model.residual_shortcut import Laurel
from ..model.residual_streams import HyperConnections, ManifoldHyperConnections
from .seam import NORMS

LARGEST = 4096
LISTED = 64
GATES = ("gate", "carry")


@singledispatch
def internals(connection: Residual, state: Any, written: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    """Named tensors of a connection on the state ``[batch, time, ...]`` that arrived at it, and what its branch wrote.

    By default its own parameters of up to 4,096 elements that are no norm's; of the kinds below what their maps are on
    this state. A class of one's own may offer ``internals(state)``. ``mixing`` is special: ``[batch, time, to, from]``.
    """
    own = getattr(connection, "internals", None)
    if own is not None:
        return own(state)
    inside_norms = {id(p) for m in connection.modules() if isinstance(m, NORMS) for p in m.parameters()}
    return {
        name: parameter
        for name, parameter in connection.named_parameters()
        if parameter.numel() <= LARGEST and id(parameter) not in inside_norms
    }


_parameters = internals.dispatch(object)


@internals.register
def _(connection: Highway, state, written=None) -> dict[str, torch.Tensor]:
    gates = {"gate": connection.transform(state), "bias": connection.transform.bias}
    return gates if connection.carry is None else gates | {"carry": connection.carry(state)}


@internals.register
def _(connection: Gated, state, written=None) -> dict[str, torch.Tensor]:
    bias, weight = connection.bias, connection.weight
    logits = bias if weight is None else linear(state, weight, bias)
    return {"gate": torch.sigmoid(logits).expand(*state.shape[:2], -1)}


@internals.register
def _(connection: HyperConnections, state, written=None) -> dict[str, torch.Tensor]:
    alpha, beta = connection.maps(state)
    shape = state.shape[:2]
    read, mixing = alpha.expand(*shape, -1, -1).split([connection.reads, connection.n], dim=-1)
    return {"read": read, "mixing": mixing.mT, "write": beta.expand(*shape, -1)}


@internals.register
def _(connection: ManifoldHyperConnections, state, written=None) -> dict[str, torch.Tensor]:
    read, write, mixing = connection.maps(state)
    return {"read": read, "mixing": mixing.mT, "write": write}


@internals.register
def _(connection: AttentionResidual, state, written=None) -> dict[str, torch.Tensor]:
    weights = connection.attend.weights(state).squeeze(-1)
    return {"depth_attention": weights.permute(1, 2, 0)} | _parameters(connection, state)


@internals.register
def _(connection: GTrXL, state, written=None) -> dict[str, torch.Tensor]:
    if written is None:
        return _parameters(connection, state)
    y, b = torch.relu(written), 0 if connection.b is None else connection.b
    weight = connection.get_parameter
    if connection.gate == "gru":
        logits = linear(y, weight("w_z")) + linear(state, weight("u_z")) - b
    else:
        logits = linear(y if connection.gate == "sigtanh" else state, weight("w"))
        logits = logits + b if connection.gate == "highway" else logits - b
    return {"gate": torch.sigmoid(logits)} | ({} if connection.b is None else {"bias": connection.b})


@internals.register
def _(connection: GRU, state, written=None) -> dict[str, torch.Tensor]:
    """Torch's z, the share of the stream that is kept."""
    if written is None:
        return _parameters(connection, state)
    cell = connection.cell
    of_branch, of_stream = linear(written, cell.weight_ih, cell.bias_ih), linear(state, cell.weight_hh, cell.bias_hh)
    return {"gate": torch.sigmoid((of_branch + of_stream).chunk(3, dim=-1)[1])}


@internals.register
def _(connection: Laurel, state, written=None) -> dict[str, torch.Tensor]:
    found = _parameters(connection, state)
    raw = found.pop("weights", None)
    if raw is not None:
        a, b = torch.softmax(raw, 0) if connection.bound == "softmax" else torch.sigmoid(raw)
        found |= {"a": a, "b": b}
    return found


@internals.register
def _(connection: Scaled, state, written=None) -> dict[str, torch.Tensor]:
    return {
        name: torch.as_tensor(value, device=state.device) for name, value in (("a", connection.a), ("b", connection.b))
    }


@internals.register
def _(connection: DeepNorm, state, written=None) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(getattr(connection, name), device=state.device) for name in ("alpha", "beta")}


@internals.register
def _(connection: LayerNormScaling, state, written=None) -> dict[str, torch.Tensor]:
    return {"scale": connection.depth.rsqrt()}


def numbers(found: dict[str, torch.Tensor], width: int) -> dict[str, torch.Tensor]:
    """Scalars of named tensors, as ``name``, ``name[3]``, ``name.mean``, ...

    Activations ``[batch, time, ...]`` with few entries for each token are listed by their mean over tokens, others get
    mean and deviation, and gates also the share below 0.05 or above 0.95 (``saturated``). Parameters are
    listed where they are few, or else get mean, deviation, smallest and largest.

    Args:
        width: of the stream; a vector of that size is one number for each channel, and never listed.
    """
    scalars: dict[str, torch.Tensor] = {}
    for name, raw in found.items():
        tensor = raw.detach().float()
        activation = tensor.ndim >= 3
        entries = tensor.flatten(0, 1).mean(0) if activation else tensor
        if entries.numel() == 1 and not activation:
            scalars[name] = entries.reshape(())
        elif 1 < entries.numel() <= LISTED and width not in entries.shape:
            for index in torch.cartesian_prod(*(torch.arange(n) for n in entries.shape)).reshape(-1, entries.ndim):
                place = tuple(int(i) for i in index)
                scalars[f"{name}[{','.join(map(str, place))}]"] = entries[place]
        else:
            scalars |= {f"{name}.mean": tensor.mean(), f"{name}.std": tensor.std(correction=0)}
            if not activation:
                scalars |= {f"{name}.min": tensor.min(), f"{name}.max": tensor.max()}
        if activation and name in GATES:
            scalars[f"{name}.saturated"] = ((tensor < 0.05) | (tensor > 0.95)).float().mean()
    return scalars
