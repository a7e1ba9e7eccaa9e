"""Rows ``(layer, sublayer, metric, value)``: how they are collected, and where in the model a parameter stands.

Rows of layer -1 are of the whole model: sublayer ``embedding`` (the stream before the first site), ``head`` (output
projection), ``model``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import nn

from .signal import precise

Row = tuple[int, str, str, float]
Place = tuple[int, str, str]

WHOLE = -1


class Rows:
    """Collects scalars on the device, and brings them over at once."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.values: list[torch.Tensor] = []
        self.optional: set[Place] = set()

    def add(self, layer: int, sublayer: str, metric: str, value: torch.Tensor, optional: bool = False) -> None:
        """``optional``: leave it out where it is not a number."""
        self.places.append((layer, sublayer, metric))
        self.values.append(precise(value.detach()).reshape(1))
        if optional:
            self.optional.add(self.places[-1])

    def add_pooled(
        self,
        metric: str,
        model: nn.Module,
        parts: dict[str, torch.Tensor],
        combine: Callable[..., torch.Tensor],
        optional: bool = False,
        vectors: bool = False,
    ) -> None:
        """A metric that is a function of sums over elements: of each matrix (as ``metric.class``), of all parameters of
        each site, and of all of the model.

        Args:
            parts: by name of a parameter, its sums ``[n]``.
            combine: of n sums, each ``[places]``.
            optional: as in ``add``.
            vectors: also of each vector (norms, gates, biases), as of each matrix.
        """
        if not parts:
            return
        groups: dict[Place, int] = {}
        of_group, of_part = [], []
        for i, name in enumerate(parts):
            layer, sublayer = place_of(name)
            places = [(layer, sublayer, metric), (WHOLE, "model", metric)]
            if vectors or model.get_parameter(name).ndim >= 2:
                places.append((layer, sublayer, f"{metric}.{tensor_class(name)}"))
            for place in places:
                of_group.append(groups.setdefault(place, len(groups)))
                of_part.append(i)
        sums = torch.stack([precise(part) for part in parts.values()])
        group, part = torch.tensor([of_group, of_part], device=sums.device)
        totals = sums.new_zeros(len(groups), sums.shape[1]).index_add_(0, group, sums[part])
        self.places += groups
        self.values.append(combine(*totals.unbind(1)).detach())
        self.optional |= set(groups) if optional else set()

    def finish(self) -> list[Row]:
        values = torch.cat(self.values).tolist() if self.values else []
        rows: list[Row] = []
        for place, value in zip(self.places, values, strict=True):
            if not (place in self.optional and math.isnan(value)):
                rows.append((*place, value))
        return rows


def ratio(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``a / b``, and not a number where b is not positive."""
    return torch.where(b > 0, a / b, torch.nan)


def square_sums(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Sum of the squares of each tensor's elements, in double precision where the device has it."""
    norms = torch._foreach_norm(list(tensors.values())) if tensors else []
    return {name: precise(norm).square() for name, norm in zip(tensors, norms, strict=True)}


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
