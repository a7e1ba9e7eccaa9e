"""Shortcuts with weights of their own: what is carried over is not the stream itself."""

import math
from typing import Literal

import torch
from torch import nn

from .initialization import Identity, Orthogonal, parameter
from .normalization import make_norm
from .residual import Residual, Site, full_precision


class Projection(Residual):
    """``W h + f(norm(h))``, the shortcut of a ResNet where shapes differ. He et al. 2015, arXiv:1512.03385.

    The one kind across which the stream's width may change. W starts as the identity, or with orthonormal rows or
    columns where the widths differ, and takes no weight decay, which would pull it towards no skip at all.
    """

    changes_width = True
    no_weight_decay = frozenset({"weight"})

    def __init__(self, config, site: Site):
        super().__init__(config, site)
        width = site.input_size or config.hidden_size
        self.norm = make_norm(config, width)
        start = Identity() if width == config.hidden_size else Orthogonal()
        self.weight = parameter(config.hidden_size, width, start=start)

    def forward(self, h, f):
        with full_precision(h):
            carried = nn.functional.linear(h, self.weight)
        return carried + f(self.norm(h))


class Laurel(Residual):
    """``a f(norm(h)) + b (B A h + h)``: a learned augmentation of the skip. Menghani et al. 2024 (LAuReL),
    arXiv:2411.07501.

    Args:
        mode: ``rw`` a f + b h; ``lr`` f + B A h + h; ``rw+lr`` both.
        rank: of B A. As in the paper's language models (section 3.3) B starts at 0, so that ``lr`` starts as ``pre``,
            and A with orthogonal rows: of row i every rank-th entry, from the i-th, is 1/sqrt(rank D), D the width.
        bound: how a and b are kept positive and small: ``softmax`` of two learned numbers, or ``sigmoid`` of each.
        init: initial b; a starts at 1 - b. The paper gives no values. By default S / (S + 1), S the number of sites:
            at 1/2, twelve blocks forget the embedding at the start as without any skip.
    """

    oracle = "transformers Gemma3nTextLaurelBlock (lr)"

    def __init__(
        self,
        config,
        site: Site,
        *,
        rank: int = 16,
        mode: Literal["rw", "lr", "rw+lr"] = "rw+lr",
        bound: Literal["softmax", "sigmoid"] = "softmax",
        init: float | None = None,
    ):
        super().__init__(config, site)
        if not 1 <= rank <= config.hidden_size:
            raise ValueError(f"rank is {rank}; it must be from 1 to hidden_size {config.hidden_size}")
        skip = site.num_sites / (site.num_sites + 1) if init is None else init
        if not 0 < skip < 1:
            raise ValueError(f"init is {init}; it must be in (0, 1)")
        logit = math.log(skip / (1 - skip)) / (2 if bound == "softmax" else 1)
        width, augments = config.hidden_size, "lr" in mode
        self.norm = make_norm(config)
        self.bound = bound
        self.weights = parameter(2, start=[-logit, logit]) if "rw" in mode else None
        comb = torch.arange(width, device="cpu") % rank == torch.arange(rank, device="cpu").unsqueeze(1)
        self.down = parameter(rank, width, start=comb.float() / math.sqrt(rank * width)) if augments else None
        self.up = parameter(width, rank, start=0.0) if augments else None

    def forward(self, h, f):
        y = f(self.norm(h))
        if self.down is not None and self.up is not None:
            h = h + nn.functional.linear(nn.functional.linear(h, self.down), self.up)
        if self.weights is None:
            return h + y
        a, b = self.scales(self.weights)
        return a * y + b * h

    def scales(self, weights):
        """a and b, positive and small."""
        return torch.softmax(weights, 0) if self.bound == "softmax" else torch.sigmoid(weights)

    def internals(self, state, written=None):
        found = super().internals(state, written)
        weights = found.pop("weights", None)
        return found if weights is None else found | dict(zip("ab", self.scales(weights), strict=True))


KINDS: dict[str, type[Residual]] = {"projection": Projection, "laurel": Laurel}
