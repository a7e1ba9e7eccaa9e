"""The probes: what is asked of a target, each a function that answers with a table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import pandas as pd
import torch
from transformers import PreTrainedModel

from ..data import load_corpus
from ..keys import did_you_mean
from ..model import ResformerForCausalLM
from ..stability.curvature import curvature
from ..stability.landscape import landscape
from ..stability.layouts import layout
from ..stability.lens import lens
from ..stability.lesion import lesion
from ..stability.measure import Batch
from ..stability.propagation import DEPTHS, LeftOut, ladder
from ..stability.reuse import reach, reuse
from .instrumentation import probe_batch
from .probing import Target

ROWS = ["layer", "sublayer", "metric", "value"]


@dataclass
class ProbeConfig:
    """How a probe looks."""

    source: str | None = None
    """Text for the batch; by default the run's own held-out text."""
    tokenizer: str | None = None
    """Of the text, as in data.tokenizer; by default the one beside the weights, or the run's."""
    sequence_length: int | None = None
    """Tokens; by default the run's, or 128."""
    sequences: int = 8
    """Held-out sequences of the batch."""
    seed: int = 0
    """Of directions, tokens and initial weights."""
    depths: list[int] = field(default_factory=lambda: list(DEPTHS))
    """init: numbers of blocks."""
    width: int = 64
    """init: width of the stream."""
    initialization: str | None = None
    """init: normal, depth_scaled, or xavier with unit embeddings, as in the theory; by default the target's."""
    seeds: int = 1
    """init: how many."""
    budget: float = 60.0
    """init: seconds above which a depth is left out."""
    points: int = 21
    """landscape: points along each direction."""
    radius: float = 1.0
    """landscape: how far, in lengths of the weights."""

    def check(self) -> None:
        """Raises ValueError, one line, for numbers that no probe could use."""
        numbers = {"sequences": self.sequences, "depths": min(self.depths), "width": self.width, "seeds": self.seeds}
        for name, least in numbers.items():
            if least < 1:
                raise ValueError(f"{name} is {least}; it must be at least 1")
        if self.points < 2:
            raise ValueError(f"points is {self.points}; it must be at least 2")


def init(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """What depth does to a signal before any training."""
    seeds = range(config.seed, config.seed + config.seeds)
    found = []
    for one in ladder(target.init_config(config.width, config.initialization), config.depths, seeds=seeds,
                      budget=config.budget):  # fmt: skip
        if isinstance(one, LeftOut):
            print(f"{one.depth} blocks left out: about {one.seconds:.0f} s, more than a budget of {config.budget:g}")
        else:
            found.append(one)
    return pd.DataFrame([dataclasses.asdict(one) for one in found])


def lesions(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """The loss without one branch, without all above a block, and how far each block turns the stream."""
    batch = batch_of(target, config)
    return pd.DataFrame(lesion(target.model, batch), columns=ROWS)


def lenses(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """What the read-out says after each block."""
    batch = batch_of(target, config)
    return pd.DataFrame(lens(target.model, batch), columns=ROWS)


def line_and_plane(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """The loss along one random direction of the weights, and over two."""
    batch = batch_of(target, config)
    found = landscape(target.model, batch, points=config.points, radius=config.radius, seed=config.seed)
    table = pd.DataFrame(found, columns=["a", "b", "loss"])
    return table.assign(kind=["line" if i < config.points else "plane" for i in range(len(table))])


def curve(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """Sharpness, preconditioned sharpness, trace, and critical learning rate."""
    batch, moments = batch_of(target, config), target.second_moments()
    whose = "the batch's gradients" if moments is None else "the run's optimiser"
    print(f"P of the preconditioned sharpness is of the second moments of {whose}")
    found = dataclasses.asdict(curvature(target.model, batch, v=moments, seed=config.seed))
    return pd.DataFrame([(-1, "model", name, value) for name, value in found.items()], columns=ROWS)


def who_reads_whom(target: Target, config: ProbeConfig) -> pd.DataFrame:
    """How much each site reads of what each earlier one wrote."""
    batch = batch_of(target, config)
    reads = reuse(target.model, batch, seed=config.seed)
    table = pd.DataFrame([dataclasses.asdict(read) for read in reads])
    distances = reach(reads)
    return table.assign(reach=[distances[reader][0] for reader in table.reader],
                        entropy=[distances[reader][1] for reader in table.reader])  # fmt: skip


PROBES: dict[str, Callable[[Target, ProbeConfig], pd.DataFrame]] = {
    "init": init,
    "lesion": lesions,
    "lens": lenses,
    "landscape": line_and_plane,
    "curvature": curve,
    "reuse": who_reads_whom,
}


def can_have(model: PreTrainedModel) -> list[str]:
    """The probes that a model's class allows."""
    if isinstance(model, ResformerForCausalLM):
        return list(PROBES)
    try:
        layout(model)
    except ValueError:
        return ["landscape", "curvature"]
    return ["lesion", "lens", "landscape", "curvature"]


def refuse(name: str, model: PreTrainedModel) -> None:
    """Raises ValueError, one line, for a probe that does not exist, or that this model's class does not allow."""
    if name not in PROBES:
        raise ValueError(f"there is no probe {name!r}{did_you_mean(name, PROBES)}; there are {', '.join(PROBES)}")
    if name not in (able := can_have(model)):
        why = "needs a resformer" if name in ("init", "reuse") else "needs a layout that it knows"
        raise ValueError(f"{name} {why}, not {type(model).__name__}; that can have {', '.join(able)}")


def batch_of(target: Target, config: ProbeConfig) -> Batch:
    """The probe batch, tensors ``[sequences, time]``; a target that has seen no training takes its text's vocabulary.

    Raises:
        ValueError: one line, if no text is known, or the model does not know all of its tokens.
    """
    corpus = load_corpus(target.data_config(config.source, config.tokenizer, config.sequence_length))
    torch.manual_seed(config.seed)
    target.fit(corpus)
    return probe_batch(corpus, config.sequences)
