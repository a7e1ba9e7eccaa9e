"""Optimisers whose groups carry what each parameter asks for, and the learning rate as a function of the step."""

import math
from collections import defaultdict

import torch
from torch.overrides import TorchFunctionMode

from ..model import ResformerForCausalLM
from .config import OptimizerConfig, ScheduleConfig


def lr_factor(step: int, max_steps: int, schedule: ScheduleConfig) -> float:
    """Share of the peak learning rate at optimiser step ``step`` (from 0) of ``max_steps``."""
    warmup = schedule.warmup(max_steps)
    if step < warmup:
        return (step + 1) / warmup
    progress = (step - warmup) / max(1, max_steps - warmup)
    if schedule.name == "constant":
        return 1.0
    if schedule.name == "linear":
        shape = 1 - progress
    elif schedule.name == "cosine":
        shape = (1 + math.cos(math.pi * progress)) / 2
    else:
        shape = min(1.0, (max_steps - step) / max(1.0, schedule.decay_fraction * max_steps))
    return schedule.min_lr_ratio + (1 - schedule.min_lr_ratio) * shape


def build_optimizers(model: ResformerForCausalLM, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """One optimiser, or two for Muon: torch's, with one group for each pair of multipliers in use.

    Args:
        model: not wrapped.
        config: ``optimizer.*``.
    """
    hints = model.optimizer_hints()
    matrices: list = []
    others: list = []
    for name, parameter in model.named_parameters():
        muon = config.name == "muon" and hints[name].orthogonalised
        (matrices if muon else others).append((parameter, hints[name]))
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        # Muon's step is orthogonal, of RMS about 0.2 after this factor: the size of AdamW's (Liu et al. 2025,
        # arXiv:2502.16982), so that both take the same learning rate.
        optimizers.append(
            torch.optim.Muon(
                _groups(matrices, config),
                lr=config.learning_rate,
                momentum=config.betas[1],
                weight_decay=config.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    groups = _groups(others, config)
    if config.name == "sgd":
        optimizers.append(torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.betas[0]))
    else:
        optimizers.append(torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.betas, fused=True))
    return optimizers


def set_learning_rate(optimizers: list, factor: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor


class Float32(TorchFunctionMode):
    """Context in which optimisers step in float32. Only Muon would not: torch's orthogonalises in bfloat16, which on a
    CPU that has to emulate it takes longer than the rest of the step."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.bfloat16:
            return args[0].to(torch.float32, copy=True)
        return func(*args, **(kwargs or {}))


def _groups(parameters: list, config: OptimizerConfig) -> list[dict]:
    grouped = defaultdict(list)
    for parameter, hint in parameters:
        grouped[hint].append(parameter)
    return [
        {
            "params": members,
            "lr": config.learning_rate * hint.learning_rate_multiplier,
            "peak_lr": config.learning_rate * hint.learning_rate_multiplier,
            "weight_decay": config.weight_decay * hint.weight_decay_multiplier,
        }
        for hint, members in grouped.items()
    ]
