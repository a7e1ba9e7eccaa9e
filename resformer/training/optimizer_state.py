"""What optimisers remember, as named tensors: a checkpoint holds nothing that could run."""

from collections import defaultdict
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from .sharding import like, whole


def named_state(model, optimizers: list, accelerator: Accelerator) -> dict[str, torch.Tensor]:
    """``{"AdamW/name.of.parameter/exp_avg": tensor}``, each tensor whole; to be called by all processes.

    Returns:
        The state on the main process; on others nothing of what is split.
    """
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {}
    for optimizer in map(_unwrapped, optimizers):
        for parameter, values in optimizer.state.items():
            for key, value in values.items():
                if value is None:  # the momentum of an SGD that has not stepped yet
                    continue
                tensor = whole(torch.as_tensor(value))
                if accelerator.is_main_process:
                    tensor = tensor.cpu() if isinstance(value, DTensor) else tensor
                    found[f"{type(optimizer).__name__}/{names[parameter]}/{key}"] = tensor.contiguous()
    return found


def load_named_state(file: Path, model, optimizers: list) -> None:
    """Put what ``named_state`` gave back into ``optimizers``, whose parameters may be split.

    Hyperparameters stay as the configuration says.

    Raises:
        ValueError: if it is the state of other optimisers or parameters.
    """
    saved: dict[tuple[str, str], dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in load_file(file).items():
        kind, _, rest = name.partition("/")
        parameter, _, key = rest.rpartition("/")
        saved[kind, parameter][key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    for optimizer in map(_unwrapped, optimizers):
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        states = {}
        for index, parameter in enumerate(parameters):
            values = saved.pop((type(optimizer).__name__, names[parameter]), {})
            states[index] = {
                key: like(parameter, value) if value.shape == parameter.shape else value
                for key, value in values.items()
            }
        optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
    if saved:
        raise ValueError(f"{file} holds {'/'.join(next(iter(saved)))}, which no optimiser of this run has")


def _unwrapped(optimizer) -> torch.optim.Optimizer:
    """torch's own, before or after ``Accelerator.prepare``."""
    return getattr(optimizer, "optimizer", optimizer)
