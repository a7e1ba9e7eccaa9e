"""Connections that keep what earlier sites saw or wrote, and read it again."""

import warnings
from typing import Literal

import torch
from torch import nn

from .initialization import Identity, Normal, parameter, starting
from .mixing import AttendOverDepth
from .normalization import RMSNorm, make_norm
from .residual import Residual, Site, at_least, full_precision, in_dtype


class X0Mix(Residual):
    """``h + f(norm(h))`` where each block starts from ``h = a h + b x0``. nanochat, Karpathy 2025; modded-nanogpt,
    Jordan et al. 2024.

    x0 is the stream that entered the segment.

    Args:
        init: ``identity`` starts at a = 1, b = 0 (equal to ``pre``), ``nanochat`` at a from 1.15 to 1.05 and b from
            0.20 to 0.05 over depth, and takes for x0 the normed stream, with which the stack begins too.
        backout: the stack's read-out subtracts w times the stream after the middle block of the segment, w from 0.2.
    """

    # A multiplicative scalar on the stream compounds over depth: nanochat gives it 0.01 of the other's rate.
    learning_rate_multipliers = {"a": 0.01}

    def __init__(
        self, config, site: Site, *, init: Literal["identity", "nanochat"] = "identity", backout: bool = False
    ):
        super().__init__(config, site)
        block, blocks = site.blocks_of_segment()
        depth = block / max(1, blocks - 1)
        a, b = (1.0, 0.0) if init == "identity" else (1.15 - 0.10 * depth, 0.20 - 0.15 * depth)
        self.norm = make_norm(config)
        normed = init == "nanochat" and site.begins_segment
        self.norm_x0 = make_norm(config) if normed else nn.Identity()
        self.begins_normed = normed and site.index == 0
        self.returns_what_entered = not self.begins_normed
        self.mixes = site.begins_block
        self.a = parameter(1, start=a) if self.mixes else None
        self.b = parameter(1, start=b) if self.mixes else None
        self.backout = backout
        self.keeps_middle = backout and site.ends_block and block == blocks // 2
        self.w = parameter(1, start=0.2) if backout and site.ends_stack else None

    def enter(self, hidden_states):
        x0 = self.norm_x0(hidden_states)
        h = x0 if self.begins_normed else hidden_states
        return (h, x0, torch.zeros_like(x0)) if self.backout else (h, x0)

    def forward(self, state, f):
        h, x0, *middle = state
        if self.mixes:
            h = self.a * h + self.b * x0
        h = h + f(self.norm(h))
        return (h, x0, h) if self.keeps_middle else (h, x0, *middle)

    def exit(self, state):
        return state[0]

    def read_out(self, state):
        return state[0] if self.w is None else state[0] - self.w * state[2]


