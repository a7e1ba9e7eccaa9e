"""The same branches under another wiring."""

import contextlib
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from transformers.utils import logging

from .configuration_resformer import ResformerConfig
from .modeling_resformer import ResformerForCausalLM
from .options import ResformerOptions

CANNOT_LOAD = (
    OSError, ValueError, KeyError, RuntimeError, TypeError, AttributeError, IndexError, SafetensorError
)  # fmt: skip
"""What transformers raises for a folder that is not a model's: its files may hold anything."""


class Rewired(NamedTuple):
    """Attributes: the model; the names of its tensors that the other one had not, which start as their connection
    says; the names of the other one's tensors that it has not."""

    model: ResformerForCausalLM
    anew: list[str]
    left_behind: list[str]


def with_residual(config: ResformerConfig, residual: Any) -> ResformerConfig:
    """The same configuration with another wiring.

    Raises:
        ResidualError: if it does not describe the stack.
    """
    kept = {item.name: copy.deepcopy(getattr(config, item.name)) for item in dataclasses.fields(ResformerOptions)}
    return ResformerConfig(**kept | {"residual": residual})


def rewired(config: ResformerConfig, state: dict[str, torch.Tensor], dtype: torch.dtype | None = None) -> Rewired:
    """A model of ``config`` with the weights of another that may be wired otherwise.

    A tensor goes to the one of its name and shape. Where the norm in front of a branch is called ``norm`` by one
    connection and ``norm_in`` by the other, they are the same. What is new starts by torch's seed, as in any model.

    Args:
        config: of the model to be.
        state: ``state_dict`` of the other one; nothing of it is shared.
        dtype: by default that of ``state``.

    Raises:
        ValueError: one line, if a branch, an embedding or the output projection is missing or has another shape.
    """
    with torch.device("meta"):
        wanted = {name: tensor.shape for name, tensor in ResformerForCausalLM(config).state_dict().items()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight")
        state = {name: tensor for name, tensor in state.items() if name != "lm_head.weight"}
    found, used = {}, set()
    for name, shape in wanted.items():
        for other in (name, name.replace(".norm.", ".norm_in."), name.replace(".norm_in.", ".norm.")):
            if other in state and state[other].shape == shape:
                found[name] = state[other].clone()
                used.add(other)
                break
        else:
            if "_residual." not in name and "norm." not in name:
                there = f"has the shape {list(state[name].shape)} there" if name in state else "is not there"
                raise ValueError(f"{name} of shape {list(shape)} {there}; only the wiring may differ from that model's")
    some = next(iter(state.values()))
    with quietly():
        model = ResformerForCausalLM.from_pretrained(
            None, config=config, state_dict=found, dtype=some.dtype if dtype is None else dtype
        )
    anew = [name for name in wanted if name not in found]
    return Rewired(model, anew, [name for name in state if name not in used])


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without transformers' bar, and its table of the tensors that start anew, which are meant to."""
    bars, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
