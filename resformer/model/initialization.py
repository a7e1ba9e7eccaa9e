"""Initial values that depend only on a seed, a parameter's name and its shape.

Two models that share a parameter therefore start it bit-identically, although one of them has more parameters,
and two variants that are equal at initialisation start bit-equal. The seed is the one torch was given last
(``torch.manual_seed`` or ``set_seed``): ``torch.initial_seed()``, not the state of its generator.
"""

import hashlib
import math

import torch
from torch import nn
from transformers import initialization as init


def name_modules(root: nn.Module) -> None:
    """Tell every module below ``root`` its path, the name under which its tensors are drawn."""
    for path, module in root.named_modules():
        module.initialization_path = path  # type: ignore[assignment]


def _generator(path: str, shape: torch.Size) -> torch.Generator:
    key = f"{torch.initial_seed()}|{path}|{tuple(shape)}"
    seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1
    return torch.Generator("cpu").manual_seed(seed)


def _assign(module: nn.Module, name: str, values) -> None:
    """Fill ``module.<name>`` with ``values(shape, generator)``, unless it was loaded from a checkpoint."""
    tensor = getattr(module, name)
    if tensor is None or getattr(tensor, "_is_hf_initialized", False) or tensor.is_meta:
        return
    # Drawn in float32 on the CPU whatever the model's own device and dtype are, so that the numbers agree.
    generator = _generator(f"{module.initialization_path}.{name}", tensor.shape)
    init.copy_(tensor, values(tensor.shape, generator).to(tensor))


def normal(module: nn.Module, std: float, name: str = "weight") -> None:
    """Draw ``module.<name>`` from N(0, std^2)."""
    _assign(module, name, lambda shape, g: torch.randn(shape, generator=g, device="cpu") * std)


def uniform(module: nn.Module, bound: float, name: str = "weight") -> None:
    """Draw ``module.<name>`` from U(-bound, bound)."""
    _assign(module, name, lambda shape, g: (torch.rand(shape, generator=g, device="cpu") * 2 - 1) * bound)


def constant(module: nn.Module, value: float | torch.Tensor, name: str) -> None:
    """Fill the parameter or buffer ``module.<name>`` with a number, or with a tensor of its shape."""
    _assign(module, name, lambda shape, _: torch.as_tensor(value, device="cpu").expand(shape))


def orthogonal(module: nn.Module, name: str = "weight") -> None:
    """Orthonormal rows or columns, whichever are fewer. Saxe et al. 2013, arXiv:1312.6120."""

    def values(shape, generator):
        return nn.init.orthogonal_(torch.empty(shape, device="cpu"), generator=generator)

    _assign(module, name, values)


def xavier_normal(module: nn.Linear, gain: float = 1.0) -> None:
    """Glorot and Bengio 2010: std = gain * sqrt(2 / (fan_in + fan_out))."""
    normal(module, gain * math.sqrt(2 / (module.in_features + module.out_features)))


def matrix(module: nn.Linear | nn.Embedding, config, num_sites: int, factor: float = 1.0) -> None:
    """Draw a weight by the model's global rule, ``config.initialization``, times ``factor``."""
    path = module.initialization_path
    if isinstance(module, nn.Embedding):
        std = config.embedding_initializer_range
        normal(module, (config.initializer_range if std is None else std) * factor)
    elif config.initialization == "xavier" and path != "lm_head":
        xavier_normal(module, factor)
    else:
        # GPT-2's rule: one residual layer per site adds to the stream.
        scales = config.initialization == "depth_scaled" and path.endswith((".attention.o_proj", ".mlp.down_proj"))
        normal(module, config.initializer_range * (num_sites**-0.5 if scales else 1.0) * factor)
