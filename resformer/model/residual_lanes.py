"""Two lanes side by side: the state is a pair of streams with different parts to play."""

import math

import torch
from torch import nn

from .initialization import buffer, parameter
from .normalization import make_norm
from .residual import Residual, Site, positive


class ResidualDual(Residual):
    """``y = f(p)``; post stream ``p' = norm(p + y)``, dual stream ``q' = q + y``; exit ``p + norm(q)``. Xie et al.
    2023 (ResiDual), arXiv:2304.14802."""

    final_norm = False
    returns_what_entered = False

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)
        self.norm_dual = make_norm(config) if site.ends_segment else None

    def enter(self, hidden_states):
        return hidden_states, hidden_states

    def forward(self, state, f):
        p, q = state
        y = f(p)
        return self.norm(p + y), q + y

    def exit(self, state):
        p, q = state
        assert self.norm_dual is not None  # a segment ends here
        return p + self.norm_dual(q)

    def stream(self, state):
        """Inside a segment the dual stream, which is the sum of what was written."""
        return super().stream(state) if self.norm_dual is not None else state[1]


class Siamese(Residual):
    """``p = norm(p)``, ``y = f(norm(p + norm(q)))``; ``p' = p + y / sqrt(2(l+1))``, ``q' = q + y``; exit
    ``norm(p) + norm(q)``. Li et al. 2026 (SiameseNorm), arXiv:2602.08064."""

    returns_what_entered = False

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm_post, self.norm_pre, self.norm_in = (make_norm(config) for _ in range(3))
        self.norms_out = nn.ModuleList(make_norm(config) for _ in range(2)) if site.ends_segment else None
        # A buffer and not a number, so that all depths share one compiled graph. A bfloat16 model holds l + 1 exactly
        # up to 256 blocks, and to 0.4 % beyond.
        self.depth = buffer(start=site.layer + 1.0)

    def enter(self, hidden_states):
        return hidden_states, hidden_states

    def forward(self, state, f):
        p, q = state
        p = self.norm_post(p)
        y = f(self.norm_in(p + self.norm_pre(q)))
        return p + y / (2 * self.depth).sqrt(), q + y

    def exit(self, state):
        p, q = state
        assert self.norms_out is not None  # a segment ends here
        return self.norms_out[0](p) + self.norms_out[1](q)

    def stream(self, state):
        """Inside a segment the stream q, which is the sum of what was written."""
        return super().stream(state) if self.norms_out is not None else state[1]


class TwoLane(Residual):
    """``a' = r a + p_a y``, ``b' = r b + p_b y``: attention reads lane a, the MLP lane b, both write both; exit is
    their mean. modded-nanogpt's record of 12 February 2026 (Jordan et al.).

    Args:
        decay: initial r (their ``resid_lambda``, which learns at 5 times the rate of p), sqrt(1.1) as in the record.
        cross: initial p (their ``w_post``) from attention to lane b; the others start at 1.
    """

    learning_rate_multipliers = {"r": 5.0}

    def __init__(self, config, site: Site, *, decay: float = math.sqrt(1.1), cross: float = 1.5):
        super().__init__(config, site)
        positive(decay=decay)
        self.norm = make_norm(config)
        self.reads = 1 if site.sublayer == "mlp" else 0
        self.r = parameter(1, start=decay)
        self.p = parameter(2, start=[1.0, cross if site.sublayer == "attention" else 1.0])

    def enter(self, hidden_states):
        return hidden_states, hidden_states

    def forward(self, state, f):
        y = f(self.norm(state[self.reads]))
        a, b = state
        return self.r * a + self.p[0] * y, self.r * b + self.p[1] * y

    def exit(self, state):
        return (state[0] + state[1]) / 2


class Momentum(Residual):
    """``v' = gamma v + (1 - gamma) f(norm(h))``, ``h' = h + v'``. Sander et al. 2021 (Momentum ResNets),
    arXiv:2102.07870.

    Args:
        gamma: in [0, 1); 0 is ``pre``.
    """

    def __init__(self, config, site: Site, *, gamma: float = 0.9):
        super().__init__(config, site)
        if not 0 <= gamma < 1:
            raise ValueError(f"gamma is {gamma}; it must be in [0, 1)")
        self.norm = make_norm(config)
        self.gamma = gamma

    def enter(self, hidden_states):
        return hidden_states, torch.zeros_like(hidden_states)

    def forward(self, state, f):
        h, v = state
        v = self.gamma * v + (1 - self.gamma) * f(self.norm(h))
        return h + v, v

    def exit(self, state):
        return state[0]


class Reversible(Residual):
    """``x1' = x2``, ``x2' = x1 + f(norm(x2))``: each site writes the half it does not read; exit is the mean. Gomez et
    al. 2017 (RevNet), arXiv:1707.04585; Kitaev et al. 2020 (Reformer), arXiv:2001.04451.

    The wiring only: activations are kept for the backward pass as everywhere.
    """

    oracle = "transformers ReformerLayer"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def enter(self, hidden_states):
        return hidden_states, hidden_states

    def forward(self, state, f):
        x1, x2 = state
        return x2, x1 + f(self.norm(x2))

    def exit(self, state):
        return (state[0] + state[1]) / 2


KINDS: dict[str, type[Residual]] = {
    "residual_dual": ResidualDual,
    "siamese": Siamese,
    "two_lane": TwoLane,
    "momentum": Momentum,
    "reversible": Reversible,
}
