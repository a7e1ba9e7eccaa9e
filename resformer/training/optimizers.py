"""AdamW, Muon and SGD over groups that say what each parameter asked for."""

from typing import Any

import torch
from torch import nn

from ..model import ResformerForCausalLM
from .config import OptimizerConfig


class Optimizer:
    """One or two torch optimisers behind one set of methods."""

    def __init__(self, parts: list[torch.optim.Optimizer]):
        self.parts = parts

    def set_learning_rate(self, learning_rate: float) -> None:
        """Give every group its multiple of `learning_rate`."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate * group["learning_rate_multiplier"]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, values in zip(self.parts, state["parts"], strict=True):
            part.load_state_dict(values)


def build_optimizer(model: ResformerForCausalLM, config: OptimizerConfig) -> Optimizer:
    """The optimiser of a model's parameters, grouped by their multipliers of learning rate and weight decay."""
    named = dict(model.named_parameters())
    hints = model.optimizer_hints()
    matrices = [name for name in named if config.name == "muon" and is_hidden_matrix(name, named[name])]
    rest = [name for name in named if name not in set(matrices)]

    def groups(names: list[str]) -> list[dict[str, Any]]:
        keyed: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name in names:
            hint = hints[name]
            key = (hint.learning_rate_multiplier, hint.weight_decay_multiplier)
            keyed.setdefault(key, []).append(named[name])
        return [
            {
                "params": parameters,
                "learning_rate_multiplier": learning_rate,
                "weight_decay": config.weight_decay * decay,
            }
            for (learning_rate, decay), parameters in keyed.items()
        ]

    lr = config.learning_rate
    if config.name == "sgd":
        return Optimizer([torch.optim.SGD(groups(rest), lr=lr, momentum=config.betas[0])])
    parts: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups(rest), lr=lr, betas=config.betas, fused=True)]
    if matrices:
        # Updates as large as AdamW's (Liu et al. 2025, arXiv:2502.16982), so that learning rates carry over.
        parts.append(torch.optim.Muon(groups(matrices), lr=lr, adjust_lr_fn="match_rms_adamw"))
    return Optimizer(parts)


def is_hidden_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether `name` is a weight matrix of an attention or MLP branch."""
    return parameter.ndim == 2 and not {"attention", "mlp"}.isdisjoint(name.split("."))
