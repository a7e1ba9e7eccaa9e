"""From a run's configuration to its instruments."""

import math
from pathlib import Path

from accelerate import Accelerator
from torch.utils.data import default_collate

from ..data import Corpus
from ..stability.endstate import StabilityWatch
from ..stability.instruments import Instruments
from ..stability.measure import Batch
from .config import RunConfig


def probe_batch(corpus: Corpus, sequences: int) -> Batch:
    """``sequences`` held-out sequences, evenly spaced, tensors ``[sequences, time]``: a function of the corpus alone.

    Raises:
        ValueError: if the held-out text has fewer.
    """
    available = len(corpus.validation)
    if available < sequences:
        raise ValueError(
            f"the held-out text has {available} sequences of {corpus.validation.sequence_length} tokens, too few for a "
            f"probe batch of {sequences}; ask for at most {available}, for shorter ones, or give more text"
        )
    chosen = [index * available // sequences for index in range(sequences)]
    items = [corpus.validation[index] for index in chosen]
    return default_collate(items)


def make_instruments(
    config: RunConfig, folder: Path, model, optimizers: list, corpus: Corpus, accelerator: Accelerator
) -> Instruments:
    """The instruments of a run, built while ``model`` is at its initialisation.

    Of text that is short the probe batch is what there is. Weights that are split over processes cannot be
    measured whole: then only loss and gradient are watched, and that is said.
    """
    train, every = config.train, config.train.record_every
    untrained = math.log(model.config.vocab_size) if config.init_from else 0.0
    if every and train.shard:
        accelerator.print("recorder   off: the weights are split over processes")
        every = 0
    batch = None
    if every:
        sequences = min(train.record_sequences, len(corpus.validation))
        model.to(accelerator.device)
        batch = {name: tensor.to(accelerator.device) for name, tensor in probe_batch(corpus, sequences).items()}
    return Instruments(
        folder / "layers.parquet",
        model,
        batch,
        optimizers,
        every=every,
        watch=StabilityWatch(config.optimizer.max_grad_norm, untrained),
        main=accelerator.is_main_process,
        track=(lambda step, values: accelerator.log(values, step=step)) if config.trackers else None,
    )
