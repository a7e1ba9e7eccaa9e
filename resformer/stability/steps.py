"""What one optimiser step does to the weights, and on what grounds."""

from __future__ import annotations

import torch
from torch import nn

from .rows import WHOLE, Row, Rows, place_of, ratio, square_sums, tensor_class
from .signal import precise, rms

Tensors = dict[str, torch.Tensor]

SMALL = 10
"""Times eps of AdamW, under which the RMS of a gradient is lost beside it."""


def snapshot(model: nn.Module) -> Tensors:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


@torch.no_grad()
def changes(before: Tensors, model: nn.Module) -> Tensors:
    """What was added to each parameter since ``snapshot`` gave ``before``."""
    return {name: model.get_parameter(name) - old for name, old in before.items()}


@torch.no_grad()
def step_rows(model: nn.Module, before: Tensors, change: Tensors, gradients: Tensors, previous: Tensors) -> list[Row]:
    """Of one optimiser step, for each matrix, site and the whole model.

    ``update_to_weight`` is the RMS of the change over that of the weight before it; ``update_gradient_cosine`` the
    cosine of the change with the gradient that the optimiser was given (-1 is plain descent), ``update_cosine`` that
    with the change of the step before (negative where the weights swing from side to side).

    Args:
        before, change: the parameters before the step, and what it added.
        gradients: what the optimiser was given.
        previous: what the step before added; empty where that is not known, and there is no ``update_cosine``.
    """
    rows = Rows()
    squares, weights = square_sums(change), square_sums(before)
    pairs = {name: torch.stack([squares[name], weights[name]]) for name in change}
    rows.add_pooled("update_to_weight", model, pairs, lambda step, weight: ratio(step, weight).sqrt(), optional=True)
    for metric, others in (("update_gradient_cosine", gradients), ("update_cosine", previous)):
        lengths = square_sums(others)
        sums = {
            name: torch.stack([precise((change[name] * other).sum()), squares[name], lengths[name]])
            for name, other in others.items()
        }
        rows.add_pooled(metric, model, sums, lambda dot, a, b: ratio(dot, (a * b).sqrt()), optional=True)
    return rows.finish()


class OptimizerWatch:
    """Listens to optimisers: the gradients they are given, and how stale their second moments are.

    Args:
        model: not wrapped.
        optimizers: torch's, of its parameters, before or after ``Accelerator.prepare``.
    """

    def __init__(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]):
        self.names = {parameter: name for name, parameter in model.named_parameters()}
        self.table = model.get_input_embeddings().weight  # type: ignore[operator,union-attr]
        self.everything = False
        self.gradients: Tensors = {}
        self.staleness: Tensors = {}
        self.small: list[torch.Tensor] = []
        for optimizer in optimizers:
            optimizer.register_step_post_hook(self._note)

    def expect(self, everything: bool) -> None:
        """Before a step: whether all parameters are to be listened to, or the token embedding alone."""
        self.everything, self.gradients, self.staleness, self.small = everything, {}, {}, []

    @torch.no_grad()
    def _note(self, optimizer: torch.optim.Optimizer, arguments, named) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"] if self.everything else {self.table} & set(group["params"]):
                if parameter.grad is None:
                    continue
                name, state = self.names[parameter], optimizer.state[parameter]
                if self.everything:
                    self.gradients[name] = parameter.grad
                if self.everything and "exp_avg_sq" in state:
                    self.small.append(rms(parameter.grad) < SMALL * group["eps"])
                if "exp_avg_sq" in state:
                    self.staleness[name] = second_moment_staleness(
                        parameter.grad, state["exp_avg_sq"], state["step"], group["betas"][1], group["eps"]
                    )

    def rows(self) -> list[Row]:
        """Of what AdamW moved in the last step: ``rms_t.class``, of the token embedding always, of all if asked; and if
        asked ``gradients_below_eps``, the share of its parameters whose gradient has an RMS under ten times its eps:
        above 0 is an alarm, for such updates freeze. Wortsman et al. 2023, arXiv:2309.14322, section 3.4."""
        rows = Rows()
        if self.small:
            rows.add(WHOLE, "model", "gradients_below_eps", torch.stack(self.small).double().mean())
        for name, value in self.staleness.items():
            rows.add(*place_of(name), f"rms_t.{tensor_class(name)}", value)
        return rows.finish()


def second_moment_staleness(
    gradient: torch.Tensor, second_moment: torch.Tensor, step: torch.Tensor | float, beta: float, eps: float
) -> torch.Tensor:
    """``RMS_t = sqrt(mean(g^2 / max(v, eps^2)))`` with v the second moment after the step, its bias corrected: above
    about 2.3 it has fallen behind the gradient, and the step is too large. Wortsman et al. 2023 (StableAdamW),
    arXiv:2304.13013."""
    moment = (second_moment / (1 - beta**step)).clamp(min=eps**2)
    return rms(gradient / moment.sqrt())
