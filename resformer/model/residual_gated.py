"""Gated connections: what is kept and what is written depends on the stream."""

import math
from typing import Literal

import torch
from torch import nn

from .initialization import constant, normal, uniform
from .normalization import make_norm
from .residual import Residual, Site


class _Gate(nn.Module):
    """``sigmoid(W h + b)``, W a full matrix, a diagonal one, or one row for all channels."""

    def __init__(self, size: int, form: str, bias: float):
        super().__init__()
        self.form, self.initial_bias = form, bias
        rows = 1 if form == "scalar" else size
        self.weight = nn.Parameter(torch.zeros(size) if form == "diagonal" else torch.zeros(rows, size))
        self.bias = nn.Parameter(torch.full((rows,), bias))

    def forward(self, h):
        if self.form == "diagonal":
            return torch.sigmoid(self.weight * h + self.bias)
        return torch.sigmoid(nn.functional.linear(h, self.weight, self.bias))

    def init_weights(self):
        # The paper's W is zero-mean with unit gain over its inputs.
        normal(self, std=1 / math.sqrt(self.weight.shape[-1]))
        constant(self, self.initial_bias, "bias")


class Highway(Residual):
    """``t f(norm(h)) + c h`` with ``t = sigmoid(W h + b)`` and ``c = 1 - t``. Srivastava et al. 2015,
    arXiv:1505.00387.

    Args:
        bias: initial b; negative, so that the connection starts near the identity.
        coupled: ``c = 1 - t``, or else a carry gate of its own whose bias starts at ``-bias``.
        gate: W as a ``full`` matrix, a ``diagonal`` one or a ``scalar`` gate for all channels.
        norm: ``pre``, or ``none`` as published.
    """

    def __init__(
        self,
        config,
        site: Site,
        *,
        bias: float = -2.0,
        coupled: bool = True,
        gate: Literal["full", "diagonal", "scalar"] = "full",
        norm: Literal["pre", "none"] = "pre",
    ):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()
        self.transform = _Gate(config.hidden_size, gate, bias)
        self.carry = None if coupled else _Gate(config.hidden_size, gate, -bias)

    def forward(self, h, f):
        t = self.transform(h)
        c = 1 - t if self.carry is None else self.carry(h)
        return t * f(self.norm(h)) + c * h

    def init_weights(self, branch):
        self.transform.init_weights()
        if self.carry is not None:
            self.carry.init_weights()


class GRU(Residual):
    """``GRUCell(f(h), h)``: torch's cell, the branch as input and the stream as hidden state. Cho et al. 2014,
    arXiv:1406.1078. GTrXL's gate is another one.

    Args:
        norm: ``none``, or ``pre`` for ``GRUCell(f(norm(h)), h)``.
    """

    def __init__(self, config, site: Site, *, norm: Literal["none", "pre"] = "none"):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()
        self.cell = nn.GRUCell(config.hidden_size, config.hidden_size)

    def forward(self, h, f):
        y = f(self.norm(h))
        return self.cell(y.flatten(0, -2).to(h.dtype), h.flatten(0, -2)).to(h.dtype).view_as(h)

    def init_weights(self, branch):
        for name, _ in self.cell.named_parameters():
            uniform(self.cell, 1 / math.sqrt(self.cell.hidden_size), name)


KINDS: dict[str, type[Residual]] = {"highway": Highway, "gru": GRU}
