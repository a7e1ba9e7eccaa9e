"""What the stream holds: how many directions, how narrow a cone, how like the block before."""

import torch
import torch.nn.functional as F

from .signal import evenly_spaced, precise

TOKENS = 4096


def effective_rank(x: torch.Tensor) -> torch.Tensor:
    """``exp(-sum_i p_i log p_i)``, ``p_i`` the share of a singular value in their sum, of up to 4,096 evenly spaced
    tokens ``[tokens, hidden]``: from 1 (all on one line) to the width. Roy and Vetterli 2007."""
    singular = torch.linalg.svdvals(_tokens(x))
    share = singular / singular.sum()
    return torch.special.entr(share).sum().exp()


def anisotropy(x: torch.Tensor) -> torch.Tensor:
    """Mean cosine of tokens of different sequences, ``[batch, time, hidden]``: 0 where directions are even, near 1
    where all lie in a narrow cone. Ethayarajh 2019, arXiv:1909.00512. Not a number for a single sequence."""
    units = F.normalize(precise(x), dim=-1)
    batch, time = units.shape[:2]
    of_sequences = units.sum(1)
    # All pairs less the pairs inside a sequence.
    pairs = of_sequences.sum(0).square().sum() - of_sequences.square().sum()
    return pairs / (time**2 * batch * (batch - 1)) if batch > 1 else pairs.new_tensor(float("nan"))


def linear_cka(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``|Y^T X|^2 / (|X^T X| |Y^T Y|)`` of centred tokens: 1 where one is a rotation of the other. Kornblith et al.
    2019, arXiv:1905.00414."""
    x, y = (tokens - tokens.mean(0) for tokens in (_tokens(x), _tokens(y)))
    return (y.mT @ x).square().sum() / ((x.mT @ x).norm() * (y.mT @ y).norm())


def _tokens(x: torch.Tensor) -> torch.Tensor:
    flat = precise(x).flatten(0, -2)
    return flat[evenly_spaced(len(flat), TOKENS, flat.device)]
