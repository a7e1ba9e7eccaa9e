"""Dense connections over depth with weights that each token computes anew."""

import torch
from einops import rearrange
from torch import nn

from .initialization import Normal, parameter
from .normalization import make_norm
from .residual import Residual, Site, full_precision

WAYS = 4  # query, key, value, residual


class _DynamicSums(nn.Module):
    """``sum_j (a_j + D(x_i)_j) x_j`` for each way, x_i being the newest source."""

    def __init__(self, config, ways: int, sources: int):
        super().__init__()
        width, inner = config.hidden_size, (WAYS * sources // 64 + 1) * 64
        self.eps = config.norm_eps
        self.a = parameter(ways, sources, start=[0.0] * (sources - 1) + [1.0])
        self.w_1 = parameter(inner, width, start=Normal(width**-0.5))
        self.w_2 = parameter(ways * sources, inner, start=0.0)

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """``[ways, sources, batch, time, 1]`` from the newest source ``[batch, time, hidden]``."""
        normed = nn.functional.rms_norm(x, x.shape[-1:], eps=self.eps)
        weights = nn.functional.gelu(normed @ self.w_1.T) @ self.w_2.T + self.a.flatten()
        return rearrange(weights, "batch time (way source) -> way source batch time 1", way=len(self.a))

    def forward(self, sources):
        with full_precision(sources[0]):
            weights = self.weights(sources[-1])
            return tuple(sum(w * x for w, x in zip(way, sources, strict=True)) for way in weights)


class MultiwayDense(Residual):
    """After block i ``q, k, v, h = sum_j (a_j + D(x_i)_j) x_j``, four sums over the embedding and all blocks' outputs x
    with ``D(x) = W_2 gelu(W_1 rmsnorm(x))``; attention reads q, k and v, and h goes on. Xiao et al. 2025 (MUDDFormer),
    arXiv:2502.12170.

    Starts at a_i = 1 and 0 elsewhere, W_1 by fan-in, W_2 = 0: equal to ``pre``. From the segment's second block on q, k
    and v have norms of their own; the last block of a segment mixes h alone. W_1 has four rows for each source, up to
    the next multiple of 64, as in the released models. What else the authors have is left out: MLPs that widen with
    depth, and norms around the sums of some models.
    """

    no_weight_decay = frozenset({"sums.a"})  # decay would pull a block's own output out of its sums

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        block, _ = site.blocks_of_segment()
        separate = site.begins_block and not site.begins_segment
        self.norm = make_norm(config)
        self.norm_key = make_norm(config) if separate else None
        self.norm_value = make_norm(config) if separate else None
        self.norm_mlp = make_norm(config) if site.sublayer == "parallel" else None
        ways = 1 if site.ends_segment else WAYS
        self.sums = _DynamicSums(config, ways, block + 2) if site.ends_block else None

    def enter(self, hidden_states):
        return (hidden_states,), (hidden_states,)

    def forward(self, state, f):
        streams, outputs = state
        query, h, views = streams[0], streams[-1], {}
        if self.norm_key is not None and self.norm_value is not None:
            views = {"key": self.norm_key(streams[1]), "value": self.norm_value(streams[2])}
        if self.norm_mlp is not None:
            views["mlp"] = self.norm_mlp(h)
        h = h + f(self.norm(query), **views)
        if self.sums is None:
            return (h,), outputs
        outputs = (*outputs, h)
        return self.sums(outputs), outputs

    def exit(self, state):
        return state[0][-1]


KINDS: dict[str, type[Residual]] = {"mudd": MultiwayDense}
