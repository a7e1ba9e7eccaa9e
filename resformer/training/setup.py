"""From a configuration to everything a run needs, with every refusal before the first file is written."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator

from ..data import Corpus
from ..files import locked, no_room, remove_leftovers, write_yaml
from ..model import ResformerConfig, ResformerForCausalLM
from ..model.rewiring import CANNOT_LOAD, rewired
from .checkpoints import Progress
from .compiling import branch_weights
from .config import RunConfig
from .provenance import weights_hash
from .resuming import refuse_another_run
from .sharding import is_sharded


def model_config(config: RunConfig, corpus: Corpus) -> ResformerConfig:
    """Raises ValueError if the text has tokens that the model of ``init_from`` does not know."""
    tokenizer, vocab_size = corpus.tokenizer, corpus.vocab_size
    if config.init_from is not None:
        vocab_size = ResformerConfig.from_pretrained(config.init_from).vocab_size
        if corpus.vocab_size > vocab_size:
            raise ValueError(
                f"the text has {corpus.vocab_size} tokens of data.tokenizer {config.data.tokenizer}, the model of "
                f"init_from {config.init_from} a vocabulary of {vocab_size}; give that model's own tokenizer"
            )
    return config.model_config(
        vocab_size=vocab_size,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def initial_model(config: RunConfig, model_config: ResformerConfig) -> ResformerForCausalLM:
    """The model before its first step, in float32: drawn by torch's seed, or with the weights of ``init_from``.

    Raises:
        ValueError: if these cannot be loaded, or are of other branches.
    """
    if config.init_from is None:
        return ResformerForCausalLM(model_config)
    try:
        theirs = ResformerForCausalLM.from_pretrained(config.init_from, dtype=torch.float32)
        return rewired(model_config, theirs.state_dict()).model
    except CANNOT_LOAD as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"init_from {config.init_from}: {reason}") from error


def hash_of_initial_weights(config: RunConfig, progress: Progress) -> str | None:
    """Of the model of ``init_from``. Raises ValueError if a run that goes on began from others."""
    if config.init_from is None:
        return None
    found = weights_hash(Path(config.init_from))
    if progress.init_from_hash not in (None, found):
        raise ValueError(f"init_from: {config.init_from} has changed since {config.run_dir} began; restore it")
    return found


def refuse_what_does_not_fit(
    config: RunConfig, model_config: ResformerConfig, accelerator: Accelerator, micro_batch_size: int
) -> None:
    """Of a training step, weights and gradients of the branches and the stream before each block, kept for the backward
    pass: less than any step takes.

    Raises:
        ValueError: if that alone is more than the memory of the device.
    """
    on_gpu = accelerator.device.type == "cuda"
    memory = torch.cuda.mem_get_info()[1] if on_gpu else psutil.virtual_memory().total + psutil.swap_memory().total
    weights = model_config.vocab_size * model_config.widths()[0]
    weights += sum(branch_weights(model_config, layer) for layer in range(model_config.num_hidden_layers))
    split = accelerator.num_processes if config.train.shard else 1
    stream = micro_batch_size * config.data.sequence_length * sum(model_config.widths())
    if (needed := 4 * (2 * weights // split + stream)) > memory:
        raise ValueError(
            f"a model of more than {weights:,} parameters and micro batches of {micro_batch_size} sequences of "
            f"{config.data.sequence_length} tokens need more than {needed / 1e9:,.0f} GB, {accelerator.device} has "
            f"{memory / 1e9:,.0f} GB; make model.* smaller, or train.micro_batch_size"
        )


def micro_batch_size(config: RunConfig, accelerator: Accelerator) -> int:
    """Sequences per forward pass and process.

    Raises:
        ValueError: if the batch does not divide into micro batches over all processes.
    """
    batch, processes = config.train.batch_size, accelerator.num_processes
    micro = config.train.micro_batch_size or batch // processes
    if micro < 1 or batch % (micro * processes):
        raise ValueError(
            f"train.batch_size {batch} does not divide into micro batches of {micro} on {processes} processes; "
            "make it a multiple of their product"
        )
    return micro


@contextmanager
def run_folder(config: RunConfig, accelerator: Accelerator) -> Iterator[Path]:
    """The run's folder, with config.yaml in it, held by this run alone for as long as it is open.

    Raises:
        ValueError: if it holds a run of another configuration, or one that is still running.
        OSError: if it cannot be written.
    """
    folder = Path(config.run_dir)
    refuse_another_run(config, folder)
    with ExitStack() as held:
        if accelerator.is_main_process:
            try:
                (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(folder / ".lock", wait=False))
                for place in (folder, folder / "checkpoints"):
                    remove_leftovers(place)
                write_yaml(folder / "config.yaml", config.as_dict())
            except BlockingIOError as error:
                raise ValueError(
                    f"{folder} is in use by a run that has not ended; wait for it, or give another --run_dir"
                ) from error
            except OSError as error:
                advice = "make room and start again" if no_room(error) else "give another --run_dir"
                raise OSError(f"run_dir: cannot write to {folder} ({error.strerror or error}); {advice}") from error
        accelerator.wait_for_everyone()
        yield folder


def prepare(accelerator: Accelerator, model, optimizers: list) -> tuple:
    """The model to train, which is its own wrapper where its weights are split, and its optimisers."""
    if is_sharded(model):
        return model, *(accelerator.prepare(optimizer) for optimizer in optimizers)
    return accelerator.prepare(model, *optimizers)
