"""Scaled connections: the skip or the branch is multiplied by a constant, a learned scalar or vector, or a schedule."""

import math
from typing import Any, Literal

import torch
from torch import nn

from .initialization import Xavier, buffer, parameter
from .normalization import make_norm
from .residual import Residual, Site, at_least, positive


class Scaled(Residual):
    """``a h + b f(norm(h))`` with constants, or with learned scalars or vectors that start there.

    Args:
        skip: a.
        branch: b.
        learned: whether a and b are parameters. Multiplicative scalars on the skip compound over depth, so the
            learned a takes 0.01 of the learning rate (the ratio of nanochat, Karpathy 2025).
        per: ``scalar`` or ``vector`` (one number per channel), of learned a and b.
        norm: ``none`` drops the norm in front of the branch (the attention half of HybridNorm, which has
            ``qkv_norm`` instead, Zhuo et al. 2025, arXiv:2503.04598).
    """

    oracle = "transformers Granite; x-transformers scale_residual"
    learning_rate_multipliers = {"a": 0.01}
    no_weight_decay = frozenset({"a", "b"})

    def __init__(
        self,
        config,
        site: Site,
        *,
        skip: float = 1.0,
        branch: float = 1.0,
        learned: bool = False,
        per: Literal["scalar", "vector"] = "scalar",
        norm: Literal["pre", "none"] = "pre",
    ):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()
        size = config.hidden_size if per == "vector" else 1
        self.a = parameter(size, start=skip) if learned else skip
        self.b = parameter(size, start=branch) if learned else branch

    def forward(self, h, f):
        return self.a * h + self.b * f(self.norm(h))

    def internals(self, state, written=None):
        return {name: torch.as_tensor(getattr(self, name), device=state.device) for name in ("a", "b")}


class Granite(Scaled):
    """``h + multiplier f(norm(h))``. IBM Granite 3, 2024 (``residual_multiplier``).

    Args:
        multiplier: constant on every branch; Granite 3's released models use 0.22.
    """

    oracle = "transformers Granite; x-transformers depth_scale_residual"

    def __init__(self, config, site: Site, *, multiplier: float = 0.22):
        super().__init__(config, site, branch=multiplier)


class MiniCPM(Scaled):
    """``h + scale_depth / sqrt(L) f(norm(h))``, L the number of blocks. Hu et al. 2024, arXiv:2404.06395."""

    oracle = "transformers MiniCPM3DecoderLayer; x-transformers depth_scale_residual"

    def __init__(self, config, site: Site, *, scale_depth: float = 1.4):
        positive(scale_depth=scale_depth)
        super().__init__(config, site, branch=scale_depth / math.sqrt(site.num_hidden_layers))


class SqrtDepth(Scaled):
    """``h + f(norm(h)) / sqrt(2L)``, 2L the number of sites. Bordelon et al. 2023, arXiv:2309.16620;
    Yang et al. 2023, arXiv:2310.02244."""

    oracle = "x-transformers depth_scale_residual"

    def __init__(self, config, site: Site):
        super().__init__(config, site, branch=1 / math.sqrt(site.num_sites))


class CompleteP(Scaled):
    """``h + f(norm(h)) base_depth / L``, the branch multiplier of CompleteP. Dey et al. 2025, arXiv:2505.01618.

    Args:
        base_depth: depth at which the multiplier is 1.
    """

    oracle = "x-transformers depth_scale_residual"

    def __init__(self, config, site: Site, *, base_depth: int = 1):
        at_least(1, base_depth=base_depth)
        super().__init__(config, site, branch=base_depth / site.num_hidden_layers)


class ReZero(Residual):
    """``h + a f(h)``, a learned scalar that starts at 0. Bachlechner et al. 2020, arXiv:2003.04887.

    No norm ever sees the embedding, which therefore has to be of size 1 (``embedding_initializer_range: 1.0``, untied):
    at 0.02 the branches have next to nothing to read.

    Args:
        norm: ``none`` as published, at the end of the stack too; ``pre`` with ``share="site"`` is SkipInit (De and
            Smith 2020, arXiv:2002.10444).
        share: one scalar for the two sublayers of a block, as published, or one per ``site``.
    """

    oracle = "rezero RZTXEncoderLayer"

    def __init__(
        self,
        config,
        site: Site,
        *,
        norm: Literal["none", "pre"] = "none",
        share: Literal["block", "site"] = "block",
    ):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()
        self.final_norm = norm == "pre"
        self.shares = share == "block"
        self.a: nn.Parameter | None = parameter(1, start=0.0)
        self.owner: tuple[ReZero, ...] = ()  # a tuple, so that the other site's scalar is not registered twice

    def share(self, other):
        super().share(other)
        if self.shares:
            self.owner, self.a = (other,), None

    def forward(self, h, f):
        a = self.owner[0].a if self.owner else self.a
        return h + a * f(self.norm(h))


