"""Initial values that depend only on a seed, a parameter's name and its shape.

Two models that share a parameter therefore start it bit-identically, although one of them has more parameters,
and two variants that are equal at initialisation start bit-equal. The seed is the one torch was given last
(``torch.manual_seed`` or ``set_seed``): ``torch.initial_seed()``, not the state of its generator.

A start is said once, where the tensor is made: ``self.v = parameter(width, start=0.1)``. The model draws it after its
own initialisation, wherever its weights came to lie (transformers builds on the meta device), and leaves alone what a
checkpoint brought.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from transformers import initialization as init

Start = Callable[[torch.Size, torch.Generator], torch.Tensor]
"""The values of a tensor of this shape, in float32 on the CPU whatever the model's own device and dtype are, so that
the numbers agree."""
Value = float | Sequence | torch.Tensor
Some = TypeVar("Some", bound=torch.Tensor)


@dataclass(frozen=True, eq=False)
class Constant:
    """A number, or a list or tensor of the shape."""

    value: Value

    def __call__(self, shape, generator=None):
        return torch.as_tensor(self.value, device="cpu").expand(shape)


@dataclass(frozen=True)
class Normal:
    """N(0, std^2)."""

    std: float

    def __call__(self, shape, generator):
        return torch.randn(shape, generator=generator, device="cpu") * self.std


@dataclass(frozen=True)
class Uniform:
    """U(mean - bound, mean + bound)."""

    bound: float
    mean: float = 0.0

    def __call__(self, shape, generator):
        return (torch.rand(shape, generator=generator, device="cpu") * 2 - 1) * self.bound + self.mean


@dataclass(frozen=True)
class Xavier:
    """N(0, std^2) with std = gain sqrt(2 / (fan_in + fan_out)). Glorot and Bengio 2010."""

    gain: float = 1.0

    def __call__(self, shape, generator):
        return Normal(self.gain * math.sqrt(2 / sum(shape)))(shape, generator)


@dataclass(frozen=True)
class Orthogonal:
    """Orthonormal rows or columns, whichever are fewer. Saxe et al. 2013, arXiv:1312.6120."""

    def __call__(self, shape, generator):
        return nn.init.orthogonal_(torch.empty(shape, device="cpu"), generator=generator)


@dataclass(frozen=True)
class Identity:
    """Ones on the diagonal, zeros elsewhere."""

    def __call__(self, shape, generator):
        return torch.eye(*shape, device="cpu")


def parameter(*size: int, start: Start | Value) -> nn.Parameter:
    """A parameter of this size that starts at ``start``: a number, a list, a tensor or one of the classes above."""
    return starting(nn.Parameter(torch.zeros(size)), start)


def buffer(
    *size: int, start: Start | Value, dtype: torch.dtype = torch.float32, persistent: bool = False
) -> torch.Tensor:
    """As ``parameter``, for what is not learned: a number by depth, so that blocks share one graph.

    Args:
        dtype: an integer's stays as it is when the model changes its own.
        persistent: whether checkpoints carry it: a count that training moves on.
    """
    return starting(nn.Buffer(torch.zeros(size, dtype=dtype), persistent=persistent), start)


def starting(tensor: Some, start: Start | Value) -> Some:
    """Say where a parameter or buffer starts that was made elsewhere, as in ``nn.Linear``.

    Until the model draws it, it holds its constant, or what it held.

    Raises:
        ValueError: for a start whose numbers lie on the meta device, where transformers builds a model.
    """
    start = start if callable(start) else Constant(start)
    if isinstance(start, Constant):
        values = start(tensor.shape)
        if values.is_meta:
            raise ValueError("a start is a number, a list, or a tensor made with device='cpu'")
        with torch.no_grad():
            tensor.copy_(values)
    tensor.start = start  # type: ignore[attr-defined]
    return tensor


def name_modules(root: nn.Module) -> None:
    """Tell every module below ``root`` its path, under which its tensors are drawn, and where they start.

    The starts stand with the module from here on: transformers replaces the tensors when it loads a checkpoint.
    """
    for path, module in root.named_modules():
        module.initialization_path = path  # type: ignore[assignment]
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        starts = {name: vars(tensor).pop("start") for name, tensor in tensors if "start" in vars(tensor)}
        if starts:
            module.starts = starts  # type: ignore[assignment]


def draw_starts(root: nn.Module) -> None:
    """Set every tensor below ``root`` that said where it starts."""
    for module in root.modules():
        starts: dict[str, Start] = getattr(module, "starts", {})
        for name, start in starts.items():
            draw(module, name, start)


def draw(module: nn.Module, name: str, start: Start) -> None:
    """Set ``module.<name>``, unless it was loaded from a checkpoint."""
    tensor = getattr(module, name)
    if tensor is None or getattr(tensor, "_is_hf_initialized", False) or tensor.is_meta:
        return
    key = f"{torch.initial_seed()}|{module.initialization_path}.{name}|{tuple(tensor.shape)}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    values = start(tensor.shape, torch.Generator("cpu").manual_seed(seed))
    init.copy_(tensor, values.to(tensor))


SCHEMES = ("normal", "depth_scaled", "xavier")
OUTPUTS = ("o_proj", "down_proj")


def usual(path: str, config, num_sites: int, factor: float = 1.0, scheme: str | None = None) -> Start:
    """Where a matrix starts by one of ``SCHEMES``, times ``factor``.

    Args:
        path: of the ``nn.Linear`` in the model.
        config: the model's.
        num_sites: that add to the stream.
        scheme: by default the model's global rule, ``config.initialization``.
    """
    scheme = config.initialization if scheme is None else scheme
    if scheme == "xavier" and path != "lm_head":
        return Xavier(factor)
    # GPT-2's rule: one residual layer per site adds to the stream.
    scales = scheme == "depth_scaled" and path.endswith((".attention.o_proj", ".mlp.down_proj"))
    return Normal(config.initializer_range * (num_sites**-0.5 if scales else 1.0) * factor)
