"""One optimiser step."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs

from .config import OptimizerConfig
from .optimizers import Float32
from .sharding import is_sharded, whole


def train_step(
    model,
    optimizers: list,
    batches: Iterator[dict],
    *,
    accumulation: int,
    config: OptimizerConfig,
    accelerator: Accelerator,
    dropout_key: str = "",
) -> tuple[float, float, bool]:
    """Forward and backward over ``accumulation`` micro batches, clip, update.

    Args:
        dropout_key: what the random numbers of this step follow from, with the place of the micro batch in the batch:
            neither from what was drawn before nor from the number of processes.

    Returns:
        The batch's cross entropy in nats per token and the gradient's norm before clipping, both over all processes,
        and whether the weights were updated: a loss or a gradient that is not finite is never stepped on, for which the
        host waits, once a step, until the device has both.
    """
    loss = torch.zeros((), device=accelerator.device)
    casts = AutocastKwargs(cache_enabled=not is_sharded(model))  # or every gathered weight would stay, in bfloat16
    for index in range(accumulation):
        batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in next(batches).items()}
        last = index == accumulation - 1
        seed_dropout(f"{dropout_key}|{accelerator.process_index * accumulation + index}")
        with nullcontext() if last else accelerator.no_sync(model), accelerator.autocast(casts):
            output = model(**batch, use_cache=False, z_loss=config.z_loss)
            accelerator.backward(output.loss / accumulation)
        loss += output.cross_entropy.detach() / accumulation
    norm = whole(accelerator.clip_grad_norm_(model.parameters(), config.max_grad_norm or math.inf))
    mean_loss, grad_norm = torch.stack([accelerator.reduce(loss, "mean"), norm]).tolist()
    finite = math.isfinite(grad_norm) and math.isfinite(mean_loss)
    for optimizer in optimizers:
        if finite:
            with Float32() if accelerator.mixed_precision == "no" else nullcontext():
                optimizer.step()
        optimizer.zero_grad()
    return mean_loss, grad_norm, finite


def seed_dropout(key: str) -> None:
    digest = hashlib.sha256(f"dropout|{key}".encode()).digest()
    torch.manual_seed(int.from_bytes(digest[:8], "big") >> 1)
