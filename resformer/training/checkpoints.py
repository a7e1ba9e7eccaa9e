"""Checkpoints: a Hugging Face model folder and, beside it, all that going on exactly needs."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
import yaml
from accelerate import Accelerator
from safetensors.torch import load_model

from ..data import Corpus
from .config import RunConfig
from .files import whole_folder, write_json

STATE, OPTIMIZERS = "trainer_state.json", "optimizers.pt"

# What may differ between the run that saved and the run that goes on.
_FREE = {"run_dir", "resume", "trackers", "train.keep_checkpoints", "train.save_every", "train.micro_batch_size",
         "train.log_every", "train.eval_every", "train.on_divergence", "train.compile", "train.gradient_checkpointing",
         "data.num_workers", "data.cache_dir"}  # fmt: skip


@dataclass
class Progress:
    """Where a run stands: optimiser steps done, seconds trained, updates skipped for a non-finite loss."""

    step: int = 0
    seconds: float = 0.0
    skipped_updates: int = 0


def refuse_another_run(config: RunConfig, folder: Path) -> None:
    """Raises ValueError if ``folder`` holds a run of another configuration, naming the first key that differs."""
    file = folder / "config.yaml"
    if not file.exists():
        return
    theirs, ours = _flat(yaml.safe_load(file.read_text(encoding="utf-8"))), _flat(config.as_dict())
    for key in sorted(set(theirs) | set(ours)):
        if key not in _FREE and theirs.get(key) != ours.get(key):
            raise ValueError(
                f"{folder} holds a run with {key} = {theirs.get(key)!r}, not {ours.get(key)!r}; "
                "give another --run_dir, or the same value"
            )


def _flat(value: dict, prefix: str = "") -> dict:
    flat: dict = {}
    for key, item in value.items():
        if isinstance(item, dict) and prefix + key != "model.residual":
            flat |= _flat(item, f"{prefix}{key}.")
        else:
            flat[prefix + key] = item
    return flat


def save(
    folder: Path, model, optimizers: list, corpus: Corpus, progress: Progress, accelerator: Accelerator, keep: int
) -> None:
    """Write ``folder/checkpoints/step-N``, whole or not at all, and drop the oldest beyond ``keep``."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        root = folder / "checkpoints"
        with whole_folder(root / f"step-{progress.step:08d}") as temporary:
            save_model(temporary, model, corpus)
            torch.save([optimizer.state_dict() for optimizer in optimizers], temporary / OPTIMIZERS)
            write_json(temporary / STATE, vars(progress) | {"data_fingerprint": corpus.fingerprint})
        for old in checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def save_model(folder: Path, model, corpus: Corpus) -> None:
    model.save_pretrained(folder)
    corpus.tokenizer.save_pretrained(folder)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in (folder / "checkpoints").glob("step-*") if re.fullmatch(r"step-\d+", path.name)]
    return sorted((path for path in found if (path / STATE).exists()), key=lambda path: int(path.name[5:]))


def find(config: RunConfig) -> Path | None:
    """The checkpoint to go on from, or none.

    Raises:
        ValueError: if ``resume`` names a folder that is no checkpoint, or is ``never`` where there are some.
    """
    folder = Path(config.run_dir)
    if config.resume not in ("auto", "never"):
        if not (Path(config.resume) / STATE).exists():
            raise ValueError(f"resume: {config.resume} is not a checkpoint of a run (it has no {STATE})")
        return Path(config.resume)
    existing = checkpoints(folder)
    if existing and config.resume == "never":
        raise ValueError(f"{folder} already holds checkpoints; give another --run_dir, or leave --resume at auto")
    return existing[-1] if existing else None


def load(path: Path, model, optimizers: list, corpus: Corpus) -> Progress:
    """Put the weights and optimiser states of checkpoint ``path`` into place.

    Raises:
        ValueError: if it is of another corpus, or cannot be read.
    """
    try:
        state = json.loads((path / STATE).read_text(encoding="utf-8"))
        if (theirs := state.pop("data_fingerprint")) != corpus.fingerprint:
            raise ValueError(f"{path} was trained on other data (fingerprint {theirs}, now {corpus.fingerprint})")
        load_model(model, str(path / "model.safetensors"), strict=False)
        saved = torch.load(path / OPTIMIZERS, map_location="cpu", weights_only=True)
        for optimizer, one in zip(optimizers, saved, strict=True):
            optimizer.load_state_dict(one)
    except (OSError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise ValueError(f"cannot resume from {path}: {error}; delete that folder to use the one before it") from error
    return Progress(**state)
