"""Placement of the norm: one stream, no gate, no scale; the kinds differ in where the norm stands."""

import math
from typing import Literal

from torch import nn

from .initialization import Xavier, parameter, starting
from .normalization import NORM_CLASSES, make_norm
from .residual import Residual, Site, positive


class Plain(Residual):
    """``f(norm(h))``: no skip at all, the control. He et al. 2015, arXiv:1512.03385 ("plain" networks).

    Args:
        norm: ``pre`` keeps the norm in front of the branch, ``none`` drops it too.
    """

    def __init__(self, config, site: Site, *, norm: Literal["pre", "none"] = "pre"):
        super().__init__(config, site)
        self.norm = make_norm(config) if norm == "pre" else nn.Identity()

    def forward(self, h, f):
        return f(self.norm(h))


class PreNorm(Residual):
    """``h + f(norm(h))``. Baevski and Auli 2018, arXiv:1809.10853; Xiong et al. 2020, arXiv:2002.04745."""

    oracle = "transformers Cohere, GPT2, GPTJ, Llama, Qwen3; x-transformers pre_norm"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        return h + f(self.norm(h))


class PostNorm(Residual):
    """``norm(h + f(h))``; the last one is the final norm. Vaswani et al. 2017, arXiv:1706.03762."""

    oracle = "transformers MiniMax, OpenAIGPT; x-transformers pre_norm=False"
    final_norm = False
    norms_sum = True

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        return self.norm(self.skip(h) + f(h))


class ResPostNorm(Residual):
    """``h + norm(f(h))``. Liu et al. 2021 (Swin v2), arXiv:2111.09883; OLMo 2 2024, arXiv:2501.00656.

    The branch reads an unnormalised stream: OLMo 2 has ``qk_norm: projection`` with it.
    """

    oracle = "transformers Olmo2"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        return h + self.norm(f(h))


class PeriNorm(Residual):
    """``h + norm_out(f(norm_in(h)))``. Ding et al. 2021 (CogView's sandwich), arXiv:2105.13290; Gemma 2 2024,
    arXiv:2408.00118; Kim et al. 2025 (Peri-LN), arXiv:2502.02732.

    Args:
        embedding_norm: Peri-LN's further norm on the embedding; only where the stack begins with this kind.
        layer_scalar: each block's output times a scalar, from 1, as in Gemma 4 (transformers 5.23, where it is not
            trained). It compounds over depth, so it takes 0.01 of the learning rate (as ``scaled``).
    """

    oracle = "transformers Gemma2, Gemma3, Gemma4TextDecoderLayer (layer_scalar); x-transformers sandwich_norm"
    learning_rate_multipliers = {"scalar": 0.01}

    def __init__(self, config, site: Site, *, embedding_norm: bool = False, layer_scalar: bool = False):
        super().__init__(config, site)
        self.scalar = parameter(1, start=1.0) if layer_scalar and site.ends_block else None
        self.norm_in = make_norm(config)
        self.norm_out = make_norm(config)
        self.embedding_norm = make_norm(config) if embedding_norm and site.index == 0 else nn.Identity()

    def forward(self, h, f):
        h = self.embedding_norm(h)
        h = h + self.norm_out(f(self.norm_in(h)))
        return h if self.scalar is None else self.scalar * h


class DepthScaledSandwich(PeriNorm):
    """``h + norm_out(f(norm_in(h)))`` where the gain of norm_out starts at c / sqrt(L), L the number of blocks. Yin et
    al. 2025 (Pangu Ultra), arXiv:2504.07866.

    Arcee's Trinity has c = 1. Without a gain (``norm: none``) there is nothing to start.

    Args:
        attention: c of the attention, by default the paper's.
        mlp: c of the MLP, and of a parallel block.
    """

    oracle = "transformers AfmoeDecoderLayer"

    def __init__(self, config, site: Site, *, attention: float = 0.283, mlp: float = 0.432):
        positive(attention=attention, mlp=mlp)
        super().__init__(config, site)
        if isinstance(self.norm_out, NORM_CLASSES):
            c = attention if site.sublayer == "attention" else mlp
            starting(self.norm_out.weight, c / math.sqrt(site.num_hidden_layers))


