"""Signal propagation at initialisation, by depth, without training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig

from ..model import ResformerConfig, ResformerForCausalLM
from ..model.options import ResformerOptions
from .measure import Batch
from .seam import SiteView, measurable, run, watching, watching_final_states
from .signal import precise, rms, token_similarity

DEPTHS = (6, 12, 24, 48, 96, 192, 384, 1000)
TOKENS, SEQUENCES = 16, 2


@dataclass(frozen=True)
class Propagation:
    """What one model of one depth does to a signal before any training.

    Attributes:
        depth: blocks.
        dtype: ``float32`` or ``bfloat16``: of weights and activations alike.
        seed: of weights and tokens.
        rms_first, rms_last: of the stream before the first site and after the last one.
        token_cosine: of two tokens of a sequence, after the last site.
        gain: mean squared singular value of the Jacobian from the embedding to the final hidden states.
        gradient_first, gradient_last: RMS of the gradient that arrives at the stream before the first site and after
            the last one but one.
        weight_first, weight_last: norm of the gradient of the MLP's output matrix, of the first and the last block.
        loss: nats per token.
        finite: whether all of the above are.
        seconds: it took.
    """

    depth: int
    dtype: str
    seed: int
    rms_first: float
    rms_last: float
    token_cosine: float
    gain: float
    gradient_first: float
    gradient_last: float
    weight_first: float
    weight_last: float
    loss: float
    finite: bool
    seconds: float


@dataclass(frozen=True)
class LeftOut:
    """A depth that would have taken more than the budget."""

    depth: int
    seconds: float


def ladder(
    config: ResformerConfig, depths=DEPTHS, *, dtypes=("float32", "bfloat16"), seeds=(0,), budget: float = 60.0
) -> Iterator[Propagation | LeftOut]:
    """One measurement for each depth, seed and type, of weights drawn once for all types.

    A depth is left out where it would take more than ``budget`` seconds: kinds that read all earlier sites cost the
    square of the depth.

    Raises:
        ValueError: if the residual connections of ``config`` do not go with a depth.
    """
    took: dict[int, float] = {}
    for depth in sorted(depths):
        if (expected := _expected(took, depth)) > budget:
            yield LeftOut(depth, expected)
            continue
        for seed in seeds:
            started = time.perf_counter()
            torch.manual_seed(seed)
            model = ResformerForCausalLM(_at_depth(config, depth))
            for dtype in dtypes:
                yield propagate(model.to(getattr(torch, dtype)), seed)
            took[depth] = time.perf_counter() - started


def _expected(took: dict[int, float], depth: int) -> float:
    """Seconds, from the two depths before: linear in the depth, or quadratic."""
    if len(took) < 2:
        return 0.0
    (near, seconds), (far, earlier) = sorted(took.items(), reverse=True)[:2]
    quadratic = seconds / earlier > (near / far) ** 1.5
    return seconds * (depth / near) ** (2 if quadratic else 1)


def options_of(config: PreTrainedConfig) -> dict[str, Any]:
    """The keys of a configuration that make one like it, without what transformers keeps there."""
    options = config.to_dict()
    return {name: options[name] for name in ResformerOptions.__annotations__ if name in options}


def _at_depth(config: ResformerConfig, depth: int) -> ResformerConfig:
    try:
        return ResformerConfig(**(options_of(config) | {"num_hidden_layers": depth}))
    except ValueError as error:
        raise ValueError(f"cannot build it with {depth} blocks: {error}") from error


def propagate(model: ResformerForCausalLM, seed: int) -> Propagation:
    """One forward and two backward passes of an untrained model on random tokens, in the type of its weights."""
    started = time.perf_counter()
    batch = random_batch(model.config.vocab_size, min(TOKENS, model.config.max_position_embeddings), seed)
    with measurable(model), watching(model) as views, watching_final_states(model) as final:
        output = run(model, batch)
    return _read(model, views, final[0], output.loss, seed, started)


def random_batch(vocab_size: int, tokens: int, seed: int) -> Batch:
    drawn = torch.randint(vocab_size, (SEQUENCES, tokens + 1), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": drawn[:, :-1], "shift_labels": drawn[:, 1:]}


def squared_gain(output: torch.Tensor, given: torch.Tensor, seed: int) -> torch.Tensor:
    """An estimate of the mean squared singular value of the Jacobian, from one normal vector u drawn with ``seed``:
    the mean of ``|J^T u|^2`` is the squared Frobenius norm."""
    u = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    (pulled,) = torch.autograd.grad(output, given, u)
    return precise(pulled).square().sum() / output.numel()


def _read(model, views: list[SiteView], final, loss, seed, started) -> Propagation:
    first, last = views[0], views[-2] if len(views) > 1 else views[-1]
    matrices = [block.mlp.down_proj.weight for block in (model.model.layers[0], model.model.layers[-1])]
    at_last = last.after if last.single else last.written
    gradients = torch.autograd.grad(loss, [first.before, at_last, *matrices], retain_graph=True)
    numbers = {
        "rms_first": rms(first.before),
        "rms_last": rms(views[-1].after),
        "token_cosine": token_similarity(views[-1].after),
        "gain": squared_gain(final, first.before, seed),
        "gradient_first": rms(gradients[0]),
        "gradient_last": rms(gradients[1]),
        "weight_first": precise(gradients[2]).norm(),
        "weight_last": precise(gradients[3]).norm(),
        "loss": loss,
    }
    values = {name: float(value.detach()) for name, value in numbers.items()}
    return Propagation(
        depth=model.config.num_hidden_layers,
        dtype=str(model.dtype).removeprefix("torch."),
        seed=seed,
        **values,
        finite=all(torch.isfinite(value).item() for value in numbers.values()),
        seconds=time.perf_counter() - started,
    )
