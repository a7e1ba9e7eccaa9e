"""What is measured of one model on one batch: each a small object over the room of stability, which answers in rows
``(layer, metric, value)``. Those that only a trained model can answer are in ``trained_looks.py``."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from ..model import ResformerForCausalLM
from ..stability.curvature import hessian_operator, hessian_trace, largest_eigenvalue
from ..stability.layouts import loss_of
from ..stability.measure import Batch, final_states, measure
from ..stability.propagation import TOKENS, propagate, random_batch
from ..stability.rows import WHOLE
from ..stability.seam import measurable, run, watching, watching_final_states
from ..stability.signal import rms

Found = Iterator[tuple[int, str, float]]


@dataclass(frozen=True)
class Look:
    """Asked of a model on a batch; what it draws itself it draws with ``seed``."""

    def __call__(self, model: ResformerForCausalLM, batch: Batch, seed: int) -> Found:
        raise NotImplementedError


def tokens(model: ResformerForCausalLM, seed: int) -> Batch:
    """Random ones, for a model that has seen no text."""
    return random_batch(model.config.vocab_size, TOKENS, seed)


@dataclass(frozen=True)
class Signal(Look):
    """All numbers of the ``init`` probe, which draws its tokens with the seed itself, and ``power_per_block``: by how
    much the mean square of the stream grows with each block."""

    def __call__(self, model, batch, seed):
        found = propagate(model, seed)
        for name, value in dataclasses.asdict(found).items():
            if isinstance(value, float):
                yield WHOLE, name, value
        yield WHOLE, "power_per_block", (found.rms_last**2 - found.rms_first**2) / found.depth


@dataclass(frozen=True)
class Stream(Look):
    """Metrics of the recorder after each block (layer -1: of the embedding, or of the whole model).

    Args:
        noise: standard deviation of what is added to every parameter of the connections that is not a norm's.
    """

    metrics: tuple[str, ...]
    noise: float = 0.0

    def __call__(self, model, batch, seed):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if self.noise and "_residual." in name and "norm" not in name:
                    parameter.add_(self.noise * torch.randn(parameter.shape, generator=generator))
        for layer, sublayer, metric, value in measure(model, batch, gradients=False):
            if metric in self.metrics and sublayer != "attention":
                yield layer, metric, value


@dataclass(frozen=True)
class Isometry(Look):
    """``stretch_least`` and ``stretch_most``: by how much the transposed Jacobian from the embedding to the final
    states stretches random vectors. The ``gain`` of ``Signal`` estimates a mean and is too noisy to see an exact 1."""

    directions: int

    def __call__(self, model, batch, seed):
        with measurable(model), watching(model) as views, watching_final_states(model) as final:
            run(model, batch)
        generator, found = torch.Generator().manual_seed(seed), []
        for _ in range(self.directions):
            u = torch.randn(final[0].shape, generator=generator)
            (pulled,) = torch.autograd.grad(final[0], views[0].before, u, retain_graph=True)
            found.append((pulled.double().norm() / u.double().norm()).item())
        yield WHOLE, "stretch_least", min(found)
        yield WHOLE, "stretch_most", max(found)


@dataclass(frozen=True)
class FirstSteps(Look):
    """``accumulated_update``: by how much (RMS) the first steps of an optimiser move the final states of a batch.

    Args:
        gains: whether the norms' gains and biases move as well.
    """

    steps: int
    learning_rate: float
    optimizer: Literal["Adam", "SGD"] = "Adam"
    gains: bool = True

    def __call__(self, model, batch, seed):
        before = final_states(model, batch)
        moved = [p for p in model.parameters() if self.gains or p.ndim > 1]
        optimizer = getattr(torch.optim, self.optimizer)(moved, lr=self.learning_rate)
        for step in range(self.steps):
            optimizer.zero_grad()
            run(model, tokens(model, 1000 * (seed + 1) + step)).loss.backward()
            optimizer.step()
            model.advance()
        yield WHOLE, "accumulated_update", rms(final_states(model, batch) - before).item()


@dataclass(frozen=True)
class Against(Look):
    """``logit_difference``: the largest absolute difference of a logit from that of the model with another connection,
    as a share of the largest logit."""

    residual: str

    def __call__(self, model, batch, seed):
        config = copy.deepcopy(model.config)
        config.residual = self.residual
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            other = ResformerForCausalLM(config).eval()
        with torch.no_grad(), measurable(model):
            ours, theirs = (run(each, batch).logits for each in (model, other))
        yield WHOLE, "logit_difference", ((ours - theirs).abs().amax() / theirs.abs().amax()).item()


@dataclass(frozen=True)
class Curve(Look):
    """``sharpness`` and ``trace`` of the Hessian; ``non_convexity``: the size of its smallest eigenvalue over that of
    its largest (Li et al. 2018, arXiv:1712.09913); and ``gradient_change``: the largest change of the gradient, as a
    share of it, on the way of ``reach`` (a share of the weights' length) down the gradient (gradient predictiveness,
    Santurkar et al. 2018, arXiv:1805.11604)."""

    reach: float = 0.01
    stops: int = 4
    vectors: int = 4

    def __call__(self, model, batch, seed):
        yield from ((WHOLE, name, value) for name, value in curves(model, batch, self, seed).items())


def curves(model: torch.nn.Module, batch: Batch, look: Curve, seed: int) -> dict[str, float]:
    """What ``Curve`` says, of any model and batch; the weights are put back."""
    hessian = hessian_operator(model, batch)
    largest, smallest = largest_eigenvalue(hessian, seed), -largest_eigenvalue(-hessian, seed)
    trace = hessian_trace(hessian, seed, look.vectors)  # before the weights move, on which the product is built
    weights = [p for p in model.parameters() if p.requires_grad]
    start = [p.detach().clone() for p in weights]

    def gradient() -> list[torch.Tensor]:
        with measurable(model):
            return list(torch.autograd.grad(loss_of(model, batch), weights))

    first, changes = gradient(), []
    length, size = _length(first), _length(start)
    try:
        for stop in range(1, look.stops + 1):
            with torch.no_grad():
                for p, at, g in zip(weights, start, first, strict=True):
                    p.copy_(at - (stop / look.stops) * look.reach * size / length * g)
            changes.append(_length([b - a for a, b in zip(first, gradient(), strict=True)]) / length)
    finally:
        with torch.no_grad():
            for p, at in zip(weights, start, strict=True):
                p.copy_(at)
    return {"sharpness": largest, "trace": trace, "non_convexity": abs(min(smallest, 0.0)) / largest,
            "gradient_change": max(changes)}  # fmt: skip


def _length(tensors: list[torch.Tensor]) -> float:
    return torch.linalg.vector_norm(torch.stack([t.double().norm() for t in tensors])).item()
