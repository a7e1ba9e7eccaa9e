"""Going on where a run stood: which checkpoint, whether it is whole, and whether it is of this very run."""

import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from ..data import Corpus
from ..files import damage, read_yaml, remove
from ..keys import flat
from ..stability.endstate import StabilityWatch
from .checkpoints import CONFIG, OPTIMIZERS, STATE, Progress, checkpoints, read_state, step_of
from .config import RunConfig
from .optimizer_state import load_named_state
from .sharding import is_sharded, load_weights

# What may differ between the run that saved and the run that goes on.
_FREE = {
    "run_dir", "resume", "trackers", "data.num_workers", "data.cache_dir", "data.max_document_bytes", "data.max_files",
    *(f"train.{name}" for name in (
        "keep_checkpoints", "save_every", "micro_batch_size", "log_every", "eval_every", "record_every",
        "record_sequences", "on_divergence", "on_nonfinite", "max_rollbacks", "compile", "gradient_checkpointing",
        "shard", "patience", "draw",
    )),
}  # fmt: skip


def refuse_another_run(config: RunConfig, folder: Path) -> None:
    """The configuration is that of the newest checkpoint; only a run that has none yet is asked for its own file.

    Raises:
        ValueError: if ``folder`` holds a run of another configuration, naming the first key that differs.
    """
    kept = [path / CONFIG for path in reversed(checkpoints(folder)) if not damage(path, CONFIG)]
    file = kept[0] if kept else folder / CONFIG
    if not file.is_file():  # a pipe would be waited for
        return
    try:
        told = flat(read_yaml(file))
    except ValueError as error:
        raise ValueError(f"{file} cannot be read; restore it, or remove it to go on with what you say now") from error
    # A run of before a key was there is one of its default.
    theirs, ours = flat(RunConfig().as_dict()) | told, flat(config.as_dict())
    if config.schedule.name == "constant":  # the only schedule that does not depend on where it ends
        theirs["train.max_steps"] = config.train.max_steps
    for key in sorted(set(theirs) | set(ours), key=lambda key: (key != "train.max_steps", key)):  # others follow
        if key not in _FREE and theirs.get(key) != ours.get(key):
            reason = ""
            if key == "train.max_steps":
                reason = f" (schedule.name {config.schedule.name} spreads over all steps; only constant can go on)"
            raise ValueError(
                f"{folder} holds a run with {key} = {theirs.get(key)!r}, not {ours.get(key)!r}{reason}; "
                "give another --run_dir, or the same value" + ("" if kept else f", or remove {file}")
            )


def find(config: RunConfig) -> Path | None:
    """The checkpoint to go on from, every file of it as it was written, or none.

    Raises:
        ValueError: if ``resume`` names a folder that is no whole checkpoint, or is ``never`` where there are some.
    """
    if config.resume not in ("auto", "never"):
        path = Path(config.resume)
        if not (path / STATE).exists():
            raise ValueError(f"resume: {path} is not a checkpoint of a run (it has no {STATE})")
        if wrong := damage(path):
            raise ValueError(f"resume: {path} is damaged: {wrong}; give another checkpoint")
        return path
    folder = Path(config.run_dir)
    if checkpoints(folder) and config.resume == "never":
        raise ValueError(f"{folder} already holds checkpoints; give another --run_dir, or leave --resume at auto")
    return newest_whole(folder)


def newest_whole(folder: Path) -> Path | None:
    """The newest checkpoint of a run that is undamaged, with a warning for every one that is not.

    Raises:
        ValueError: if there are checkpoints and none is whole.
    """
    existing = checkpoints(folder)
    for path in reversed(existing):
        if not (wrong := damage(path)):
            return path
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"warning: {path} is damaged: {wrong}; looking at the checkpoint before it", file=sys.stderr)
    if existing:
        raise ValueError(f"{folder} has no undamaged checkpoint; remove {folder / 'checkpoints'} to train it anew")
    return None


