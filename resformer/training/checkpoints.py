"""Checkpoints: a Hugging Face model folder and, beside it, all that going on exactly needs."""

import json
import re
import shutil
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ..data import Corpus
from ..files import remove_folder, replacing, whole_folder, write_checksums, write_json
from ..ranges import check_ranges, within
from .config import STEPS
from .optimizer_state import named_state
from .sharding import gathered, is_sharded

STATE, OPTIMIZERS, INSTRUMENTS = "trainer_state.json", "optimizers.safetensors", "instruments.safetensors"
CONFIG, LOGS = "config.yaml", ("metrics.jsonl", "layers.parquet")
"""Files of a run of which every checkpoint has a copy: what becomes of the run's own costs nothing."""


@dataclass
class Progress:
    """Where a run stands. All of it is saved in a checkpoint and handed back by a resume."""

    step: int = within(0, STEPS, 0)
    """Optimiser steps done."""
    seconds: float = within(0, 1e12, 0.0)
    """Seconds trained."""
    loss: float | None = within(-1e39, 1e39, None)
    """Nats per token of the last step's batch."""
    evaluated_step: int = within(0, STEPS, 0)
    """Where the latest evaluation during training was made."""
    metrics_lines: int = within(0, 10 * STEPS, 0)
    """Lines of metrics.jsonl that belong to the steps done."""
    skipped_updates: int = within(0, STEPS, 0)
    """Batches whose loss or gradient was not finite, and that were passed over."""
    skipped_in_a_row: int = within(0, STEPS, 0)
    """Of these, the latest that followed each other without an update between them."""
    rollbacks: int = within(0, STEPS, 0)
    """Times that the run went back to a checkpoint."""
    batches_passed_over: int = within(0, STEPS, 0)
    """Batches that rollbacks left out of the order of the data."""
    init_from_hash: str | None = None
    """Of the configuration and weights that the run started from, where these were given."""
    extra_state: dict[str, Any] = field(default_factory=dict)
    """What instruments want to find again after a resume: names to plain JSON values."""

    @property
    def batch(self) -> int:
        """Index, in the order of the data, of the batch that comes next."""
        return self.step + self.batches_passed_over

    def count_update(self, loss: float) -> None:
        self.step, self.loss, self.skipped_in_a_row = self.step + 1, loss, 0

    def count_skip(self) -> None:
        self.step += 1
        self.skipped_updates += 1
        self.skipped_in_a_row += 1


@dataclass
class Circumstances:
    """What a run that goes on from a checkpoint is compared with: how that was made."""

    data_fingerprint: str = ""
    processes: int = within(1, STEPS, 1)
    micro_batch_size: int = within(1, STEPS, 1)
    precision: str = "no"
    shard: bool = False


def save(
    folder: Path,
    model,
    optimizers: list,
    *,
    corpus: Corpus,
    progress: Progress,
    accelerator: Accelerator,
    keep: int,
    micro_batch_size: int,
    tensors: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write ``folder/checkpoints/step-N``, whole or not at all, and drop the oldest beyond ``keep``.

    Args:
        keep: newest checkpoints that stay.
        tensors: what instruments want to find again, beside ``progress.extra_state``.

    Raises:
        OSError: if it cannot be written, naming the newest that is there instead.
    """
    accelerator.wait_for_everyone()
    sharded = is_sharded(model)
    states, model = named_state(model, optimizers, accelerator), gathered(model, accelerator)
    if accelerator.is_main_process:
        path = folder / "checkpoints" / f"step-{progress.step:08d}"
        try:
            with whole_folder(path) as temporary:
                save_model(temporary, model, corpus)
                save_file(states, temporary / OPTIMIZERS)
                if tensors:
                    save_file(tensors, temporary / INSTRUMENTS)
                for name in (CONFIG, *LOGS):
                    if (folder / name).is_file():
                        shutil.copyfile(folder / name, temporary / name)
                circumstances = Circumstances(
                    data_fingerprint=corpus.fingerprint,
                    processes=accelerator.num_processes,
                    micro_batch_size=micro_batch_size,
                    precision=str(accelerator.mixed_precision),
                    shard=sharded,
                )
                write_json(temporary / STATE, vars(progress) | vars(circumstances))
                write_checksums(temporary)
        except Exception as error:  # every library has its own for a full disk, from SafetensorError to bare Exception
            raise OSError(cannot_save(path, error)) from error
        for old in checkpoints(folder)[:-keep]:
            remove_folder(old)
    accelerator.wait_for_everyone()


def read_state(checkpoint: Path) -> tuple[Progress, Circumstances]:
    """Where the run stood that saved ``checkpoint``, and how it did.

    Raises:
        OSError: if it cannot be read.
        ValueError: one line, for what ``save`` does not write.
    """
    try:
        state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{STATE}: {' '.join(str(error).split())}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} holds no keys")
    if unknown := state.keys() - {item.name for item in (*fields(Progress), *fields(Circumstances))}:
        raise ValueError(f"{STATE} holds {min(unknown)[:60]!r}, which no run saves")
    return _typed(Progress, state), _typed(Circumstances, state)


def _typed(kind: type, state: dict[str, Any]) -> Any:
    """An object of the dataclass ``kind`` with its values in ``state``. Raises ValueError as ``read_state`` does."""
    values = {}
    for item in fields(kind):
        if item.name not in state and item.default is not None:  # one that may be null is null before it was there
            raise ValueError(f"{STATE} has no {item.name}")
        values[item.name] = value = state.get(item.name)
        if not _is_a(value, item.type):
            raise ValueError(f"{STATE}: {item.name} is {repr(value)[:60]}, of another type than a run saves")
    made = kind(**values)
    check_ranges(made, f"{STATE}: ")
    return made


def _is_a(value: Any, hint: Any) -> bool:
    kinds: set[Any] = {
        get_origin(part) or part for part in (get_args(hint) if get_origin(hint) is UnionType else (hint,))
    }
    if float in kinds:
        kinds.add(int)
    return type(value) in kinds  # to Python a bool is an int


def instruments_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """``tensors`` as they were given to ``save``."""
    file = checkpoint / INSTRUMENTS
    return load_file(file) if file.exists() else {}


def restore_logs(folder: Path, checkpoint: Path) -> None:
    """Give a run's folder the logs as they were at ``checkpoint``, whatever it has of them.

    Raises:
        OSError: if they cannot be written.
    """
    for name in LOGS:
        if (checkpoint / name).exists():
            with replacing(folder / name) as temporary:
                shutil.copyfile(checkpoint / name, temporary)


def save_model(folder: Path, model, corpus: Corpus) -> None:
    model.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The folders of a run that bear a checkpoint's name, oldest first."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted(found, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def cannot_save(path: Path, error: Exception) -> str:
    """One line on what could not be written into a run's folder and where the run stands."""
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    if not path.parent.exists():
        return f"cannot save {path}: the folder {path.parent} is gone; start again with a run_dir that stays"
    room = f"{shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free there"
    kept = checkpoints(path.parent.parent if path.parent.name == "checkpoints" else path.parent)
    newest = f"the newest checkpoint is {kept[-1].name}, whole" if kept else "there is no checkpoint yet"
    return f"cannot save {path} ({reason}; {room}); {newest}; put right what failed and start again: the run goes on"
