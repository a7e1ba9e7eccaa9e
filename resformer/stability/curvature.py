"""Curvature: the largest eigenvalue of the Hessian, plain and as an adaptive optimiser sees it.

Products with the Hessian are torch's double backward, eigenvalues SciPy's Lanczos iteration (ARPACK). curvlinops would
do the same, and brings torchvision along.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm.auto import tqdm

from .layouts import loss_of
from .measure import Batch
from .seam import measurable

ADAPTIVE_EDGE = 38.0
"""``(2 + 2 b1) / (1 - b1)`` at b1 = 0.9: Cohen et al. 2022, arXiv:2207.14484."""

TRACE_VECTORS = 16
ROUNDING = 1e-6
"""Of a loss in float32: what moves by less than this share of it has not moved."""


@dataclass(frozen=True)
class Curvature:
    """Attributes: lambda_max of H and of P^-1 H, an estimate of the trace of H, and learning rates: 2 / lambda_max,
    38 / lambda_max(P^-1 H), and the largest at which one step (of gradient descent; of P^-1 g) still lowers the loss,
    to an eighth of a decade."""

    sharpness: float
    preconditioned_sharpness: float
    trace: float
    edge: float
    adaptive_edge: float
    critical_learning_rate: float
    critical_adaptive_learning_rate: float


def hessian_operator(model: nn.Module, batch: Batch, scale: torch.Tensor | None = None) -> LinearOperator:
    """``S H S`` of the loss over all parameters, with S = diag(``scale``) (by default 1), as SciPy's operator."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    # The fused kernels of attention have no double backward, on the CPU either.
    with measurable(model), sdpa_kernel(SDPBackend.MATH):
        loss = loss_of(model, batch)
        gradient = _flat(torch.autograd.grad(loss, parameters, create_graph=True, allow_unused=True), parameters)

    def product(vector: np.ndarray) -> np.ndarray:
        v = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(gradient)
        v = v if scale is None else v * scale
        found = torch.autograd.grad(gradient @ v, parameters, retain_graph=True, allow_unused=True)
        result = _flat(found, parameters)
        bar.update()
        return (result if scale is None else result * scale).detach().cpu().double().numpy()

    bar = tqdm(desc="Hessian products", disable=None, leave=False)
    return LinearOperator((gradient.numel(),) * 2, matvec=product, dtype=np.float64)  # type: ignore[call-arg]


def largest_eigenvalue(operator: LinearOperator, seed: int = 0, tolerance: float = 1e-3) -> float:
    """The algebraically largest one, by Lanczos from a vector drawn with ``seed``."""
    start = np.random.default_rng(seed).standard_normal(operator.shape[0])
    try:
        return float(eigsh(operator, k=1, which="LA", v0=start, tol=tolerance, return_eigenvectors=False)[0])
    except ArpackError as error:  # no convergence is one as well
        raise ValueError(f"curvature: the largest eigenvalue cannot be found ({error}); is the loss finite?") from error


def hessian_trace(operator: LinearOperator, seed: int = 0, vectors: int = TRACE_VECTORS) -> float:
    """Hutchinson 1989: the mean of ``v^T H v`` over random vectors of signs."""
    random = np.random.default_rng(seed)
    signs = (random.choice([-1.0, 1.0], operator.shape[0]) for _ in range(vectors))
    return float(np.mean([v @ operator.matvec(v) for v in signs]))


def second_moment(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean square of the gradients of single sequences: what an adaptive optimiser's v would be here, were it fresh."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    total = torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    sequences = batch["input_ids"].shape[0]
    with measurable(model):
        for index in range(sequences):
            loss = loss_of(model, {name: tensor[index : index + 1] for name, tensor in batch.items()})
            total += _flat(torch.autograd.grad(loss, parameters, allow_unused=True), parameters).square() / sequences
    return total


def curvature(
    model: nn.Module, batch: Batch, *, v: torch.Tensor | None = None, eps: float = 1e-8, seed: int = 0
) -> Curvature:
    """Sharpness and critical learning rates on one batch.

    P = diag(sqrt(v) + eps): Gilmer et al. 2021, arXiv:2110.04369; Cohen et al. 2022, arXiv:2207.14484.

    Args:
        v: second moments of the optimiser, corrected for their start at 0, flat over all parameters; by default the
            mean square of the gradients of the batch's sequences.
    """
    preconditioner = (second_moment(model, batch) if v is None else v).sqrt() + eps
    hessian = hessian_operator(model, batch)
    sharpness, trace = largest_eigenvalue(hessian, seed), hessian_trace(hessian, seed)
    preconditioned = largest_eigenvalue(hessian_operator(model, batch, preconditioner.rsqrt()), seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    with measurable(model):
        gradient = _flat(torch.autograd.grad(loss_of(model, batch), parameters, allow_unused=True), parameters)
    return Curvature(
        sharpness,
        preconditioned,
        trace,
        2 / sharpness if sharpness > 0 else math.inf,
        ADAPTIVE_EDGE / preconditioned if preconditioned > 0 else math.inf,
        critical_learning_rate(model, batch, gradient),
        critical_learning_rate(model, batch, gradient / preconditioner),
    )


@torch.no_grad()
def critical_learning_rate(model: nn.Module, batch: Batch, direction: torch.Tensor) -> float:
    """The largest rate at which ``weights - rate * direction`` has a lower loss, before the first with a higher one,
    found upwards from 1e-8 in eighths of a decade; 0 if none has."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    start = [p.clone() for p in parameters]
    parts = direction.split([p.numel() for p in parameters])
    critical = 0.0
    try:
        with measurable(model):
            before = loss_of(model, batch).item()
            for exponent in range(-64, 25):
                rate = 10 ** (exponent / 8)
                for p, at, part in zip(parameters, start, parts, strict=True):
                    p.copy_(at - rate * part.view_as(p))
                after = loss_of(model, batch).item()
                if not after <= before * (1 + ROUNDING):
                    break
                if after < before * (1 - ROUNDING):
                    critical = rate
    finally:
        for p, at in zip(parameters, start, strict=True):
            p.copy_(at)
    return critical


def _flat(tensors, parameters) -> torch.Tensor:
    filled = (torch.zeros_like(p) if t is None else t for t, p in zip(tensors, parameters, strict=True))
    return torch.cat([t.reshape(-1) for t in filled])
