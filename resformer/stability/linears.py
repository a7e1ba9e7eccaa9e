"""The linear layers of the blocks: how far their outputs have moved and why, and how far sequences agree on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .rows import WHOLE, Rows, place_of, ratio, square_sums, tensor_class
from .signal import evenly_spaced, rms

TOKENS = 128
"""Tokens of the batch, evenly spaced, on which the outputs are compared with those at initialisation."""

Calls = dict[str, list[tuple[torch.Tensor, torch.Tensor]]]
"""By name of the weight, input and output of each call of its layer."""


@contextmanager
def watching_linears(model: nn.Module) -> Iterator[Calls]:
    """While it is open, a forward pass leaves here what went through each linear layer of the blocks."""
    calls: Calls = defaultdict(list)

    def note(name: str):
        return lambda module, inputs, output: calls[name].append((inputs[0], output))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if isinstance(module, nn.Linear) and ".layers." in name:
                stack.callback(module.register_forward_hook(note(f"{name}.weight")).remove)
        yield calls


@dataclass(frozen=True)
class LinearStart:
    """Weights ``[out, in]`` at initialisation and what they made of their inputs then, ``[tokens, out]``, by name."""

    weights: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]


@torch.no_grad()
def linear_start(model: nn.Module, calls: Calls) -> LinearStart:
    weights = {name: model.get_parameter(name).detach().clone() for name in calls}
    return LinearStart(weights, {name: F.linear(_tokens(calls[name]), weight) for name, weight in weights.items()})


@torch.no_grad()
def add_coordinates(rows: Rows, model: nn.Module, calls: Calls, start: LinearStart) -> None:
    """The two parts of the change of a layer's output since initialisation: ``coordinate_weights`` is the RMS of
    ``(W - W_0) x``, what the weights have learned, and ``coordinate_inputs`` that of ``W_0 (x - x_0)``, what the layers
    below carried up. Haas et al. 2025, arXiv:2505.22491 (refined coordinate check); Yang et al. 2022 (coordinate
    check), arXiv:2203.03466."""
    for name, first in start.weights.items():
        if calls.get(name):
            x = _tokens(calls[name])
            place, then = place_of(name), F.linear(x, first)
            learned = F.linear(x, model.get_parameter(name) - first)
            rows.add(*place, f"coordinate_weights.{tensor_class(name)}", rms(learned))
            rows.add(*place, f"coordinate_inputs.{tensor_class(name)}", rms(then - start.outputs[name]))


@torch.no_grad()
def add_gradient_noise(
    rows: Rows, model: nn.Module, calls: Calls, gradients: Mapping[tuple[str, int], torch.Tensor], sequences: int
) -> None:
    """How far the sequences of the batch agree on where the weights should go.

    With ``g_k`` the gradient of sequence k's mean loss and ``g`` their mean over the K sequences, ``gradient_snr`` is
    ``|g|^2 / mean_k |g_k - g|^2`` of each weight, site and of all blocks (Schneider et al. 2021, Cockpit,
    arXiv:2102.06604). ``gradient_noise_trace`` is tr(Sigma) and ``gradient_noise_signal`` the squared length of the
    true gradient, both without bias; their ratio ``gradient_noise_scale``, in sequences, is left out where the latter
    comes out negative (McCandlish et al. 2018, arXiv:1812.06162). A mean over looks is taken of trace and signal
    before they are divided.

    Args:
        gradients: of the batch's mean loss with respect to the output of each call, by name and number of the call.
        sequences: in the batch, the first dimension of every input and output.
    """
    parts: dict[str, torch.Tensor] = {}
    for name in dict.fromkeys(name for name, _ in gradients):
        pairs = [(x, gradients[name, i]) for i, (x, _) in enumerate(calls[name]) if (name, i) in gradients]
        # A sequence's share of the batch's mean is its own mean over K.
        shares = torch.stack([torch.bmm(dy.flatten(1, -2).mT, x.flatten(1, -2)) for x, dy in pairs]).sum(0)
        sums = square_sums({"of the mean": shares.sum(0), "of each": shares})
        signal, squares = sums["of the mean"], sums["of each"]
        parts[name] = torch.stack([signal, (sequences * squares - signal).clamp(min=0)])
    if not parts or sequences == 1:
        return
    rows.add_pooled("gradient_snr", model, parts, ratio, optional=True)
    signal, noise = torch.stack(list(parts.values())).sum(0)
    trace = noise * sequences / (sequences - 1)
    true = signal - trace / sequences
    rows.add(WHOLE, "model", "gradient_noise_trace", trace)
    rows.add(WHOLE, "model", "gradient_noise_signal", true)
    rows.add(WHOLE, "model", "gradient_noise_scale", ratio(trace, true), optional=True)


def _tokens(calls: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
    x = calls[0][0].flatten(0, -2)
    return x[evenly_spaced(len(x), TOKENS, x.device)]