class TwoNorms(Residual):
    """``h + attention(norm(h)) + mlp(norm_mlp(h))``, for ``parallel_block``. Black et al. 2022 (GPT-NeoX),
    arXiv:2204.06745.

    The other kinds give both branches the same input, as GPT-J does.
    """

    oracle = "transformers GPTNeoX"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        if site.sublayer != "parallel":
            raise ValueError("two_norms needs parallel_block: true")
        self.norm = make_norm(config)
        self.norm_mlp = make_norm(config)

    def forward(self, h, f):
        return h + f(self.norm(h), mlp=self.norm_mlp(h))


class NormAdd(Residual):
    """``norm(h) + f(norm(h))``: the MLP half of HybridNorm. Zhuo et al. 2025, arXiv:2503.04598.

    HybridNorm is ``{attention: scaled(norm=none), mlp: norm_add}`` with ``qkv_norm``.
    """

    oracle = "transformers MiniMax"

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        h = self.norm(h)
        return h + f(h)


class BottomToTop(Residual):
    """``norm(h + f(h))``, and the block's input is added again before its last norm. Takase et al. 2022,
    arXiv:2206.00330.

    All matrices of the block start from Xavier with gain 1/sqrt(L), L the number of blocks. The paper's code rescales
    by 1/sqrt(L) what fairseq drew: queries, keys and values with gain 1/sqrt(2), the MLP by torch's default.
    """

    final_norm = False

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        site.blocks_of_segment()
        self.adds_input = site.ends_block
        self.norm = make_norm(config)

    def enter(self, hidden_states):
        return hidden_states, hidden_states

    def forward(self, state, f):
        h, h_in = state
        if self.adds_input:
            h = self.norm(h_in + h + f(h))
            return h, h
        return self.norm(h + f(h)), h_in

    def exit(self, state):
        return state[0]

    def branch_start(self, name, linear):
        return Xavier(self.site.num_hidden_layers**-0.5)


class Keel(Residual):
    """``norm(alpha h + f(norm_in(h)))``, alpha a constant. Chen and Wei 2026, arXiv:2601.19895.

    The stack's first attention is ``h + f(norm_in(h))``; its first MLP, or parallel block, has alpha 1.

    Args:
        alpha: by default the number of sites.
    """

    final_norm = False
    norms_sum = True
    oracle = "x-transformers pre_and_post_norm"

    def __init__(self, config, site: Site, *, alpha: float | None = None):
        super().__init__(config, site)
        positive(alpha=alpha)
        self.norm_in = make_norm(config)
        self.norm = nn.Identity() if site.layer == 0 and site.sublayer == "attention" else make_norm(config)
        self.alpha = 1.0 if site.layer == 0 else float(site.num_sites) if alpha is None else alpha

    def forward(self, h, f):
        return self.norm(self.alpha * self.skip(h) + f(self.norm_in(h)))


class SubLN(Residual):
    """``h + f(norm(h))`` with a second norm inside the branch, before its output projection. Wang et al. 2022
    (Magneto), arXiv:2210.06423.

    Values, output and MLP matrices start from Xavier with gain sqrt(log 2L), queries and keys with gain 1.
    """

    oracle = "transformers Kosmos2"
    inner_norm = True

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)
        self.gain = math.sqrt(math.log(2 * site.num_hidden_layers))

    def forward(self, h, f):
        return h + f(self.norm(h))

    def branch_start(self, name, linear):
        return Xavier(1.0 if name in ("q_proj", "k_proj") else self.gain)


KINDS: dict[str, type[Residual]] = {
    "plain": Plain,
    "pre": PreNorm,
    "post": PostNorm,
    "res_post": ResPostNorm,
    "peri": PeriNorm,
    "sandwich": PeriNorm,
    "depth_sandwich": DepthScaledSandwich,
    "two_norms": TwoNorms,
    "norm_add": NormAdd,
    "b2t": BottomToTop,
    "keel": Keel,
    "sub_ln": SubLN,
}
