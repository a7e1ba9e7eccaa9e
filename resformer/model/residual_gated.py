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
    arXiv:1406.1078.

    GTrXL's gate is another one.

    Args:
        norm: ``none``, or ``pre`` for ``GRUCell(f(norm(h)), h)``.
    """

    oracle = "x-transformers gate_residual"

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


class GTrXL(Residual):
    """``(1 - z) h + z tanh(W y + U (r h))`` with ``y = relu(f(norm(h)))``. Parisotto et al. 2019 (GTrXL),
    arXiv:1910.06764.

    ``r = sigmoid(W_r y + U_r h)`` and ``z = sigmoid(W_z y + U_z h - b)``. The cell of torch is another one: it resets
    after the matrix product, and its z says what to keep.

    Args:
        gate: ``gru``, or the paper's other gates: ``input`` sigmoid(W h) h + y, ``output`` h + sigmoid(W h - b) y,
            ``highway`` g h + (1 - g) y with g = sigmoid(W h + b), ``sigtanh`` h + sigmoid(W y - b) tanh(U y).
        bias: initial b; by default 2 for ``gru`` and 1 for the others, near the identity.
    """

    def __init__(
        self,
        config,
        site: Site,
        *,
        gate: Literal["gru", "input", "output", "highway", "sigtanh"] = "gru",
        bias: float | None = None,
    ):
        super().__init__(config, site)
        self.norm = make_norm(config)
        self.gate = gate
        self.initial_bias = (2.0 if gate == "gru" else 1.0) if bias is None else bias
        size = config.hidden_size
        matrices = {"gru": ("w_r", "u_r", "w_z", "u_z", "w", "u"), "sigtanh": ("w", "u")}.get(gate, ("w",))
        for name in matrices:
            self.register_parameter(name, nn.Parameter(torch.zeros(size, size)))
        self.matrices = matrices
        self.b = None if gate == "input" else nn.Parameter(torch.full((size,), self.initial_bias))

    def forward(self, h, f):
        y = torch.relu(f(self.norm(h)))
        linear, sigmoid = nn.functional.linear, torch.sigmoid
        if self.gate == "input":
            return sigmoid(linear(h, self.w)) * h + y
        if self.gate == "output":
            return h + sigmoid(linear(h, self.w) - self.b) * y
        if self.gate == "highway":
            g = sigmoid(linear(h, self.w) + self.b)
            return g * h + (1 - g) * y
        if self.gate == "sigtanh":
            return h + sigmoid(linear(y, self.w) - self.b) * torch.tanh(linear(y, self.u))
        r = sigmoid(linear(y, self.w_r) + linear(h, self.u_r))
        z = sigmoid(linear(y, self.w_z) + linear(h, self.u_z) - self.b)
        return (1 - z) * h + z * torch.tanh(linear(y, self.w) + linear(r * h, self.u))

    def init_weights(self, branch):
        for name in self.matrices:
            normal(self, 1 / math.sqrt(self.config.hidden_size), name)
        constant(self, self.initial_bias, "b")


class Gated(Residual):
    """``h + sigmoid(g) f(norm(h))``, g learned or a function of h. The output half of a highway connection,
    Srivastava et al. 2015, arXiv:1505.00387.

    Args:
        gate: ``vector``, a gate for each channel, or ``scalar``.
        data: g = W h + b instead of b alone, W from 0.
        init: what sigmoid(g) starts at.
    """

    def __init__(
        self, config, site: Site, *, gate: Literal["vector", "scalar"] = "vector", data: bool = False, init: float = 0.5
    ):
        super().__init__(config, site)
        if not 0 < init < 1:
            raise ValueError(f"init is {init}; it must be in (0, 1)")
        self.norm = make_norm(config)
        self.initial_bias = math.log(init / (1 - init))
        rows = config.hidden_size if gate == "vector" else 1
        self.weight = nn.Parameter(torch.zeros(rows, config.hidden_size)) if data else None
        self.bias = nn.Parameter(torch.full((rows,), self.initial_bias))

    def forward(self, h, f):
        g = self.bias if self.weight is None else nn.functional.linear(h, self.weight, self.bias)
        return h + torch.sigmoid(g) * f(self.norm(h))

    def init_weights(self, branch):
        constant(self, 0.0, "weight")
        constant(self, self.initial_bias, "bias")


class Orthogonal(Residual):
    """``h + f - (f . h / |h|^2) h`` with ``f = f(norm(h))``: only what is orthogonal to the stream is written. Oh et
    al. 2025, arXiv:2505.11881.
    """

    oracle = "x-transformers orthog_residual"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        y = f(self.norm(h)).to(h.dtype)
        return h + y - (y * h).sum(-1, keepdim=True) / (h * h).sum(-1, keepdim=True).clamp(min=1e-12) * h


KINDS: dict[str, type[Residual]] = {
    "highway": Highway,
    "gtrxl": GTrXL,
    "gru": GRU,
    "gated": Gated,
    "orthogonal": Orthogonal,
}
