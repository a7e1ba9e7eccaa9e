"""Several streams: the state is ``[batch, time, streams, hidden]``; each site learns what to read, carry and write."""

import itertools
import math
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import nn

from .initialization import OUTPUTS, Normal, Uniform, buffer, parameter, usual
from .mixing import mixed, recomputed, written
from .normalization import make_norm
from .residual import Residual, Site, at_least, full_precision


class HyperConnections(Residual):
    """``h = a_m^T H``, ``H' = A_r^T H + b f(norm(h))^T`` over n streams H. Zhu et al. 2024, arXiv:2409.19606.

    ``dynamic`` adds ``s tanh(layernorm(H) W)`` to a_m and A_r, and the like with its own s to b. Starts at a_m = one
    stream after the other, A_r = I, b = 1, W = 0, s = 0.01: equal to ``pre``. Static weights take no weight decay.
    Enter copies. Exit takes the mean: the paper's sum differs by a factor that a final norm removes, but would shrink
    the blocks after a boundary.

    Args:
        n: number of streams.
        dynamic: whether the weights depend on the streams.
        scale_output: the branch's output projection starts at 1/sqrt(n) of its scale. The paper scales it "by a factor
            of sqrt(n)" to keep the spread of the summed streams that of one; the sum enlarges it, so the factor has
            to divide. The mean has that spread without, so it is off.
    """

    no_weight_decay = frozenset({"alpha", "beta"})
    oracle = "hyper-connections HyperConnections"

    def __init__(self, config, site: Site, *, n: int = 4, dynamic: bool = True, scale_output: bool = False):
        super().__init__(config, site)
        at_least(1, n=n)
        self.n, self.scale_output = n, scale_output
        self.norm = make_norm(config)
        self._make_weights(config.hidden_size, reads=1, dynamic=dynamic)

    def _make_weights(self, width: int, reads: int, dynamic: bool) -> None:
        """``alpha``: columns to read, then columns to carry; ``beta``: what each stream gets of the branch."""
        self.reads = reads
        start = torch.cat([self._initial_reads(), torch.eye(self.n, device="cpu")], dim=1)
        self.alpha = parameter(self.n, reads + self.n, start=start)
        self.beta = parameter(self.n, start=1.0)
        self.stream_norm = nn.LayerNorm(width, eps=self.config.norm_eps) if dynamic else None
        if dynamic:
            self.alpha_weight = parameter(width, reads + self.n, start=0.0)
            self.beta_weight = parameter(width, 1, start=0.0)
            self.alpha_scale = parameter(1, start=0.01)
            self.beta_scale = parameter(1, start=0.01)

    def maps(self, streams: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """alpha ``[..., n, reads + n]`` and beta ``[..., n]`` for streams ``[batch, time, n, width]``."""
        norm = self.stream_norm
        if norm is None:
            return self.alpha, self.beta
        # One product for both, in the layout in which the gradient of so few columns takes a fifth of the time.
        weight = torch.cat([self.alpha_weight.T, self.beta_weight.T])
        logits = recomputed(lambda s: nn.functional.linear(norm(s), weight), streams)
        dynamic = torch.tanh(logits)
        alpha = self.alpha + self.alpha_scale * dynamic[..., :-1]
        return alpha, self.beta + self.beta_scale * dynamic[..., -1]

    def enter(self, hidden_states):
        return repeat(hidden_states, "batch time hidden -> batch time n hidden", n=self.n)

    def forward(self, streams, f):
        with full_precision(streams):
            alpha, beta = self.maps(streams)
            h, carried = mixed(alpha, streams, [1, self.n])
        y = f(self.norm(h.squeeze(-2)))
        with full_precision(streams):
            return carried + written(beta, y)

    def exit(self, streams):
        return streams.mean(-2)

    def internals(self, state, written=None):
        alpha, beta = self.maps(state)
        shape = state.shape[:2]
        read, mixing = alpha.expand(*shape, -1, -1).split([self.reads, self.n], dim=-1)
        return {"read": read, "mixing": mixing.mT, "write": beta.expand(*shape, -1)}

    def _initial_reads(self) -> torch.Tensor:
        return (torch.arange(self.n, device="cpu") == self.site.index % self.n).float().unsqueeze(1)

    def branch_start(self, name, linear):
        if not self.scale_output or name not in OUTPUTS:
            return None
        return usual(linear.initialization_path, self.config, self.site.num_sites, 1 / math.sqrt(self.n))


class FracConnections(HyperConnections):
    """``h = [Y^T H]``, ``H' = A_r^T H + b f(norm(h))`` over the m fractions H of one stream. Zhu et al. 2025,
    arXiv:2503.14125.

    Hyper-connections that split the width instead of copying it. Starts at Y = A_r = I, b = 1, W = 0: equal to ``pre``.

    Args:
        m: number of fractions; divides the width.
        dynamic: whether the weights depend on the stream.
    """

    def __init__(self, config, site: Site, *, m: int = 4, dynamic: bool = True):
        Residual.__init__(self, config, site)
        at_least(1, m=m)
        if config.hidden_size % m:
            raise ValueError(f"m is {m}, which does not divide hidden_size {config.hidden_size}")
        self.n, self.scale_output = m, False
        self.norm = make_norm(config)
        self._make_weights(config.hidden_size // m, reads=m, dynamic=dynamic)

    def enter(self, hidden_states):
        return rearrange(hidden_states, "batch time (m part) -> batch time m part", m=self.n)

    def forward(self, fractions, f):
        with full_precision(fractions):
            alpha, beta = self.maps(fractions)
            h, carried = mixed(alpha, fractions, [self.n, self.n])
        y = f(self.norm(self.exit(h)))
        return carried + beta.unsqueeze(-1) * self.enter(y)

    def exit(self, fractions):
        return rearrange(fractions, "batch time m part -> batch time (m part)")

    def _initial_reads(self) -> torch.Tensor:
        return torch.eye(self.n, device="cpu")


class ManifoldHyperConnections(Residual):
    """``h = r^T H``, ``H' = M^T H + w f(norm(h))^T`` with maps of ``rmsnorm(vec H)``: r by a sigmoid, w by twice a
    sigmoid, M doubly stochastic by Sinkhorn's iteration. Xie et al. 2025 (mHC), arXiv:2512.24880.

    Gating factors start at 0.01 and biases at 0; with all logits 0 the maps are r = 1/2, w = 1, M = 1/n, equal to
    ``pre``. The streams are alike at first, and the projection's small random start tells them apart. Biases and gating
    factors take no weight decay. Other variants carry the streams by another M, and start where their authors do:

    - ``identity``: M = I, and no map for it (transformers' Hunyuan V4). r starts at 1/n.
    - ``lite``: M = sum_p a_p P_p over all n! permutation matrices, a softmax (Yang and Gao 2026, mHC-lite,
      arXiv:2601.05732). Starts ``apart``. Their norm has a gain, which W absorbs, and they draw the stream that a site
      starts with, where we take one after the other.
    - ``kronecker``: M = the Kronecker product of such sums over the factors 2 of n (and what is left of n), starts as
      ``lite`` (Zhou et al. 2026, KromHC, arXiv:2601.21579).
    - ``orthogonal``: M^T = two steps from I + aW of ``Y = I + a/2 W (I + Y)``, which nears the Cayley transform of
      W a/2, with W = L - L^T for logits L and a = 0.1 (Sengupta et al. 2026, JPmHC, arXiv:2602.18308, by two public
      implementations that agree; its softmaxes for reading and writing are not taken over). M starts near I.

    Args:
        n: number of streams; ``lite`` goes up to 6.
        iters: of Sinkhorn's iteration.
        variant: ``deepseek_v4`` (row softmax plus eps, then columns and rows in turn, M transposed), ``paper``
            (exp, then columns and rows ``iters`` times, M as it is, no eps), or another carry as above.
        head: read-out at the end of the stack: the ``mean``, or ``learned`` as in DeepSeek-V4.
        entry: ``copy``, or ``scaled``: each stream starts as the one that enters times a learned vector of its own,
            from 0.6 and Xavier's uniform noise, which breaks the streams' symmetry (Alimaskina et al. 2026,
            arXiv:2606.03483). M = 1/n would average it away at the first site: it goes with ``apart`` or ``identity``.
        apart: start as mHC-lite, whose authors start mHC so too: each site reads and writes one stream more than the
            others by biases of 1 and -1, M is near I by biases of 0 and -8, and W is 0. By default as the variant.
        eps: of the maps of ``deepseek_v4`` and ``identity``, and of the learned head.
    """

    oracle = "transformers DeepseekV4HyperConnection (deepseek_v4), HYV4HyperConnection (identity)"

    def __init__(
        self,
        config,
        site: Site,
        *,
        n: int = 4,
        iters: int = 20,
        variant: Literal["deepseek_v4", "paper", "identity", "lite", "kronecker", "orthogonal"] = "deepseek_v4",
        head: Literal["mean", "learned"] = "mean",
        entry: Literal["copy", "scaled"] = "copy",
        apart: bool | None = None,
        eps: float = 1e-6,
    ):
        super().__init__(config, site)
        at_least(1, n=n, iters=iters)
        at_least(0, eps=eps)
        self.n, self.iters, self.variant = n, iters, variant
        self.eps, self.head_eps = eps if variant in ("deepseek_v4", "identity") else 0.0, eps
        self.norm = make_norm(config)
        self.factors = _factors(n) if variant == "kronecker" else [n] if variant == "lite" else []
        for factor in self.factors:
            if factor > 6:
                raise ValueError(f"n is {n}; {variant} mixes all permutations of {factor} streams, of 6 at most")
            matrices = _permutations(factor)
            setattr(self, f"permutations_{factor}", buffer(*matrices.shape, start=matrices))
        apart = variant in ("lite", "kronecker") if apart is None else apart
        carry = self._carry_start(-8.0 if apart else 0.0)
        self.sizes = [n, n, *([len(carry)] if variant != "identity" else [])]
        even = -math.log(max(1, n - 1)) if variant == "identity" else 0.0
        own = [1.0 if stream == site.index % n else -1.0 for stream in range(n)]
        bias = [*own, *own, *carry] if apart else [*[even] * n, *[0.0] * n, *carry]
        width, small = n * config.hidden_size, Normal(config.initializer_range)
        self.weight = parameter(len(bias), width, start=0.0 if apart else small)
        self.bias = parameter(len(bias), start=bias)
        self.scale = parameter(len(self.sizes), start=0.01)
        learned = head == "learned" and site.ends_stack
        self.head_weight = parameter(n, width, start=small) if learned else None
        self.head_bias = parameter(n, start=even) if learned else None
        self.head_scale = parameter(1, start=0.01) if learned else None
        noise = Uniform(math.sqrt(6 / (n + config.hidden_size)), mean=0.6)
        scales = entry == "scaled" and site.begins_segment
        self.entry_scale = parameter(n, config.hidden_size, start=noise) if scales else None
        self.returns_what_entered = entry == "copy"

    def _carry_start(self, other: float) -> list[float]:
        """Biases of the carry: 0 for what carries streams as they are, and ``other`` elsewhere."""
        if self.variant == "identity":
            return []
        if self.variant == "orthogonal":
            return [0.0] * self.n**2
        if self.variant in ("lite", "kronecker"):
            return [0.0 if p == 0 else other for factor in self.factors for p in range(math.factorial(factor))]
        return [0.0 if i == j else other for i in range(self.n) for j in range(self.n)]

    def _project(self, streams, weight):
        vector = rearrange(streams, "batch time n hidden -> batch time (n hidden)")
        vector = vector.to(torch.promote_types(vector.dtype, torch.float32))
        # The norm is one number for each token, so that it can follow the product.
        mean_square = torch.linalg.vecdot(vector, vector).unsqueeze(-1) / vector.shape[-1]
        # Tokens last in memory: what follows, on few numbers a token, then goes along whole vectors of tokens.
        product = weight.to(vector.dtype) @ rearrange(vector, "batch time channel -> channel (batch time)")
        product = rearrange(product, "map (batch time) -> batch time map", batch=len(vector))
        return product * torch.rsqrt(mean_square + self.config.norm_eps)

    def maps(self, streams: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Read ``[..., n]``, write ``[..., n]`` and mixing ``[..., from, to]``, in float32 at least: in bfloat16 the
        mixing would not be doubly stochastic. No mixing where streams are carried as they are."""
        logits = self._project(streams, self.weight)
        parts = zip(logits.split(self.sizes, dim=-1), self.scale, self.bias.split(self.sizes), strict=True)
        read, write, *carry = (part * scale + bias for part, scale, bias in parts)
        read, write = torch.sigmoid(read) + self.eps, 2 * torch.sigmoid(write)
        if self.variant == "identity":
            return read, write + self.eps, None
        return read, write, self._mixing(carry[0])

    def _mixing(self, logits):
        if self.variant in ("lite", "kronecker"):
            return self._permuted(logits)
        logits = rearrange(logits, "... (row column) -> ... row column", row=self.n)
        return self._orthogonal(logits) if self.variant == "orthogonal" else self._doubly_stochastic(logits)

    def _permuted(self, logits):
        """The Kronecker product over the factors of ``sum_p softmax(logits)_p P_p``."""
        mixing = None
        for part, factor in zip(logits.split([math.factorial(k) for k in self.factors], -1), self.factors, strict=True):
            weights = torch.softmax(part, dim=-1)[..., None, None]
            mixed = (weights * getattr(self, f"permutations_{factor}")).sum(-3)
            mixing = mixed if mixing is None else _kronecker(mixing, mixed)
        return mixing

    def _orthogonal(self, logits):
        generator = 0.1 * (logits - logits.mT)
        identity = torch.eye(self.n, dtype=logits.dtype, device=logits.device)
        mixing = identity + generator
        for _ in range(2):
            mixing = identity + generator / 2 @ (identity + mixing)
        return mixing.mT

    def _doubly_stochastic(self, logits):
        # Tokens last: sums over rows and columns of so few elements then go along whole vectors of tokens.
        logits = rearrange(logits, "... row column -> row column ...").contiguous()
        if self.variant == "paper":
            mixing = torch.exp(logits - logits.amax((0, 1), keepdim=True))
            for _ in range(self.iters):
                mixing = mixing / mixing.sum(0, keepdim=True)
                mixing = mixing / mixing.sum(1, keepdim=True)
            return rearrange(mixing, "row column ... -> ... column row")
        mixing = torch.softmax(logits, dim=1) + self.eps
        mixing = mixing / (mixing.sum(0, keepdim=True) + self.eps)
        for _ in range(self.iters - 1):
            mixing = mixing / (mixing.sum(1, keepdim=True) + self.eps)
            mixing = mixing / (mixing.sum(0, keepdim=True) + self.eps)
        return rearrange(mixing, "row column ... -> ... row column")

    def enter(self, hidden_states):
        streams = repeat(hidden_states, "batch time hidden -> batch time n hidden", n=self.n)
        return streams if self.entry_scale is None else streams * self.entry_scale

    def forward(self, streams, f):
        with full_precision(streams):
            read, write, mixing = self.maps(streams)
            maps = read.unsqueeze(-1) if mixing is None else torch.cat([read.unsqueeze(-1), mixing], dim=-1)
            h, *carried = mixed(maps.to(streams.dtype), streams, [1] if mixing is None else [1, self.n])
            if read.dtype != streams.dtype:  # in a bfloat16 model what a branch reads is summed before it is rounded
                h = mixed(read.unsqueeze(-1), streams.to(read.dtype), [1])[0].to(streams.dtype)
        y = f(self.norm(h.squeeze(-2)))
        with full_precision(streams):
            return (carried[0] if carried else streams) + written(write.to(streams.dtype), y)

    def exit(self, streams):
        return streams.mean(-2)

    def read_out(self, streams):
        if self.head_weight is None:
            return self.exit(streams)
        with full_precision(streams):
            logits = self._project(streams, self.head_weight) * self.head_scale + self.head_bias
            read = torch.sigmoid(logits) + self.head_eps
            return (read.unsqueeze(-1) * streams).sum(-2).to(streams.dtype)

    def internals(self, state, written=None):
        read, write, mixing = self.maps(state)
        return {"read": read, "write": write} | ({} if mixing is None else {"mixing": mixing.mT})


def _factors(n: int) -> list[int]:
    """n as twos, and what is left of it; 1 as itself."""
    twos = (n & -n).bit_length() - 1
    return [2] * twos + [rest for rest in [n >> twos] if rest > 1 or n == 1]


def _permutations(n: int) -> torch.Tensor:
    """All permutation matrices ``[n!, n, n]``, the identity first."""
    return torch.eye(n, device="cpu")[torch.tensor([*itertools.permutations(range(n))], device="cpu")]


def _kronecker(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """``[..., i, j]`` and ``[..., k, l]`` to ``[..., i k, j l]``."""
    return rearrange(a[..., :, None, :, None] * b[..., None, :, None, :], "... i k j l -> ... (i k) (j l)")


KINDS: dict[str, type[Residual]] = {
    "hyper": HyperConnections,
    "frac": FracConnections,
    "mhc": ManifoldHyperConnections,
}