class LayerScale(Residual):
    """``h + diag(v) f(norm(h))``. Touvron et al. 2021 (CaiT), arXiv:2103.17239.

    Args:
        init: initial value of v; by default the paper's, by depth: 0.1 up to 18 blocks, 1e-5 up to 24, 1e-6
            deeper.
    """

    oracle = "x-transformers use_layerscale"

    def __init__(self, config, site: Site, *, init: float | None = None):
        super().__init__(config, site)
        at_least(0, init=init)
        depth = site.num_hidden_layers
        if init is None:
            init = 0.1 if depth <= 18 else 1e-5 if depth <= 24 else 1e-6
        self.norm = make_norm(config)
        self.v = parameter(config.hidden_size, start=init)

    def forward(self, h, f):
        return h + self.v * f(self.norm(h))


class DeepNorm(Residual):
    """``norm(alpha h + f(h))``, decoder-only constants. Wang et al. 2022, arXiv:2203.00555.

    Values, attention output and all MLP matrices start from Xavier with gain beta, queries and keys with gain 1.

    Args:
        alpha: by default (2L)^(1/4), L the number of blocks.
        beta: by default (8L)^(-1/4).
    """

    oracle = "transformers MiniMax; x-transformers scale_residual_constant"
    final_norm = False
    norms_sum = True

    def __init__(self, config, site: Site, *, alpha: float | None = None, beta: float | None = None):
        super().__init__(config, site)
        positive(alpha=alpha, beta=beta)
        self.alpha = (2 * site.num_hidden_layers) ** 0.25 if alpha is None else alpha
        self.beta = (8 * site.num_hidden_layers) ** -0.25 if beta is None else beta
        self.norm = make_norm(config)

    def forward(self, h, f):
        return self.norm(self.alpha * self.skip(h) + f(h))

    def internals(self, state, written=None):
        return {name: torch.tensor(getattr(self, name), device=state.device) for name in ("alpha", "beta")}

    def branch_start(self, name, linear):
        return Xavier(1.0 if name in ("q_proj", "k_proj") else self.beta)


class Admin(Residual):
    """``norm(omega h + f(h))`` with omega = sqrt((n + 1) / ln(n + 1) - 1), n the number of sites. Liu et al. 2020,
    arXiv:2004.08249, in the closed form of its authors' admin-torch.

    The form stands for their profiling pass: the output changes by O(log n) at the start. All matrices start from
    Xavier, as in the fairseq that they train; at the model's 0.02 the branches would be silent behind a norm.

    Args:
        omega: by default that.
        learned: whether omega is a vector that is learned from there.
    """

    final_norm = False
    norms_sum = True

    def __init__(self, config, site: Site, *, omega: float | None = None, learned: bool = False):
        super().__init__(config, site)
        positive(omega=omega)
        n = site.num_sites
        start = math.sqrt((n + 1) / math.log(n + 1) - 1) if omega is None else omega
        self.omega = parameter(config.hidden_size, start=start) if learned else start
        self.norm = make_norm(config)

    def forward(self, h, f):
        return self.norm(self.omega * self.skip(h) + f(h))

    def internals(self, state, written=None):
        return {"omega": torch.as_tensor(self.omega, device=state.device)}

    def branch_start(self, name, linear):
        return Xavier()


class LayerNormScaling(Residual):
    """``h + f(norm(h) / sqrt(l + 1))``, l the block from 0. Sun et al. 2025 (Curse of Depth), arXiv:2502.05795.

    Meant for the plain initialisation: depth-scaled output projections cancel its effect.
    """

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)
        # A buffer and not a number, so that all depths share one compiled graph.
        self.depth = buffer(start=site.layer + 1.0)

    def forward(self, h, f):
        return h + f(self.norm(h) / torch.sqrt(self.depth))

    def internals(self, state, written=None):
        return {"scale": self.depth.rsqrt()}