def set_later_ones_aside(folder: Path, step: int, accelerator: Accelerator) -> None:
    """Rename the checkpoints beyond ``step``: damaged, or of a future that is not this run's any more."""
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        for path in checkpoints(folder):
            if step_of(path) > step:
                aside = path.with_name(f"{path.name}.set-aside")
                if os.path.lexists(aside):
                    remove(aside)
                path.rename(aside)
                print(f"warning: {path} is beyond step {step} and now {aside.name}", file=sys.stderr)
    accelerator.wait_for_everyone()


def load(
    path: Path, model, optimizers: list, *, corpus: Corpus, accelerator: Accelerator, micro_batch_size: int
) -> Progress:
    """Put the weights and optimiser states of checkpoint ``path`` into place. Nothing in it is unpickled.

    Hyperparameters of the optimisers stay as the configuration says.

    Raises:
        ValueError: if it is of another corpus or model, cannot be read, or if other micro batches would draw other
            random numbers than those of the run that saved it.
    """
    try:
        progress, saved = read_state(path)
        _refuse_another_watch(progress.extra_state.get("watch"))
    except (OSError, ValueError) as error:
        raise _cannot_resume(path, error) from error
    if saved.data_fingerprint != corpus.fingerprint:
        raise ValueError(
            f"{path} was trained on other data (fingerprint {saved.data_fingerprint[:16]}, that of data.source is now "
            f"{corpus.fingerprint[:16]}); restore the data, or give another --run_dir"
        )
    try:
        load_weights(model, path / "model.safetensors")
        load_named_state(path / OPTIMIZERS, model, optimizers)
    except (OSError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise _cannot_resume(path, error) from error
    precision, micro, processes = saved.precision, saved.micro_batch_size, saved.processes
    if precision != str(accelerator.mixed_precision):
        raise ValueError(
            f"{path} was trained in precision {precision}, now it is {accelerator.mixed_precision}: launch with "
            f"--mixed_precision {precision}, or give another --run_dir"
        )
    if micro != micro_batch_size and draws_random_numbers(model, corpus):
        raise ValueError(
            f"{path} was trained in micro batches of {micro} sequences, now they are of {micro_batch_size}, and this "
            f"model draws random numbers for each: give --train.micro_batch_size {micro}, or launch {processes} "
            f"process{'es' if processes > 1 else ''} as before"
        )
    if saved.shard != is_sharded(model):
        how = "whole" if saved.shard else "split over processes"
        accelerator.print(f"weights are {how} now, other than when {path} was saved: other sums of rounding")
    if processes != accelerator.num_processes:
        accelerator.print(
            f"{path} was saved by {processes} process{'es' if processes > 1 else ''}, now there are "
            f"{accelerator.num_processes}: the same data in the same order, sums in another order of rounding"
        )
    return progress


def _cannot_resume(path: Path, error: Exception) -> ValueError:
    reason = str(error).split("\n")[0] or type(error).__name__
    return ValueError(f"cannot resume from {path} ({reason}); remove that folder to use the one before it")


def _refuse_another_watch(state: Any) -> None:
    """Raises ValueError for what ``StabilityWatch.state_dict`` does not give; a run may do without."""
    watch = StabilityWatch()
    try:
        if state is not None:
            if not _is_like(state, watch.state_dict()):
                raise ValueError
            watch.load_state_dict(state)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{STATE}: extra_state.watch is of another form than a run saves") from error


def _is_like(value: Any, sample: Any) -> bool:
    """Whether it has the keys and types of ``sample``, where a null stands for a number or a list as well."""
    if isinstance(sample, dict):
        same = isinstance(value, dict) and value.keys() == sample.keys()
        return same and all(_is_like(value[key], sample[key]) for key in sample)
    return type(value) in ({type(sample)} if sample is not None else {type(None), int, float, list})


@torch.no_grad()
def draws_random_numbers(model, corpus: Corpus) -> bool:
    """Whether a training step of ``model`` depends on a random generator."""

    def states() -> list[torch.Tensor]:
        on_gpu = [torch.cuda.get_rng_state()] if model.device.type == "cuda" else []
        return [torch.get_rng_state(), *on_gpu]

    before = states()
    model.train()
    model(**{name: tensor[None].to(model.device) for name, tensor in corpus.train[0].items()}, use_cache=False)
    return not all(map(torch.equal, before, states()))
