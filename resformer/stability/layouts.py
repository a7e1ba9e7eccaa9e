"""Where a causal language model keeps its blocks, branches and read-out, and its loss on a batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..model import ResformerForCausalLM
from ..model.losses import softcap
from .measure import Batch
from .seam import measurable, watching

_KNOWN = {
    "resformer": ("model.layers", "attention", "mlp", "model.norm"),
    "llama and its likes": ("model.layers", "self_attn", "mlp", "model.norm"),
    "gpt2": ("transformer.h", "attn", "mlp", "transformer.ln_f"),
    "gpt_neox": ("gpt_neox.layers", "attention", "mlp", "gpt_neox.final_layer_norm"),
}


@dataclass(frozen=True)
class Layout:
    """Attributes: blocks in order; the names of a block's two branches; the final norm; the output projection."""

    blocks: list[nn.Module]
    branches: tuple[str, str]
    norm: nn.Module
    head: nn.Module


def layout(model: nn.Module) -> Layout:
    """Raises ValueError, one line, for a model of another layout."""
    for blocks, attention, mlp, norm in _KNOWN.values():
        try:
            found = list(model.get_submodule(blocks))  # type: ignore[call-overload]
            found[0].get_submodule(attention), found[0].get_submodule(mlp)
            head = model.get_output_embeddings()  # type: ignore[operator]
            return Layout(found, (attention, mlp), model.get_submodule(norm), head)
        except (AttributeError, IndexError):
            continue
    raise ValueError(
        f"{type(model).__name__} keeps its blocks where this probe does not know them (known: {', '.join(_KNOWN)}); "
        "landscape and curvature take any causal language model"
    )


def logits_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    """``[batch, time, vocabulary]`` of a causal language model."""
    inputs = {name: tensor for name, tensor in batch.items() if name != "shift_labels"}
    return type(model).forward(model, **inputs, use_cache=False).logits


def cross_entropy(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Mean nats per token."""
    return F.cross_entropy(logits.flatten(0, 1).float(), batch["shift_labels"].flatten())


def loss_of(model: nn.Module, batch: Batch) -> torch.Tensor:
    return cross_entropy(logits_of(model, batch), batch)


@contextmanager
def silenced(branch: nn.Module) -> Iterator[None]:
    """The branch writes nothing."""

    def hook(module, inputs, output):
        return (torch.zeros_like(output[0]), *output[1:]) if isinstance(output, tuple) else torch.zeros_like(output)

    handle = branch.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def block_streams(model: nn.Module, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The stream before the first block and after each, before any final norm, and the logits.

    Of a resformer it is what each connection shows, at the depth of a published read-out (attention residuals, mHC)
    what that read-out makes of the state.
    """
    if isinstance(model, ResformerForCausalLM):
        with measurable(model), watching(model) as views:
            logits = logits_of(model, batch)
        last_of_block = [view for view in views if view.connection.site.ends_block]
        return [views[0].before, *(view.read_out() for view in last_of_block)], logits
    streams: list[torch.Tensor] = []

    def hook(module, inputs, output):
        streams.append(output[0] if isinstance(output, tuple) else output)

    blocks = layout(model).blocks
    with ExitStack() as stack, measurable(model):
        first = blocks[0].register_forward_pre_hook(lambda module, inputs: streams.append(inputs[0]))
        for handle in (first, *(block.register_forward_hook(hook) for block in blocks)):
            stack.callback(handle.remove)
        logits = logits_of(model, batch)
    return streams, logits


@torch.no_grad()
def read_out(model: nn.Module, stream: torch.Tensor) -> torch.Tensor:
    """Logits of the model's own final norm and output projection for a stream ``[batch, time, hidden]``."""
    where = layout(model)
    cap = getattr(model.config, "final_logit_softcapping", None)
    scaling = getattr(model.config, "logits_scaling", 1.0)
    return softcap(where.head(where.norm(stream) / scaling), cap)
