"""Cross entropy on held-out text, in units that compare between tokenizers."""

import contextlib
import lzma
import math
import zlib

import torch
from accelerate import Accelerator
from torch.utils.data import Subset, default_collate

from ..data import Corpus, evaluation_batches
from .sharding import is_sharded


@torch.no_grad()
def evaluate(model, corpus: Corpus, accelerator: Accelerator, batch_size: int, sequences: int | None = None) -> float:
    """Mean nats per token over the first ``sequences`` held-out sequences, or over all.

    Args:
        model: the model, not wrapped; left in training mode.
        batch_size: sequences per forward pass.
    """
    packed = corpus.validation
    if sequences is not None and sequences < len(packed):
        packed = Subset(packed, range(sequences))  # type: ignore[assignment]
    model.eval()
    rounds = math.ceil(math.ceil(len(packed) / accelerator.num_processes) / batch_size)
    total = torch.zeros(2, dtype=torch.float64, device="cpu")
    batches = evaluation_batches(
        packed, batch_size=batch_size, rank=accelerator.process_index, world_size=accelerator.num_processes
    )
    for batch in batches:
        batch = {name: tensor.to(accelerator.device) for name, tensor in batch.items()}
        with accelerator.autocast(), _compiled(len(batch["input_ids"]) == batch_size):
            loss = model(**batch, use_cache=False, skip_logits=True).cross_entropy
        count = batch["shift_labels"].numel()
        total += torch.tensor([loss.item() * count, count], dtype=torch.float64)
        rounds -= 1
    if is_sharded(model):  # every forward pass gathers weights from all processes: each takes as many as the busiest
        same = {name: tensor.to(accelerator.device) for name, tensor in default_collate([packed[0]]).items()}
        for _ in range(rounds):
            with _compiled(batch_size == 1):
                model(**same, use_cache=False, skip_logits=True)
    model.train()
    total = accelerator.reduce(total.to(accelerator.device))
    return float(total[0] / total[1])


def _compiled(whole: bool) -> contextlib.AbstractContextManager:
    """What is left over, a batch of another size, is not worth compiling."""
    return contextlib.nullcontext() if whole else torch.compiler.set_stance("force_eager")


def bits_per_byte(nats_per_token: float, corpus: Corpus) -> float:
    return nats_per_token / math.log(2) / corpus.bytes_per_token


def compressors_bits_per_byte(text: bytes) -> dict[str, float]:
    """What general compressors need for the same held-out text, in bits per byte."""
    return {
        "zlib_bits_per_byte": 8 * len(zlib.compress(text, 9)) / len(text),
        "lzma_bits_per_byte": 8 * len(lzma.compress(text)) / len(text),
    }
