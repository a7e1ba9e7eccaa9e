"""The table of all kinds, read and measured from the classes themselves."""

import functools
import inspect
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from .configuration_resformer import ResformerConfig
from .modeling_resformer import ResformerForCausalLM
from .specification import KINDS, PRESETS

NUM_HIDDEN_LAYERS = 12
HIDDEN_SIZE = 512
TOKENS = 128


@dataclass(frozen=True)
class Entry:
    """One kind.

    Attributes:
        kind: the names a person writes.
        options: with their defaults.
        formula: the site, from the docstring's first sentence.
        parameters, flops: added to ``pre``, as a share of a whole model; FLOPs of forward and backward.
        streams: vectors of the stream's width that are kept for each token at the widest place, at least 1.
        paper: where it was published, from the docstring.
        oracle: what the class is held against in ``tests/parity``.
    """

    kind: str
    options: str
    formula: str
    parameters: float
    flops: float
    streams: float
    paper: str
    oracle: str


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All kinds, in the order in which the families stand, with their costs in a model of 12 blocks, 512 wide."""
    names: dict[type, list[str]] = {}
    for kind, found in KINDS.items():
        names.setdefault(found, []).append(kind)
    base, parallel = _Cost("pre"), _Cost("pre", parallel_block=True)
    rows = []
    for found, kinds in names.items():
        is_parallel = kinds == ["two_norms"]
        cost = _Cost(kinds[0], parallel_block=is_parallel)
        against = parallel if is_parallel else base
        formula, paper = formula_and_paper(found)
        rows.append(
            Entry(
                ", ".join(kinds),
                _options(found.__init__, skipped=3),
                formula,
                cost.parameters / against.parameters - 1,
                cost.flops / against.flops - 1,
                cost.streams,
                paper,
                found.oracle,
            )
        )
    for name, preset in PRESETS.items():
        cost, (formula, paper) = _Cost(name), formula_and_paper(preset)
        shares = cost.parameters / base.parameters - 1, cost.flops / base.flops - 1
        rows.append(Entry(name, _options(preset, skipped=1), formula, *shares, cost.streams, paper, "its parts"))
    return tuple(rows)


def _options(function, skipped: int) -> str:
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    return ", ".join(f"{p.name}={_short(p.default)}" for p in parameters)


def _short(value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def formula_and_paper(documented) -> tuple[str, str]:
    """The first sentence of a docstring, and what the rest of its first paragraph cites."""
    paragraph = " ".join((documented.__doc__ or "").split("\n\n")[0].split())
    formula, *rest = re.split(r"(?<=\S)\. (?=[A-Za-z])", paragraph.replace("``", ""), maxsplit=1)
    return formula.rstrip("."), "".join(rest).rstrip(".")


class _Cost:
    """Parameters, FLOPs of a token and the state's size of a model of one kind; nothing is computed."""

    def __init__(self, residual: str, **options):
        shape: dict[str, Any] = {"hidden_size": HIDDEN_SIZE, "num_hidden_layers": NUM_HIDDEN_LAYERS}
        with torch.device("meta"):
            config = ResformerConfig(vocab_size=1, num_attention_heads=8, residual=residual, **shape, **options)
            model = ResformerForCausalLM(config).eval()
            self.parameters = model.num_parameters()
            self.flops = model.floating_point_operations_per_token(TOKENS)
            self.streams = self._streams(model.model, torch.empty(1, TOKENS, HIDDEN_SIZE))

    def _streams(self, model, state) -> float:
        """Vectors of the stream's width that are kept for each token after the block that keeps most, at least 1."""
        most = 1.0
        for block in model.layers:
            state, _ = block(state, position_embeddings=None, attention_mask=None, past_key_values=None)
            tensors = {id(leaf): leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)}
            most = max(most, sum(tensor.numel() for tensor in tensors.values()) / (TOKENS * HIDDEN_SIZE))
        return most
