"""What a training step takes on this machine: time, in turn with what it is compared against, and memory."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from statistics import median

import torch

from ..files import write_json
from ..training import RunConfig, Trainer
from ..training.benchmark import peak_of_tensors
from ..training.compiling import compile_blocks, decide
from ..training.optimizers import set_learning_rate
from ..training.setup import prepare
from ..training.step import train_step
from .program import find_program
from .trials import Sweep

STEPS = "steps.json"
ROUNDS, LONG_ENOUGH = 9, 20.0
"""Rounds of one comparison, and seconds after which three of them must do."""


@dataclass(frozen=True)
class StepTime:
    """Of forward, backward and update over a batch. ``ratio``: to the baseline's in the same round, median over the
    rounds, so that a machine whose speed drifts favours nobody; ``seconds``: the baseline's median times that;
    ``memory``: bytes of all tensors (weights, gradients, optimiser, activations) when they were most."""

    seconds: float
    ratio: float
    memory: int


def step_times(sweep: Sweep) -> dict[tuple[str, str], StepTime]:
    """Of each arm at each point."""
    baseline = sweep.config.controls.baseline
    found: dict[tuple[str, str], StepTime] = {}
    with _threads(sweep.config.executor.threads):
        for point in sweep.points:
            others = [arm for arm in sweep.arms_at(point) if arm != baseline]
            if not others:
                continue
            base = Stepper(sweep.runs[baseline, point], sweep.config.program)
            ratios, memory, base_seconds = {baseline: 1.0}, {baseline: base.peak_memory()}, []
            for arm in others:
                mine = Stepper(sweep.runs[arm, point], sweep.config.program)
                pairs = _in_turn(base, mine)
                base_seconds += [first for first, _ in pairs]
                ratios[arm] = median(second / first for first, second in pairs)
                memory[arm] = mine.peak_memory()
            seconds = median(base_seconds)
            found |= {(arm, point): StepTime(r * seconds, r, memory[arm]) for arm, r in ratios.items()}
    return found


def keep_step_times(sweep: Sweep) -> None:
    """Measure them once, into steps.json; to be called while no trial runs."""
    file = sweep.folder / STEPS
    if not file.exists():
        found = step_times(sweep)
        write_json(file, {"steps": [{"arm": arm, "point": point} | asdict(t) for (arm, point), t in found.items()]})


def read_steps(folder: Path) -> dict[tuple[str, str], StepTime]:
    """By arm and point; empty where they were not measured."""
    try:
        entries = json.loads((folder / STEPS).read_text(encoding="utf-8"))["steps"]
        return {(e.pop("arm"), e.pop("point")): StepTime(**e) for e in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def seconds_per_step(sweep: Sweep, cell: tuple[str, str]) -> float:
    """The faster of two."""
    with _threads(sweep.config.executor.threads):
        step = Stepper(sweep.runs[cell], sweep.config.program)
        step()
        return min(step(), step())


class Stepper:
    """Called, it takes one optimiser step of a run, as the run takes it: its model, optimiser, precision, micro batches
    and compiling, on its first batch, at a learning rate too small to lead anywhere. Returns its seconds."""

    def __init__(self, config: RunConfig, program: str):
        found = find_program(program)
        self.trainer = trainer = (found if isinstance(found, type) else Trainer)(config)
        self.batch = list(islice(trainer.batches_from(trainer.progress), trainer.accumulation))
        if config.train.gradient_checkpointing:
            trainer.model.activation_checkpointing_enable()
        if decide(config, trainer.model.config, trainer.accelerator)[0]:
            compile_blocks(trainer.model)
        trainer.model.train()
        self.model, *self.optimizers = prepare(trainer.accelerator, trainer.model, trainer.optimizers)
        set_learning_rate(self.optimizers, 1e-6)

    def __call__(self) -> float:
        trainer, start = self.trainer, time.perf_counter()
        train_step(
            self.model,
            self.optimizers,
            iter(self.batch),
            accumulation=trainer.accumulation,
            config=trainer.config.optimizer,
            accelerator=trainer.accelerator,
        )
        if trainer.accelerator.device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    def peak_memory(self) -> int:
        """Bytes, over one more step."""
        with torch.compiler.set_stance("force_eager"):
            self()  # the optimiser has its state from here on
        return peak_of_tensors(self, self.trainer.model, self.trainer.optimizers)


def _in_turn(first: Stepper, second: Stepper) -> list[tuple[float, float]]:
    start = time.monotonic()
    first(), second()  # what is done once
    pairs: list[tuple[float, float]] = []
    while len(pairs) < ROUNDS and (len(pairs) < 3 or time.monotonic() - start < LONG_ENOUGH):
        pairs.append((first(), second()))
    return pairs


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before, said = torch.get_num_threads(), os.environ.get("RESFORMER_NUM_THREADS", "0")
    torch.set_num_threads(number)
    os.environ["RESFORMER_NUM_THREADS"] = str(number)
    try:
        yield
    finally:
        os.environ["RESFORMER_NUM_THREADS"] = said
        torch.set_num_threads(before)
