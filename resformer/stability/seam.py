"""The seam: what every site of a model reads, writes and leaves behind, seen from outside the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..model import Residual
from ..model.normalization import NORM_CLASSES


@dataclass
class SiteView:
    """One site during one forward pass; tensors are ``[batch, time, hidden]`` and part of the graph.

    Attributes:
        layer, sublayer: where.
        connection: the site's.
        before: the stream that arrived, as ``connection.stream`` of the site before shows it, or the embedding.
        state: what arrived, in the connection's own form (after ``enter``).
        read: what the branch was given, after the connection's norm; none if it was not called.
        written: what the branch returned.
        after: the stream that left.
        left, reader: the state that left, and the connection whose published read-out ends its segment, if it has one.
        single: whether the state that left is this one stream and nothing else, so that the gradient with respect to
            the stream is the gradient with respect to the state.
        norm_inputs: what each norm of the connection was given first, by name.
        reads: what the last norm before the branch was given, or else ``read``: what the site reads, unnormalised.
    """

    layer: int
    sublayer: str
    connection: Residual
    before: torch.Tensor
    state: Any = None
    read: torch.Tensor | None = None
    written: torch.Tensor | None = None
    after: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    left: Any = None
    reader: Residual | None = None
    single: bool = False
    norm_inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    reads: torch.Tensor | None = None

    def read_out(self) -> torch.Tensor:
        """The stream that left, or what the stack's published read-out makes of the state that left."""
        return self.after if self.reader is None else self.reader.read_out(self.left)


def connections(model: nn.Module) -> list[Residual]:
    """All residual connections of a resformer in the order in which they are applied."""
    return [module for module in model.modules() if isinstance(module, Residual)]


@contextmanager
def watching(model: nn.Module, hold_branches: bool = False) -> Iterator[list[SiteView]]:
    """While it is open, every forward pass of ``model`` appends one view for each site to the list.

    Each connection's ``step`` is replaced on the instance, and put back; the model's own code runs unchanged.

    Args:
        model: a resformer, not wrapped.
        hold_branches: make the embedding and what each branch writes leaves of the graph: gradients then flow through
            the connections alone.
    """
    views: list[SiteView] = []
    watched = connections(model)
    with ExitStack() as stack:
        for connection in watched:
            # In the instance's dictionary, so that deleting it uncovers the method again.
            connection.__dict__["step"] = _Step(connection, views, watched[-1], hold_branches)
            stack.callback(connection.__dict__.pop, "step")
            for name, module in connection.named_modules():
                if isinstance(module, NORM_CLASSES):
                    stack.callback(module.register_forward_pre_hook(_note_input(views, name)).remove)
        yield views


@contextmanager
def watching_final_states(model: nn.Module) -> Iterator[list[torch.Tensor]]:
    """While it is open, each forward pass appends its final hidden states ``[batch, time, hidden]``, graph and all."""
    found: list[torch.Tensor] = []
    head = model.get_output_embeddings()  # type: ignore[operator]
    hook = head.register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    try:
        yield found
    finally:
        hook.remove()


@contextmanager
def measurable(model: nn.Module) -> Iterator[None]:
    """Eval mode, no autocast, no compiled code: the conditions of every measurement; put back afterwards."""
    training = model.training
    device = next(model.parameters()).device.type
    model.eval()
    try:
        with torch.autocast(device, enabled=False), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(training)


def run(model: nn.Module, batch: dict[str, torch.Tensor]) -> Any:
    """The model's output on a batch, logits and loss included, past whatever accelerate put around ``forward``."""
    return type(model).forward(model, **batch, use_cache=False, skip_logits=False)


class _Step:
    def __init__(self, connection: Residual, views: list[SiteView], last: Residual, hold: bool):
        self.connection, self.views, self.hold = connection, views, hold
        in_last_segment = connection.site.segment_start == last.site.segment_start and connection is not last
        self.reader = last if in_last_segment and type(last).read_out is not Residual.read_out else None

    def __call__(self, state, branch):
        connection, site = self.connection, self.connection.site
        if site.index == 0 and self.hold:
            state = state.detach().requires_grad_()
        before = state if site.index == 0 else self.views[-1].after
        view = SiteView(site.layer, site.sublayer, connection, before)
        view.state = connection.enter(state) if connection.enters else state
        self.views.append(view)

        def watched(*read, **named):
            view.read = read[0]
            view.reads = read[0] if view.reads is None else view.reads
            written = branch(*read, **named)
            view.written = written.detach().requires_grad_() if self.hold else written
            return view.written

        state = type(connection).step(connection, state, watched)
        view.after = connection.stream(state)
        view.single = view.after is state
        view.left, view.reader = state, self.reader
        return state


def _note_input(views: list[SiteView], name: str):
    def hook(module, inputs):
        # A norm's first call in a site is the one that counts: others are inside a measurement.
        if views:
            views[-1].norm_inputs.setdefault(name, inputs[0])
            if views[-1].read is None:
                views[-1].reads = inputs[0]

    return hook
