"""The seam: what a residual connection is, and where it stands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn

SUBLAYERS = ("attention", "mlp")

Branch = Callable[[torch.Tensor], torch.Tensor]
State = Any  # a tensor, or any pytree of tensors


class OptimizerHint(NamedTuple):
    """What a parameter asks of the optimiser: factors on the group's learning rate and weight decay."""

    learning_rate_multiplier: float = 1.0
    weight_decay_multiplier: float = 1.0


@dataclass(frozen=True)
class Site:
    """Where a connection stands.

    Attributes:
        layer: index of the block, from 0.
        sublayer: ``attention`` or ``mlp``.
        num_hidden_layers: number of blocks of the whole stack, from which depth constants are computed.
        segment_start, segment_stop: sites ``[segment_start, segment_stop)`` form this connection's segment,
            the consecutive sites of one kind and options.
    """

    layer: int
    sublayer: str
    num_hidden_layers: int
    segment_start: int
    segment_stop: int

    @property
    def index(self) -> int:
        """Position among all sites, two a block, from 0."""
        return self.layer * len(SUBLAYERS) + SUBLAYERS.index(self.sublayer)

    @property
    def begins_segment(self) -> bool:
        return self.index == self.segment_start

    @property
    def ends_segment(self) -> bool:
        return self.index == self.segment_stop - 1

    @property
    def ends_stack(self) -> bool:
        return self.index == self.num_hidden_layers * len(SUBLAYERS) - 1

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.sublayer}"


class Residual(nn.Module):
    """Wires one branch (attention or MLP) into the stream. Subclasses write their formula in ``forward``.

    Options are keyword arguments of ``__init__`` after ``config`` and ``site``, annotated and with defaults;
    whatever lies outside their range raises ``ValueError``.
    """

    final_norm: ClassVar[bool] = True
    """Whether a stack that ends with this connection needs a norm after it."""
    no_weight_decay: ClassVar[frozenset[str]] = frozenset()
    """Own parameters (by attribute name) that take no weight decay although they are matrices."""
    learning_rate_multipliers: ClassVar[Mapping[str, float]] = {}
    """Own parameters that need another learning rate, as a factor."""

    def __init__(self, config, site: Site):
        super().__init__()
        self.config = config
        self.site = site
        # Decided here and not in `step`, so that blocks which differ only in depth share one compiled graph.
        multi = type(self).enter is not Residual.enter or type(self).exit is not Residual.exit
        multi = multi or type(self).read_out is not Residual.read_out
        self.enters = multi and site.begins_segment
        self.exits = multi and site.ends_segment and not site.ends_stack
        self.reads_out = multi and site.ends_stack

    def forward(self, state: State, branch: Branch) -> State:
        """The formula. ``branch`` maps ``[batch, time, hidden]`` to the same shape; call it once, or not at all."""
        raise NotImplementedError

    def enter(self, hidden_states: torch.Tensor) -> State:
        """``[batch, time, hidden]`` at the start of a segment to this kind's state."""
        return hidden_states

    def exit(self, state: State) -> torch.Tensor:
        """The state as one stream ``[batch, time, hidden]`` on the cumulative scale: ``exit(enter(h)) = h``."""
        return state

    def read_out(self, state: State) -> torch.Tensor:
        """In place of ``exit`` at the very end of the stack: the method's published read-out."""
        return self.exit(state)

    def step(self, state: State, branch: Branch) -> State:
        """``forward`` with the segment's boundary around it. What a block calls."""
        if self.enters:
            state = self.enter(state)
        state = self(state, branch)
        if self.exits:
            state = self.exit(state)
        return self.read_out(state) if self.reads_out else state

    def stream(self, state: State) -> torch.Tensor:
        """What a measurement sees after this site: one stream ``[batch, time, hidden]``."""
        return state if self.exits or self.reads_out else self.exit(state)

    def share(self, other: "Residual") -> None:
        """Told of the connection before it in the same block and segment, for what a method shares in a block."""

    def init_weights(self, branch: nn.Module) -> None:
        """Set own parameters and buffers, and rescale the branch's weights where the method says so.

        Runs last, after the model's own initialisation, and through ``initialization``'s functions only: they
        leave alone what a checkpoint brought.
        """

    def optimizer_hints(self) -> dict[str, OptimizerHint]:
        """What each own parameter asks of the optimiser, by its name inside this module."""
        hints = {}
        for name, parameter in self.named_parameters():
            decays = parameter.ndim >= 2 and name not in self.no_weight_decay
            hints[name] = OptimizerHint(self.learning_rate_multipliers.get(name, 1.0), float(decays))
        return hints

    def extra_repr(self) -> str:
        return str(self.site)
