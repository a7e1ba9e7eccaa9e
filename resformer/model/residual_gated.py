"""Gated connections: what is kept and what is written depends on the stream."""

import math
from typing import Literal

import torch
from torch import nn

from .initialization import Normal, Uniform, parameter, starting
from .normalization import make_norm
from .residual import Residual, Site, sigmoid


class _Gate(nn.Module):
    """``sigmoid(W h + b)``, W a full matrix, a diagonal one, or one row for all channels.

    The paper's W is zero-mean with unit gain over its inputs.
    """

    def __init__(self, size: int, form: str, bias: float):
        super().__init__()
        self.form = form
        rows = 1 if form == "scalar" else size
        shape = (size,) if form == "diagonal" else (rows, size)
        self.weight = parameter(*shape, start=Normal(1 / math.sqrt(size)))
        self.bias = parameter(rows, start=bias)

    def forward(self, h):
        if self.form == "diagonal":
            return sigmoid(self.weight * h + self.bias)
        return sigmoid(nn.functional.linear(h, self.weight, self.bias))


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
        self.gate_closes = coupled

    def gates(self, h):
        """t and c."""
        t = self.transform(h)
        return t, 1 - t if self.carry is None else self.carry(h)

    def forward(self, h, f):
        t, c = self.gates(h)
        return t * f(self.norm(h)) + c * h

    def internals(self, state, written=None):
        t, c = self.gates(state)
        return {"gate": t, "bias": self.transform.bias} | ({} if self.carry is None else {"carry": c})


class GRU(Residual):
    """``GRUCell(f(h), h)``: torch's cell, the branch as input and the stream as hidden state. Cho et al. 2014,
    arXiv:1406.1078.

    GTrXL's gate is another one.

    Args:
        norm: ``none``, or ``pre`` for ``GRUCell(f(norm(h)), h)``.
    """

    oracle = "x-transformers gate_residual"
    gate_closes = True

    def __init__(self, config, site: Site, *, norm: Literal["none", "pre"] = "none"):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()
        self.cell = nn.GRUCell(config.hidden_size, config.hidden_size)
        for own in self.cell.parameters():
            starting(own, Uniform(1 / math.sqrt(config.hidden_size)))

    def gates(self, h, y):
        """r, z (the share of the stream that is kept) and the candidate n."""
        cell = self.cell
        of_branch = nn.functional.linear(y, cell.weight_ih, cell.bias_ih).chunk(3, dim=-1)
        of_stream = nn.functional.linear(h, cell.weight_hh, cell.bias_hh).chunk(3, dim=-1)
        r, z = (sigmoid(stream + branch) for stream, branch in zip(of_stream[:2], of_branch[:2], strict=True))
        return r, z, torch.tanh(of_branch[2] + of_stream[2] * r)

    def forward(self, h, f):
        # Written out, for under autocast torch's cell rounds the stream that it keeps to bfloat16.
        _, z, n = self.gates(h, f(self.norm(h)))
        return (h - n) * z + n

    def internals(self, state, written=None):
        return super().internals(state) if written is None else {"gate": self.gates(state, written)[1]}


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

    gate_closes = True
    w_r: nn.Parameter
    u_r: nn.Parameter
    w_z: nn.Parameter
    u_z: nn.Parameter
    w: nn.Parameter
    u: nn.Parameter
    b: nn.Parameter

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
        size = config.hidden_size
        matrices = {"gru": ("w_r", "u_r", "w_z", "u_z", "w", "u"), "sigtanh": ("w", "u")}.get(gate, ("w",))
        for name in matrices:
            self.register_parameter(name, parameter(size, size, start=Normal(1 / math.sqrt(size))))
        if bias is None:
            bias = 2.0 if gate == "gru" else 1.0
        if gate != "input":
            self.b = parameter(size, start=bias)

    def gates(self, h, y):
        """The gate (z of ``gru``) for the stream h and ``y = relu(f(norm(h)))``."""
        linear = nn.functional.linear
        if self.gate == "input":
            return sigmoid(linear(h, self.w))
        if self.gate == "output":
            return sigmoid(linear(h, self.w) - self.b)
        if self.gate == "highway":
            return sigmoid(linear(h, self.w) + self.b)
        if self.gate == "sigtanh":
            return sigmoid(linear(y, self.w) - self.b)
        return sigmoid(linear(y, self.w_z) + linear(h, self.u_z) - self.b)

    def forward(self, h, f):
        y = torch.relu(f(self.norm(h)))
        linear = nn.functional.linear
        if self.gate == "gru":
            r = sigmoid(linear(y, self.w_r) + linear(h, self.u_r))
            z = self.gates(h, y)
            return (1 - z) * h + z * torch.tanh(linear(y, self.w) + linear((r * h).to(h.dtype), self.u))
        g = self.gates(h, y)
        if self.gate == "input":
            return g * h + y
        if self.gate == "output":
            return h + g * y
        if self.gate == "highway":
            return g * h + (1 - g) * y
        return h + g * torch.tanh(linear(y, self.u))

    def internals(self, state, written=None):
        if written is None:
            return super().internals(state)
        return {"gate": self.gates(state, torch.relu(written))} | ({} if self.gate == "input" else {"bias": self.b})


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
        rows = config.hidden_size if gate == "vector" else 1
        self.weight = parameter(rows, config.hidden_size, start=0.0) if data else None
        self.bias = parameter(rows, start=math.log(init / (1 - init)))

    def gates(self, h):
        """sigmoid(g)."""
        return sigmoid(self.bias if self.weight is None else nn.functional.linear(h, self.weight, self.bias))

    def forward(self, h, f):
        return h + self.gates(h) * f(self.norm(h))

    def internals(self, state, written=None):
        return {"gate": self.gates(state).expand(*state.shape[:2], -1)}


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
