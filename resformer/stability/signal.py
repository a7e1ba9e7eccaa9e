"""What is computed of a stream: each metric once, as a function of tensors ``[batch, time, hidden]``.

All return a scalar tensor. Where papers mean different numbers by one name, the docstring says which is meant.
"""

import math

import torch
import torch.nn.functional as F

MASSIVE, MASSIVE_RATIO = 100.0, 1000.0


def precise(x: torch.Tensor) -> torch.Tensor:
    """In double precision, on devices that have it."""
    return x.float() if x.device.type == "mps" else x.double()


def evenly_spaced(count: int, most: int, device: torch.device) -> torch.Tensor:
    """Indices into ``count`` things, first and last among them, of ``most`` or of all where there are fewer."""
    return torch.linspace(0, count - 1, min(count, most), device=device).round().long()


def rms(x: torch.Tensor) -> torch.Tensor:
    """Root mean square over all elements; of values whose square would overflow in float32 too."""
    return torch.linalg.vector_norm(precise(x)) / math.sqrt(x.numel())


def cosine(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Cosine of each token's vectors, mean over tokens."""
    return F.cosine_similarity(x.float(), y.float(), dim=-1).mean()


def angular_distance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """``arccos(cosine) / pi``, mean over all tokens. Gromov et al. 2024, arXiv:2403.17887, take the last token only."""
    return torch.arccos(F.cosine_similarity(x.float(), y.float(), dim=-1).clamp(-1, 1)).mean() / math.pi


def token_similarity(x: torch.Tensor) -> torch.Tensor:
    """Mean cosine of two different tokens of one sequence: 1 where the stream has collapsed to one direction."""
    units = F.normalize(x.float(), dim=-1)
    time = x.shape[1]
    # The sum over all pairs is the squared length of the sum, less the pairs of a token with itself.
    return ((units.sum(1).square().sum(-1) - units.square().sum((1, 2))) / (time * (time - 1))).mean()


def dong_residual(x: torch.Tensor) -> torch.Tensor:
    """``|X - 1 m^T| / |X|`` of each sequence, m its mean token and ``|.|`` the root of the largest column sum times the
    largest row sum: 0 where all tokens are one (rank 1), mean over sequences. Dong et al. 2021, arXiv:2103.03404."""
    x = x.float()

    def composite_norm(matrix: torch.Tensor) -> torch.Tensor:
        return (torch.linalg.matrix_norm(matrix, 1) * torch.linalg.matrix_norm(matrix, torch.inf)).sqrt()

    return (composite_norm(x - x.mean(1, keepdim=True)) / composite_norm(x).clamp(min=1e-30)).mean()


def kurtosis(x: torch.Tensor) -> torch.Tensor:
    """``E_j[s_j^4] / E_j[s_j^2]^2`` with s_j the RMS of channel j over tokens: from 1 (all channels alike) to the
    width (one channel has it all). He et al. 2024, arXiv:2405.19279. Composer and lingua mean other numbers."""
    squares = x.float().square().flatten(0, -2).mean(0)
    return squares.square().mean() / squares.mean().square()


def max_median_ratio(x: torch.Tensor) -> torch.Tensor:
    """Largest over median absolute value of each token's channels, mean over tokens. He et al. 2024."""
    size = x.float().abs()
    return (size.amax(-1) / size.median(-1).values.clamp(min=1e-12)).mean()


def massive_activations(x: torch.Tensor) -> torch.Tensor:
    """Number of elements above 100 in size and above 1,000 times the median size. Sun et al. 2024, arXiv:2402.17762."""
    size = x.float().abs()
    return ((size > MASSIVE) & (size > MASSIVE_RATIO * size.median())).sum().float()


def growth_fits(values: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the stream's RMS ``[depth]``: share of the variance (R squared) of ``RMS^2 ~ a + b depth`` (``linear``) and of
    ``log RMS^2 ~ a + c depth`` (``exponential``) that the fit explains; not a number where nothing varies."""
    squares = precise(values).square()
    depth = torch.arange(len(squares), device=squares.device, dtype=squares.dtype)
    found = {}
    for name, y in (("linear", squares), ("exponential", squares.log())):
        found[name] = torch.corrcoef(torch.stack([depth, y]))[0, 1].square() if len(y) > 2 else y.new_tensor(math.nan)
    return found


def stream_rms_ratio(streams: torch.Tensor) -> torch.Tensor:
    """Largest over smallest RMS of several streams ``[batch, time, streams, hidden]``; 1 where all are alike."""
    each = precise(streams).square().mean((0, 1, 3)).sqrt()
    return each.amax() / each.amin().clamp(min=1e-30)


def amax_gain(mixing: torch.Tensor) -> dict[str, torch.Tensor]:
    """How much a stream mixing ``[..., to, from]`` can amplify and attenuate, mean over the leading dimensions.

    ``forward`` and ``backward`` are the largest absolute row and column sum (Xie et al. 2025, mHC, arXiv:2512.24880);
    they hide attenuation, so ``log_column`` is the largest absolute log of an absolute column sum, and ``second`` the
    second largest absolute eigenvalue.
    """
    size = mixing.float().abs()
    columns = size.sum(-2)
    gains = {
        "forward": size.sum(-1).amax(-1).mean(),
        "backward": columns.amax(-1).mean(),
        "log_column": columns.clamp(min=1e-30).log().abs().amax(-1).mean(),
    }
    if mixing.shape[-1] > 1 and not mixing.isfinite().all():
        gains["second"] = mixing.new_tensor(float("nan"))  # LAPACK may end the process over a NaN
    elif mixing.shape[-1] > 1:
        values = torch.linalg.eigvals(mixing.float()).abs().sort(dim=-1, descending=True).values
        gains["second"] = values[..., 1].mean()
    return gains


STREAM = {
    "stream_rms": rms,
    "token_similarity": token_similarity,
    "dong_residual": dong_residual,
    "kurtosis": kurtosis,
    "max_median_ratio": max_median_ratio,
    "massive_activations": massive_activations,
}
"""What is taken of the stream at every depth."""
