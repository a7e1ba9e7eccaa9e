"""What a training step takes on this machine: time, in turn with what it is compared against, and memory."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from statistics import median

import torch
from torch.distributed._tools.mem_tracker import MemTracker

from ..data import Corpus
from ..files import write_json
from ..model import ResformerForCausalLM
from ..training.config import RunConfig
from ..training.launch import default_precision
from ..training.setup import model_config
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


def step_times(sweep: Sweep, data: Mapping[tuple[str, str], Corpus]) -> dict[tuple[str, str], StepTime]:
    """Of each arm at each point where the baseline stands too."""
    baseline = sweep.config.controls.baseline
    found: dict[tuple[str, str], StepTime] = {}
    with _threads(sweep.config.executor.threads):
        for point in sweep.points:
            if (baseline, point) not in sweep.runs:
                continue
            base = Stepper(sweep.runs[baseline, point], data[baseline, point])
            ratios, memory, base_seconds = {baseline: 1.0}, {baseline: base.peak_memory()}, []
            for arm in sweep.arms:
                if arm == baseline or (arm, point) not in sweep.runs:
                    continue
                mine = Stepper(sweep.runs[arm, point], data[arm, point])
                pairs = _in_turn(base, mine)
                base_seconds += [first for first, _ in pairs]
                ratios[arm] = median(second / first for first, second in pairs)
                memory[arm] = mine.peak_memory()
            if base_seconds:
                seconds = median(base_seconds)
                found |= {(arm, point): StepTime(r * seconds, r, memory[arm]) for arm, r in ratios.items()}
    return found


def keep_step_times(sweep: Sweep, data: Mapping[tuple[str, str], Corpus]) -> None:
    """Measure them once, into steps.json; to be called while no trial runs."""
    file = sweep.folder / STEPS
    if not file.exists():
        found = step_times(sweep, data)
        write_json(file, {"steps": [{"arm": arm, "point": point} | asdict(t) for (arm, point), t in found.items()]})


def seconds_per_step(config: RunConfig, corpus: Corpus, threads: int) -> float:
    """The faster of two."""
    with _threads(threads):
        step = Stepper(config, corpus)
        step()
        return min(step(), step())


class Stepper:
    """Called, it takes one step on one micro batch of random tokens and returns the seconds of a whole batch."""

    def __init__(self, config: RunConfig, corpus: Corpus):
        self.device = torch.accelerator.current_accelerator() or torch.device("cpu")
        model: torch.nn.Module = ResformerForCausalLM(model_config(config, corpus))
        self.model = model.to(self.device)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-6, fused=True)
        micro = config.train.micro_batch_size or config.train.batch_size
        self.share = micro / config.train.batch_size
        self.tokens = torch.randint(corpus.vocab_size, (micro, config.data.sequence_length), device=self.device)

    def __call__(self) -> float:
        start = time.perf_counter()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=default_precision() == "bf16"):
            loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.device.type != "cpu":
            torch.accelerator.synchronize()
        return (time.perf_counter() - start) / self.share

    def peak_memory(self) -> int:
        """Bytes, counted tensor by tensor over one more step: the same on every machine, whatever else its process
        holds."""
        self()  # the optimiser has its state from here on
        tracker = MemTracker()
        tracker.track_external(self.model, self.optimizer)
        with tracker:
            self()
        peak = tracker.get_tracker_snapshot("peak")
        return int(sum(of_device["Total"] for of_device in peak.values()))


def _in_turn(first: Stepper, second: Stepper) -> list[tuple[float, float]]:
    start = time.monotonic()
    first(), second()  # what is done once
    pairs: list[tuple[float, float]] = []
    while len(pairs) < ROUNDS and (len(pairs) < 3 or time.monotonic() - start < LONG_ENOUGH):
        pairs.append((first(), second()))
    return pairs


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