class Concat(Residual):
    """``f(norm(W [h_0; g_1; ...; g_s]))`` is appended as ``g_(s+1)``, never added; the exit reads all. Huang et al.
    2016 (DenseNet), arXiv:1608.06993.

    Args:
        growth: channels appended at a site, by a projection of the branch's output; by default a quarter of the width.
        bottleneck: rank of W; by default W is one full matrix.
    """

    returns_what_entered = False

    def __init__(self, config, site: Site, *, growth: int | None = None, bottleneck: int | None = None):
        super().__init__(config, site)
        width = config.hidden_size
        self.growth = max(1, width // 4) if growth is None else growth
        for name, value in (("growth", self.growth), ("bottleneck", width if bottleneck is None else bottleneck)):
            if not 1 <= value <= width:
                raise ValueError(f"{name} is {value}; it must be from 1 to hidden_size {width}")
        collected = width + site.position * self.growth
        self.norm = make_norm(config)
        self.reader = _reader(collected, width, bottleneck)
        self.grow = _linear(width, self.growth) if self.growth != width else nn.Identity()
        self.exit_reader = _reader(collected + self.growth, width, bottleneck) if site.ends_segment else None

    def enter(self, hidden_states):
        return (hidden_states,)

    def forward(self, state, f):
        return *state, self.grow(f(self.norm(self._read(self.reader, state))))

    def exit(self, state):
        with full_precision(state[0]):
            return self._read(self.exit_reader, state)

    def stream(self, state):
        """Inside a segment what the site has read: there is no sum to look at."""
        return super().stream(state) if self.exit_reader is not None else self._read(self.reader, state[:-1])

    def _read(self, reader, state):
        return reader(torch.cat(state, dim=-1))


def _reader(collected: int, width: int, bottleneck: int | None) -> nn.Module:
    if bottleneck is None:
        return _linear(collected, width)
    return nn.Sequential(_linear(collected, bottleneck), _linear(bottleneck, width))


def _linear(inputs: int, outputs: int) -> nn.Linear:
    linear = nn.Linear(inputs, outputs, bias=False)
    starting(linear.weight, Normal(inputs**-0.5))
    return linear


class DenseFormer(Residual):
    """``h + f(norm(h))``, and after block i ``h = sum_j a_ij x_j`` over the embedding and all blocks' outputs.
    Pagliardini et al. 2024, arXiv:2402.02622.

    Starts at a_ii = 1 and 0 elsewhere, equal to ``pre``. The history holds the blocks' outputs before averaging.

    Args:
        dilation: averages over every dilation-th earlier output.
        period: averages after every period-th block.
    """

    def __init__(self, config, site: Site, *, dilation: int = 1, period: int = 1):
        super().__init__(config, site)
        at_least(1, dilation=dilation, period=period)
        block, _ = site.blocks_of_segment()
        self.norm = make_norm(config)
        self.remembers = site.ends_block
        averages = site.ends_block and (block + 1) % period == 0
        self.first = (block + 1) % dilation  # the earliest of every dilation-th output that ends with the newest
        self.dilation = dilation
        earlier = (block + 1) // dilation
        self.a = parameter(earlier + 1, start=[0.0] * earlier + [1.0]) if averages else None

    def enter(self, hidden_states):
        return hidden_states, (hidden_states,)

    def forward(self, state, f):
        h, history = state
        h = h + f(self.norm(h))
        if self.remembers:
            history = (*history, h)
        if self.a is not None:
            h = sum(a * x for a, x in zip(self.a, history[self.first :: self.dilation], strict=True))
        return h, history

    def exit(self, state):
        return state[0]


class _DepthAttention(nn.Module):
    """``sum_i softmax_i(query . rmsnorm(v_i)) v_i`` over sources v_i, token by token.

    Nothing of a source's size is kept for the backward pass but the sources: O(depth) activations in a whole stack, as
    in the paper.

    Args:
        config: the model's.
        heads: parts of the channels, each with a softmax of its own over products with its own part of the query.
        queries: how many read the same sources.
    """

    def __init__(self, config, heads: int = 1, queries: int = 1):
        super().__init__()
        self.heads = heads
        self.query = parameter(*([queries] if queries > 1 else []), config.hidden_size, start=0.0)
        self.norm = RMSNorm(config.hidden_size, eps=config.norm_eps)

    def weights(self, sources, query=0):
        """``[sources, batch, time, heads]``, in float32 at least: in bfloat16 their sum would not be 1."""
        dtype = torch.promote_types(self.query.dtype, torch.float32)
        direction = self.query.view(-1, self.query.shape[-1])[query] * self.norm.weight
        logits = [self._split(v * direction).sum(-1, dtype=dtype) * self._inverse_rms(v, dtype) for v in sources]
        return torch.stack(logits).softmax(0)

    def _split(self, v):
        return v.unflatten(-1, (self.heads, -1))

    def _inverse_rms(self, v, dtype):
        return torch.rsqrt(v.square().mean(-1, True, dtype=dtype) + self.norm.eps)

    def forward(self, sources, query=0):
        full = self.query.dtype.itemsize >= 4 and sources[0].dtype == self.query.dtype
        if full and not torch.compiler.is_compiling():
            sources = in_dtype(sources, self.query.dtype)  # the newest is as autocast left it where the stack ends
            direction = self.query.view(-1, self.query.shape[-1])[query] * self.norm.weight
            with full_precision(sources[0]):
                return AttendOverDepth.apply(direction, self.heads, self.norm.eps, *sources)
        # A sum of products, not one stacked matrix product, which would keep a copy of the whole history.
        weights = self.weights(sources, query).unsqueeze(-1)
        read = sum(weight * self._split(v) for weight, v in zip(weights, sources, strict=True))
        return read.flatten(-2).to(sources[0].dtype)


class AttentionResidual(Residual):
    """``f(norm(sum_i a_i v_i))`` joins the sources v_i, with ``a = softmax_i(w . rmsnorm(v_i))`` over depth. Kimi Team
    2026 (Attention Residuals), arXiv:2603.15031.

    The first source is the stream that entered, the others what the sites wrote; w starts at 0, a uniform average.
    A segment's first site has one source and therefore no w, as Kimi K3's first layer: alone in its segment it is
    ``pre``, which a warning says. A last attention over depth reads out at the end of the stack; elsewhere the exit is
    the sum of the sources.

    Args:
        block: sites whose outputs are summed to one source; 1 keeps every site apart (full attention residuals).
        heads: parts of the channels that attend over depth each for itself, at no further parameter; their norm is
            still that of the whole source (Multi-Head Attention Residuals 2026, arXiv:2607.27230).
        roles: what attention over tokens reads: its queries, keys and values ``shared``, values by a w of their own
            (``value``, Wang 2026, Role-Decoupled Attention Residuals, arXiv:2608.01075), or each by a w and a norm of
            its own (``separate``, transformers' Inkling 2).
        routing: ``replace`` reads the average over depth, ``add`` the stream plus it, with no attention at the end
            (Luo et al. 2026, Delta Attention Residuals, arXiv:2605.18855); from w = 0 too, where their code draws it,
            and for ``block`` 1 only: what their blocks subtract is not what the paper says.
    """

    oracle = (
        "transformers Inkling2BlockAttentionResidual, Inkling2FullDecoderLayer (separate), Inkling2SlidingDecoderLayer"
    )
    no_weight_decay = frozenset({"attend.query"})

    def __init__(
        self,
        config,
        site: Site,
        *,
        block: int = 1,
        heads: int = 1,
        roles: Literal["shared", "value", "separate"] = "shared",
        routing: Literal["replace", "add"] = "replace",
    ):
        super().__init__(config, site)
        at_least(1, block=block, heads=heads)
        if config.hidden_size % heads:
            raise ValueError(f"heads is {heads}, which does not divide hidden_size {config.hidden_size}")
        if routing == "add" and block > 1:
            raise ValueError(f"block is {block}; with routing add each site is a source, block 1")
        apart = site.sublayer != "mlp" and not site.begins_segment
        self.roles = roles if apart else "shared"
        queries = {"shared": 1, "value": 2, "separate": 3}[self.roles]
        self.norm = make_norm(config)
        self.norm_key = make_norm(config) if self.roles == "separate" else None
        self.norm_value = make_norm(config) if self.roles == "separate" else None
        self.attend = None if site.begins_segment else _DepthAttention(config, heads, queries)
        self.adds = routing == "add"
        self.attend_out = _DepthAttention(config, heads) if site.ends_stack and not self.adds else None
        if site.begins_segment and site.ends_segment and not site.ends_stack:
            warnings.warn(
                "attn_res stands alone in its segment, where it has nothing to attend over and is pre; name it for "
                "both sublayers of a block, or for consecutive blocks",
                stacklevel=2,
            )
        self.begins_source = site.position % block == 0

    def enter(self, hidden_states):
        return (hidden_states,)

    def forward(self, sources, f):
        y = self._written(sources, f)
        return (*sources, y) if self.begins_source else (*sources[:-1], sources[-1] + y)

    def _written(self, sources, f):
        if self.attend is None:
            return f(self.norm(sources[0]))
        query = self.norm(self._read(sources, 0))
        if self.roles == "shared":
            return f(query)
        if self.norm_key is None or self.norm_value is None:
            return f(query, value=self.norm(self._read(sources, 1)))
        return f(query, key=self.norm_key(self._read(sources, 1)), value=self.norm_value(self._read(sources, 2)))

    def _read(self, sources, query):
        assert self.attend is not None  # a first site has one source
        read = self.attend(sources, query)
        return self.exit(sources) + read if self.adds else read

    def exit(self, sources):
        return sum(sources)

    def read_out(self, sources):
        return self.exit(sources) if self.attend_out is None else self.attend_out(sources)

    def internals(self, state, written=None):
        weights = torch.ones_like(state[0][None, ..., :1]) if self.attend is None else self.attend.weights(state)
        return {"depth_attention": weights.mean(-1).permute(1, 2, 0)} | super().internals(state)


class UNet(Residual):
    """``h + f(norm(h))``; the first half of the blocks push their outputs, the second half start from ``h + w skip``.
    Jordan et al. 2024 (modded-nanogpt); concatenation: Bao et al. 2022 (U-ViT), arXiv:2209.12152.

    The last block pops what the first pushed. Of an odd number of blocks the middle one has no skip.

    Args:
        mode: ``add``, or ``concat``: W [h; skip] + b with W from [I, 0].
        weight: of ``add``: ``learned``, or ``fixed``.
        init: initial w of ``add``.
    """

    oracle = "x-transformers unet_skips (concat)"
    no_weight_decay = frozenset({"project.weight"})  # decay would pull [I, 0] towards no stream at all

    def __init__(
        self,
        config,
        site: Site,
        *,
        mode: Literal["add", "concat"] = "add",
        weight: Literal["learned", "fixed"] = "learned",
        init: float = 1.0,
    ):
        super().__init__(config, site)
        block, blocks = site.blocks_of_segment()
        if blocks < 2:
            raise ValueError("unet pairs blocks; it needs at least two consecutive ones")
        self.norm = make_norm(config)
        self.pushes = site.ends_block and block < blocks // 2
        self.pops = site.begins_block and block >= blocks - blocks // 2
        self.w: nn.Parameter | float | None = None
        self.project: nn.Linear | None = None
        if self.pops and mode == "concat":
            self.project = nn.Linear(2 * config.hidden_size, config.hidden_size)
            starting(self.project.weight, Identity())
        elif self.pops:
            self.w = parameter(1, start=init) if weight == "learned" else init

    def enter(self, hidden_states):
        return hidden_states, ()

    def forward(self, state, f):
        h, skips = state
        if self.pops:
            *skips, skip = skips
            if self.project is None:
                h = h + self.w * skip
            else:
                with full_precision(h):
                    h = self.project(torch.cat([h, skip], dim=-1))
        h = h + f(self.norm(h))
        return h, (*skips, h) if self.pushes else tuple(skips)

    def exit(self, state):
        return state[0]


KINDS: dict[str, type[Residual]] = {
    "x0_mix": X0Mix,
    "concat": Concat,
    "denseformer": DenseFormer,
    "attn_res": AttentionResidual,
    "unet": UNet,
}
