"""The seam: what a residual connection is, and where it stands."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers.utils.generic import maybe_autocast

from .initialization import SCHEMES, Start, draw, parameter, usual
from .normalization import NORM_CLASSES

SUBLAYERS = ("attention", "mlp")
PARALLEL = ("parallel",)

Branch = Callable[..., torch.Tensor]
State = Any  # a tensor, or any pytree of tensors

OWN = "own"
SMALL = 4096
"""Elements up to which a connection shows a parameter of its own to a measurement by default."""


class OptimizerHint(NamedTuple):
    """What a parameter asks of the optimiser: factors on the group's learning rate and weight decay, and whether it is
    a matrix of a branch, which Muon orthogonalises."""

    learning_rate_multiplier: float = 1.0
    weight_decay_multiplier: float = 1.0
    orthogonalised: bool = False


@dataclass(frozen=True)
class Site:
    """Where a connection stands.

    Attributes:
        layer: index of the block, from 0.
        sublayer: one of ``sublayers``.
        num_hidden_layers: number of blocks of the whole stack, from which depth constants are computed.
        segment_start, segment_stop: sites ``[segment_start, segment_stop)`` form this connection's segment,
            the consecutive sites of one kind and options.
        sublayers: what a block consists of: an attention and an MLP, or the two as one ``parallel`` branch.
        input_size: width of the stream that arrives; another one than ``config.hidden_size`` only where the
            stream changes its width.
    """

    layer: int
    sublayer: str
    num_hidden_layers: int
    segment_start: int
    segment_stop: int
    sublayers: tuple[str, ...] = SUBLAYERS
    input_size: int | None = None

    @property
    def index(self) -> int:
        """Position among all sites, from 0."""
        return self.layer * len(self.sublayers) + self.sublayers.index(self.sublayer)

    @property
    def num_sites(self) -> int:
        return self.num_hidden_layers * len(self.sublayers)

    @property
    def position(self) -> int:
        """Position in the segment, from 0."""
        return self.index - self.segment_start

    @property
    def begins_block(self) -> bool:
        return self.sublayer == self.sublayers[0]

    @property
    def ends_block(self) -> bool:
        return self.sublayer == self.sublayers[-1]

    @property
    def begins_segment(self) -> bool:
        return self.index == self.segment_start

    @property
    def ends_segment(self) -> bool:
        return self.index == self.segment_stop - 1

    @property
    def ends_stack(self) -> bool:
        return self.index == self.num_sites - 1

    def blocks_of_segment(self) -> tuple[int, int]:
        """This block's index in its segment, and the number of blocks of the segment.

        Raises:
            ValueError: if the segment does not consist of whole blocks.
        """
        per_block = len(self.sublayers)
        if self.segment_start % per_block or self.segment_stop % per_block:
            raise ValueError("works on whole blocks; name it for both sublayers of a block, with equal options")
        return self.position // per_block, (self.segment_stop - self.segment_start) // per_block

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.sublayer}"


def full_precision(h: torch.Tensor) -> AbstractContextManager:
    """Context in which a stream is mixed by matrix products: autocast would round the stream itself to bfloat16."""
    return maybe_autocast(h.device.type, enabled=False)


def sigmoid(logits: torch.Tensor) -> torch.Tensor:
    """A gate on the stream, in float32 at least: in bfloat16 it would round what it lets pass at every site."""
    return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)))


def in_dtype(state: State, dtype: torch.dtype) -> State:
    """Every tensor of numbers in ``state`` as ``dtype``."""
    return tree_map_only(torch.Tensor, lambda x: x.to(dtype) if x.is_floating_point() else x, state)


def at_least(smallest: float, **options: float | None) -> None:
    """Hold options against a lower bound; ``None`` stands for a default of the connection's own.

    Raises:
        ValueError: naming the option and what is allowed.
    """
    for name, value in options.items():
        if value is not None and not value >= smallest:
            raise ValueError(f"{name} is {value}; it must be at least {smallest}")


def positive(**options: float | None) -> None:
    """As ``at_least``, for what must be greater than 0."""
    for name, value in options.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name} is {value}; it must be greater than 0")


class DropPath(nn.Module):
    """Stochastic depth: drops a branch's output for some samples. Huang et al. 2016, arXiv:1603.09382.

    What stays is divided by the share that stays; the rate rises linearly with depth up to ``rate``.
    """

    def __init__(self, rate: float, site: Site):
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"drop_path is {rate}; it must be in [0, 1)")
        self.keep = 1 - rate * site.layer / max(1, site.num_hidden_layers - 1)

    def forward(self, written: torch.Tensor) -> torch.Tensor:
        if not self.training or self.keep == 1:
            return written
        kept = torch.rand(written.shape[0], 1, 1, device=written.device) < self.keep
        return written * kept / self.keep


class GradientPreservingScale(nn.Module):
    """``h - silu(a) stopgrad(h)``: scales the stream and not its gradient. Chen et al. 2025 (GPAS),
    arXiv:2506.22049. One learned a for each block, from 0."""

    def __init__(self) -> None:
        super().__init__()
        self.a: nn.Parameter | None = parameter(1, start=0.0)
        self.owner: tuple[GradientPreservingScale, ...] = ()  # a tuple, so that a is not registered twice

    def share(self, other: "GradientPreservingScale") -> None:
        self.owner, self.a = (other,), None

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        a = self.owner[0].a if self.owner else self.a
        return h - nn.functional.silu(a) * h.detach()  # type: ignore[arg-type]


class Residual(nn.Module):
    """Wires one branch (attention or MLP) into the stream. Subclasses write their formula in ``forward``.

    Options are keyword arguments of ``__init__`` after ``config`` and ``site``, annotated and with defaults;
    whatever lies outside their range raises ``ValueError``. Own parameters and buffers say where they start:
    ``self.v = parameter(config.hidden_size, start=0.1)``. Parts of the formula that are worth looking at (gates, maps)
    are methods, which ``forward`` and ``internals`` both use.
    """

    final_norm: bool = True
    """Whether a stack that ends with this connection needs a norm after it."""
    no_weight_decay: ClassVar[frozenset[str]] = frozenset()
    """Own parameters (by attribute name) that take no weight decay although they are matrices."""
    learning_rate_multipliers: ClassVar[Mapping[str, float]] = {}
    """Own parameters that need another learning rate, as a factor."""
    inner_norm: ClassVar[bool] = False
    """Whether the branch has a norm of its own before its output projection."""
    changes_width: ClassVar[bool] = False
    """Whether the stream may leave wider or narrower than it arrives."""
    norms_sum: bool = False
    """Whether a norm stands on the sum of skip and branch: ``gpas`` then scales ``self.skip(h)``, before it."""
    returns_what_entered: bool = True
    """Whether ``exit(enter(h)) = h``; not where the method's exit reads through a norm or a matrix of its own."""
    gate_closes: bool = False
    """Whether a gate stands between stream and branch: closed, it lets the stream pass as it came."""
    oracle: ClassVar[str] = "formula"
    """What the class is held against in ``tests/parity``: ``formula``, or a package and its class besides."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "init_weights" in vars(cls):
            raise ValueError(
                f"{cls.__name__}.init_weights would never be called: say where a tensor starts when it is made, by "
                "parameter, buffer or starting, and where the branch's matrices start in branch_start"
            )

    def __init__(self, config, site: Site):
        super().__init__()
        self.config = config
        self.site = site
        self.drop_path: DropPath | None = None
        self.gpas: GradientPreservingScale | None = None
        self.initialization = OWN
        self.starts_like: tuple[Residual, ...] = ()  # a tuple, so that the other one is not part of this module
        if site.input_size not in (None, config.hidden_size) and not self.changes_width:
            raise ValueError(
                f"the stream changes its width from {site.input_size} to {config.hidden_size} here, which needs a "
                "kind that can: projection"
            )
        # Decided here and not in `step`, so that blocks which differ only in depth share one compiled graph.
        multi = type(self).enter is not Residual.enter or type(self).exit is not Residual.exit
        multi = multi or type(self).read_out is not Residual.read_out
        self.enters = multi and site.begins_segment
        self.exits = multi and site.ends_segment and not site.ends_stack
        self.reads_out = multi and site.ends_stack

    def set_common_options(self, drop_path: float = 0.0, gpas: bool = False, initialization: str = OWN) -> None:
        """Options that every kind takes.

        Args:
            drop_path: stochastic depth: rate at the last block, rising linearly from 0 at the first.
            gpas: gradient-preserving scaling of the stream after the write, for kinds of one stream; where a norm
                stands on the sum (``norms_sum``), of the skip before it, and the branch reads the stream unscaled, as
                in the paper's code (``deeppost_gpas``).
            initialization: where the branch's matrices start: ``own``, as the method says or else the model;
                ``normal``, ``depth_scaled`` or ``xavier``, the model's schemes; or as another kind has it, by its name:
                ``pre(initialization=deepnorm)`` is the start without the wiring, ``deepnorm(initialization=pre)`` the
                wiring without the start.

        Raises:
            ValueError: if an option is out of range or does not go with this kind.
        """
        self.drop_path = DropPath(drop_path, self.site) if drop_path else None
        if gpas and (self.enters or type(self).enter is not Residual.enter):
            raise ValueError("gpas goes with kinds that keep one stream")
        self.gpas = GradientPreservingScale() if gpas else None
        self.initialization = initialization

    def forward(self, state: State, branch: Branch) -> State:
        """The formula. ``branch`` maps ``[batch, time, hidden]`` to the same shape; call it once, or not at all.

        The attention branch also takes ``key`` and ``value``, for what these read in place of its first argument.
        """
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
        """``forward`` with the segment's boundary around it. What a block calls.

        The state is handed on in the dtype in which it came, the embedding's: under autocast the stream is in float32
        between sites, although branches write bfloat16.
        """
        dtype = tree_leaves(state)[0].dtype
        if self.enters:
            state = self.enter(state)
        drop = self.drop_path
        state = self(state, branch if drop is None else lambda *read, **views: drop(branch(*read, **views)))
        if self.gpas is not None and not self.norms_sum:
            state = self.gpas(state)
        if self.exits:
            state = self.exit(state)
        return in_dtype(self.read_out(state) if self.reads_out else state, dtype)

    def skip(self, h: torch.Tensor) -> torch.Tensor:
        """h as the skip of a ``norms_sum`` kind carries it: scaled where ``gpas`` says so."""
        return h if self.gpas is None else self.gpas(h)

    def stream(self, state: State) -> torch.Tensor:
        """What a measurement sees after this site: one stream ``[batch, time, hidden]``."""
        return state if self.exits or self.reads_out else self.exit(state)

    def internals(self, state: State, written: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """What a measurement may look at inside: gates, scales, maps, weights over depth, by name.

        By default own parameters of up to 4,096 elements that are no norm's. Activations are ``[batch, time, ...]``;
        ``mixing`` is special: ``[batch, time, to, from]``.

        Args:
            state: that arrived at the formula.
            written: by the branch, ``[batch, time, hidden]``, where it is known.
        """
        inside_norms = {id(p) for m in self.modules() if isinstance(m, NORM_CLASSES) for p in m.parameters()}
        return {
            name: own for name, own in self.named_parameters() if own.numel() <= SMALL and id(own) not in inside_norms
        }

    def lesioned(self, state: State, branch: Branch) -> State:
        """``forward`` with the branch silenced: it writes zeros, or, where ``gate_closes``, the gate is closed.

        The branch is called all the same, for the values that later blocks share.
        """
        formula = type(self).forward  # whoever measures puts this method in the place of the instance's own
        if self.gate_closes:
            formula(self, state, branch)
            return state
        return formula(self, state, lambda *read, **views: torch.zeros_like(branch(*read, **views)))

    def share(self, other: "Residual") -> None:
        """Told of the connection before it in the same block and segment, for what a method shares in a block."""
        if self.gpas is not None and other.gpas is not None:
            self.gpas.share(other.gpas)

    def advance(self, steps: int) -> None:
        """Told that the optimiser has made so many more steps, for what changes with training: a schedule in a
        ``buffer`` that is ``persistent``, moved on in place."""

    def branch_start(self, name: str, linear: nn.Linear) -> Start | None:
        """Where the method lets the matrix ``name`` of its branch start; None leaves it to the model's rule."""
        return None

    def draw_branch(self, branch: nn.Module) -> None:
        """Let the branch's matrices start as ``initialization`` says, by default as ``branch_start`` does."""
        method = self.starts_like[0] if self.starts_like else self
        for name, linear in branch.named_children():
            if not isinstance(linear, nn.Linear):
                continue
            start = method.branch_start(name, linear)
            if self.initialization in SCHEMES:
                path = str(linear.initialization_path)
                start = usual(path, self.config, self.site.num_sites, scheme=self.initialization)
            if start is not None:
                draw(linear, "weight", start)

    def optimizer_hints(self) -> dict[str, OptimizerHint]:
        """What each own parameter asks of the optimiser, by its name inside this module."""
        hints = {}
        for name, own in self.named_parameters():
            decays = own.ndim >= 2 and name not in self.no_weight_decay
            hints[name] = OptimizerHint(self.learning_rate_multipliers.get(name, 1.0), float(decays))
        return hints

    def extra_repr(self) -> str:
        return str(self.site)
