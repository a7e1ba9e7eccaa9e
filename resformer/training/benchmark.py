"""What a training step takes: as one writes it by hand, in the trainer's own loop, and under the recorder's looks."""

import contextlib
import copy
import io
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch.utils._pytree import tree_map_only
from tqdm.auto import tqdm

from ..data import DataConfig
from ..model import ResformerForCausalLM
from .config import RunConfig, TrainConfig, run_config
from .launch import default_precision
from .memory import TensorBytes
from .setup import run_folder
from .trainer import Trainer

UNTIMED = 2


def loop_ratio(
    shape: dict[str, Any], batch_size: int, steps: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """What a step of the trainer's loop takes over the bare step of the same model: ``pre``, eager, a vocabulary of
    bytes whatever that of ``shape`` is. Both in turn, the median of the ratios within a round.

    Args:
        shape: as in ``compare``.
        steps: timed rounds, after two that are not.
    """
    threads = torch.get_num_threads()
    with TemporaryDirectory() as folder, ready(_loop(shape, batch_size, steps, Path(folder))) as trainer:
        torch.set_num_threads(threads)  # a run chooses its own
        model, device = ResformerForCausalLM(trainer.model.config), trainer.accelerator.device
        tokens = torch.randint(model.config.vocab_size, (batch_size, shape["max_position_embeddings"]), device=device)
        bare = BareStep(model, tokens)
        number = range(steps + UNTIMED)
        ratios = [timed(trainer.step, clock) / timed(bare, clock) for _ in tqdm(number, "loop", disable=None)]
    return statistics.median(ratios[UNTIMED:])


def recorder_cost(config: RunConfig, rounds: int) -> tuple[float, float]:
    """What the recorder adds to a run: as a share of a step where it only watches, and in steps for each look.

    Args:
        config: of the run.
        rounds: timed rounds of one step without it and four with it, after two that are not.
    """
    with TemporaryDirectory() as folder:
        runs = {every: copy.deepcopy(config) for every in (0, 4)}
        for every, run in runs.items():
            run.train.record_every, run.run_dir = every, str(Path(folder, str(every)))
            run.train.max_steps = 4 * (rounds + UNTIMED)
        with ready(runs[0]) as plain, ready(runs[4]) as watched:
            taken = [
                [timed(trainer.step) for trainer in (plain, watched, watched, watched, watched)]
                for _ in tqdm(range(rounds + UNTIMED), disable=None)
            ][UNTIMED:]
    watch = statistics.median(second / bare - 1 for bare, _, second, *_ in taken)
    look = statistics.median((before + at) / second - 2 for _, _, second, before, at in taken)  # two steps take part
    return watch, look


class BareStep:
    """Called, it takes a training step as one writes it by hand: autocast, backward, clip, fused AdamW."""

    def __init__(self, model: Any, tokens: torch.Tensor):
        torch.nn.Module.to(model, tokens.device)
        self.model, self.tokens = model.train(), tokens
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def __call__(self) -> None:
        with torch.autocast(self.tokens.device.type, torch.bfloat16, enabled=default_precision() == "bf16"):
            loss = self.model(input_ids=self.tokens, labels=self.tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def peak_of_tensors(step: Callable[[], object], model: torch.nn.Module, optimizers: Sequence[Any]) -> int:
    """Bytes of all tensors (weights, gradients, optimiser, activations) when they were most, counted tensor by tensor
    over a step, uncompiled: the same on every machine, whatever else its process holds.

    Args:
        optimizers: with their state, which what follows the step would else not know of: after a step at least.
    """
    counted = TensorBytes()
    states = [optimizer.state_dict()["state"] for optimizer in optimizers]
    tree_map_only(torch.Tensor, counted.count, [*model.parameters(), *model.buffers(), states])
    with torch.compiler.set_stance("force_eager"), counted:
        step()
    return counted.peak


@contextlib.contextmanager
def ready(config: RunConfig) -> Iterator[Trainer]:
    """A trainer with everything in place, whose next ``step`` is its first."""
    with contextlib.redirect_stdout(io.StringIO()):
        trainer = Trainer(config)
        with run_folder(config, trainer.accelerator):
            trainer.begin()
            trainer.model.train()
            yield trainer
            trainer.log.close()


def timed(step: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds."""
    start = clock()
    step()
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
    return clock() - start


def _loop(shape: dict[str, Any], batch_size: int, steps: int, folder: Path) -> RunConfig:
    """A run of random text. Its optimiser is the bare step's, and nobody looks."""
    letters = torch.randint(ord("a"), ord("z"), (64 * batch_size * shape["max_position_embeddings"],))
    (folder / "text.txt").write_bytes(bytes(letters.tolist()))
    length = shape["max_position_embeddings"]
    data = DataConfig(
        str(folder / "text.txt"), tokenizer="bytes", sequence_length=length, cache_dir=str(folder / "cache")
    )
    train = TrainConfig(max_steps=steps + UNTIMED, batch_size=batch_size, record_every=0, compile=False)
    told = RunConfig(data=data, train=train)
    values = told.as_dict() | {"run_dir": str(folder / "run")}
    values["model"] |= {name: value for name, value in shape.items() if name != "vocab_size"} | {"residual": "pre"}
    values["optimizer"] |= {"name": "adamw"}
    return run_config(values)