class ProRes(Residual):
    """``h + c f(norm(h))`` with c = min(t / (T (l + 1)), 1), t the optimiser steps done and l the block from 0. Chen et
    al. 2026 (ProRes), arXiv:2603.05369.

    Branches set in from shallow to deep. A checkpoint carries t, and ``model.advance()`` moves it on.

    Args:
        schedule: c as in table 5 there, at most 1, L being the number of blocks: ``linear``, its root or its square;
            ``equal``, t / (T L); ``reverse``, t / (T (L - l)), from deep to shallow; ``stagewise``, t / T - l, one
            block after the other, from 0, from 1 / L or from 1 / sqrt(l + 1).
        warmup_steps: T L, after which all branches are whole. By default 1,000 L, untuned, for runs of 100,000 steps;
            of 60,000 steps 12,000 to 24,000 did best.
        norm: where it stands, and all else, as in the kind of that name (table 1).
    """

    def __init__(
        self,
        config,
        site: Site,
        *,
        schedule: Literal[
            "linear",
            "linear_sqrt",
            "linear_square",
            "equal",
            "reverse",
            "stagewise_0",
            "stagewise_L",
            "stagewise_sqrt_l",
        ] = "linear",
        warmup_steps: int | None = None,
        norm: Literal["pre", "post", "sandwich", "deepnorm", "lns"] = "pre",
    ):
        super().__init__(config, site)
        positive(warmup_steps=warmup_steps)
        self.schedule, self.placement, self.num_blocks = schedule, norm, site.num_hidden_layers
        self.T = 1000 if warmup_steps is None else warmup_steps / site.num_hidden_layers
        self.t = buffer(start=0, dtype=torch.int64, persistent=True)
        self.depth = buffer(start=site.layer + 1, dtype=torch.int64)
        self.norms_sum = norm in ("post", "deepnorm")
        self.final_norm = not self.norms_sum
        if norm == "sandwich":
            self.norm_in = make_norm(config)
            self.norm_out = make_norm(config)
        else:
            self.norm = make_norm(config)

    def c(self, dtype: torch.dtype) -> torch.Tensor:
        """In float32 at least: in bfloat16 a step of a long warm-up would round to nothing."""
        dtype = torch.promote_types(dtype, torch.float32)
        t, depth, T, L = self.t.to(dtype), self.depth.to(dtype), self.T, self.num_blocks
        if self.schedule == "equal":
            return (t / (T * L)).clamp(max=1)
        if self.schedule == "reverse":
            return (t / (T * (L - depth + 1))).clamp(max=1)
        if self.schedule.startswith("stagewise"):
            lowest: Any = {"stagewise_0": 0, "stagewise_L": 1 / L, "stagewise_sqrt_l": depth**-0.5}[self.schedule]
            return (t / T - depth + 1).clamp(0, 1) * (1 - lowest) + lowest
        power = {"linear": 1, "linear_sqrt": 0.5, "linear_square": 2}[self.schedule]
        return (t / (T * depth)).clamp(max=1) ** power

    def forward(self, h, f):
        c = self.c(h.dtype)
        if self.placement == "post":
            return self.norm(self.skip(h) + c * f(h))
        if self.placement == "sandwich":
            return h + c * self.norm_out(f(self.norm_in(h)))
        if self.placement == "deepnorm":
            return self.norm((2 * self.num_blocks) ** 0.25 * self.skip(h) + c * f(h))
        if self.placement == "lns":
            return h + c * f(self.norm(h) / torch.sqrt(self.depth.to(c.dtype)))
        return h + c * f(self.norm(h))

    def advance(self, steps):
        self.t += steps

    def internals(self, state, written=None):
        return {"c": self.c(state.dtype)}

    def branch_start(self, name, linear):
        if self.placement != "deepnorm":
            return None
        return Xavier(1.0 if name in ("q_proj", "k_proj") else (8 * self.num_blocks) ** -0.25)


KINDS: dict[str, type[Residual]] = {
    "scaled": Scaled,
    "granite": Granite,
    "minicpm": MiniCPM,
    "sqrt_depth": SqrtDepth,
    "completep": CompleteP,
    "rezero": ReZero,
    "layerscale": LayerScale,
    "deepnorm": DeepNorm,
    "admin": Admin,
    "lns": LayerNormScaling,
    "prores": ProRes,
}
