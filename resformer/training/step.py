"""One optimiser step."""

import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator

from .config import OptimizerConfig


def train_step(
    model,
    optimizers: list,
    batches: Iterator[dict],
    accumulation: int,
    config: OptimizerConfig,
    accelerator: Accelerator,
) -> tuple[torch.Tensor, float, bool]:
    """Forward and backward over ``accumulation`` micro batches, clip, update.

    Returns:
        The batch's cross entropy on this process in nats per token, the gradient's norm before clipping over all
        processes, and whether the weights were updated: a gradient that is not finite is never stepped on.
    """
    loss = torch.zeros((), device=accelerator.device)
    for index in range(accumulation):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in next(batches).items()}
        last = index == accumulation - 1
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast():
            output = model(**batch, use_cache=False, z_loss=config.z_loss)
            accelerator.backward(output.loss / accumulation)
        loss += output.cross_entropy.detach() / accumulation
    grad_norm = float(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf))
    finite = math.isfinite(grad_norm)
    for optimizer in optimizers:
        if finite:
            optimizer.step()
        optimizer.zero_grad()
    return loss, grad_norm, finite
