"""Placement of the norm: one stream, no gate, no scale; the kinds differ in where the norm stands."""

from typing import Literal

from torch import nn

from .normalization import make_norm
from .residual import Residual, Site


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

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        return h + f(self.norm(h))


class PostNorm(Residual):
    """``norm(h + f(h))``; the last one is the final norm. Vaswani et al. 2017, arXiv:1706.03762."""

    final_norm = False

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        self.norm = make_norm(config)

    def forward(self, h, f):
        return self.norm(h + f(h))


class ResPostNorm(Residual):
    """``h + norm(f(h))``. Liu et al. 2021 (Swin v2), arXiv:2111.09883; OLMo 2 2024, arXiv:2501.00656.

    The branch reads an unnormalised stream: OLMo 2 has ``qk_norm: projection`` with it.
    """

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
    """

    def __init__(self, config, site: Site, *, embedding_norm: bool = False):
        super().__init__(config, site)
        self.norm_in = make_norm(config)
        self.norm_out = make_norm(config)
        self.embedding_norm = make_norm(config) if embedding_norm and site.index == 0 else nn.Identity()

    def forward(self, h, f):
        h = self.embedding_norm(h)
        return h + self.norm_out(f(self.norm_in(h)))


KINDS: dict[str, type[Residual]] = {
    "plain": Plain,
    "pre": PreNorm,
    "post": PostNorm,
    "res_post": ResPostNorm,
    "peri": PeriNorm,
    "sandwich": PeriNorm,
}
