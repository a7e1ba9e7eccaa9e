"""Weights, gradients and optimiser states split over processes (Zhao et al. 2023, arXiv:2304.11277), by torch.

A checkpoint always holds them whole, so that any number of processes, split or not, goes on from it.
"""

from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from ..model import ResformerForCausalLM


def shard(model: ResformerForCausalLM, accelerator: Accelerator) -> None:
    """Split the weights in place; parameters are others afterwards, so an optimiser must be built after.

    Each branch is gathered when it runs. All else, residual connections too, is gathered for the whole pass: a
    connection may be read outside its own block.

    Raises:
        ValueError: if the launch has no processes to split over.
    """
    if not torch.distributed.is_initialized():
        raise ValueError("train.shard splits weights over processes; launch it with torchrun or accelerate launch")
    model.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for block in model.model.layers:
        for branch in (block.attention, block.mlp):
            fully_shard(branch, mesh=mesh)
    fully_shard(model, mesh=mesh)


def is_sharded(model) -> bool:
    return isinstance(model, FSDPModule)


@torch.no_grad()
def gathered(model: ResformerForCausalLM, accelerator: Accelerator) -> ResformerForCausalLM:
    """``model`` itself, or on the main process a whole copy on the CPU where its weights are split.

    To be called by all processes; one tensor at a time is whole on the device.
    """
    if not is_sharded(model):
        return model
    copy = ResformerForCausalLM(model.config) if accelerator.is_main_process else None
    for index, theirs in enumerate(_tensors(model)):
        tensor = whole(theirs)
        if copy is not None:
            _tensors(copy)[index].copy_(tensor)
    return model if copy is None else copy.train(model.training)


@torch.no_grad()
def load_weights(model: ResformerForCausalLM, file: Path) -> None:
    """Put a checkpoint's weights into ``model``, split or not."""
    copy = ResformerForCausalLM(model.config) if is_sharded(model) else model
    load_model(copy, str(file))
    if copy is not model:
        for ours, theirs in zip(_tensors(model), _tensors(copy), strict=True):
            ours.copy_(like(ours, theirs))


def _tensors(model) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def whole(value):
    """A tensor itself, or all of it where it is split; to be called by all processes."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def like(part: torch.Tensor, tensor: torch.Tensor) -> torch.Tensor:
    """``tensor`` as its parts lie over the processes in ``part``."""
    if not isinstance(part, DTensor):
        return tensor
    return distribute_tensor(tensor.to(part.device), part.device_mesh, part.placements)
