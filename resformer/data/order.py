"""The order of sequences: a pure function of step and seed, so that nothing has to be saved to resume."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.utils.data import DataLoader

from .config import DataError
from .packing import PackedTokens

Batch = dict[str, torch.Tensor]


def batch_indices(step: int, batch_size: int, num_sequences: int, seed: int) -> np.ndarray:
    """The sequences of optimiser step `step` (from 0), int64 [batch_size].

    Each epoch is its own permutation of all sequences; a batch may end one epoch and begin the next.
    """
    if num_sequences < 1 or batch_size < 1 or step < 0 or seed < 0:
        raise DataError(
            f"no batch for step {step}, batch_size {batch_size}, {num_sequences} sequences, seed {seed}: "
            "step and seed must be 0 or more, the others at least 1"
        )
    places = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = places // num_sequences
    indices = np.empty(batch_size, np.int64)
    for epoch in range(epochs[0], epochs[-1] + 1):
        here = epochs == epoch
        indices[here] = _permutation(seed, int(epoch), num_sequences)[places[here] % num_sequences]
    return indices


@lru_cache(maxsize=2)  # the current epoch and its neighbour; never all of them
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    # Sorting raw random words rather than Generator.permutation: numpy promises the raw stream for ever, the
    # methods of Generator only for one version.
    words = np.random.Philox(np.random.SeedSequence([seed, epoch])).random_raw(size)
    order = np.argsort(words, kind="stable")
    order.flags.writeable = False
    return order


def training_batches(
    packed: PackedTokens,
    *,
    seed: int,
    batch_size: int,
    micro_batch_size: int,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    max_steps: int,
    num_workers: int = 0,
) -> Iterator[Batch]:
    """This rank's micro batches, tensors [micro_batch_size, T], of steps start_step to max_steps - 1 in order.

    Every step gives batch_size / (micro_batch_size * world_size) of them. Rank r takes the r-th contiguous share
    of a step's batch, so the sequences of a step depend on neither the number of processes nor the micro batch.
    Raises DataError, before anything is read, when the batch does not divide or the ranks make no sense.
    """
    _check_ranks(rank, world_size)
    if micro_batch_size < 1 or batch_size < 1 or batch_size % (micro_batch_size * world_size):
        raise DataError(
            f"batch_size {batch_size} is no multiple of micro_batch_size {micro_batch_size} x {world_size} "
            f"process{'es' if world_size > 1 else ''}; {_nearest_batch(batch_size, micro_batch_size * world_size)}"
        )
    sampler = _MicroBatches(
        range(start_step, max_steps), batch_size, micro_batch_size, rank, world_size, len(packed), seed
    )
    return iter(_loader(packed, sampler, num_workers))


def evaluation_batches(packed: PackedTokens, *, batch_size: int, rank: int = 0, world_size: int = 1) -> Iterator[Batch]:
    """This rank's contiguous share of all sequences, in order, tensors [<= batch_size, T].

    Shares differ by one sequence at most, so ranks may get unequal numbers of batches: sum over the whole share
    first and communicate after, not per batch.
    """
    _check_ranks(rank, world_size)
    if batch_size < 1:
        raise DataError(f"batch_size is {batch_size}; it must be at least 1")
    first, last = (len(packed) * part // world_size for part in (rank, rank + 1))
    starts = range(first, last, batch_size)
    return iter(_loader(packed, [list(range(at, min(at + batch_size, last))) for at in starts], 0))


class _MicroBatches:
    """What the loader's workers are told to fetch: lists of sequence indices."""

    def __init__(
        self, steps: range, batch_size: int, micro: int, rank: int, world_size: int, size: int, seed: int
    ) -> None:
        self.steps, self.batch_size, self.micro, self.size, self.seed = steps, batch_size, micro, size, seed
        share = batch_size // world_size
        self.starts = range(rank * share, (rank + 1) * share, micro)

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            indices = batch_indices(step, self.batch_size, self.size, self.seed)
            for start in self.starts:
                yield indices[start : start + self.micro].tolist()

    def __len__(self) -> int:
        return len(self.steps) * len(self.starts)


def _loader(packed: PackedTokens, batches: object, num_workers: int) -> DataLoader:
    return DataLoader(
        packed,
        batch_sampler=batches,  # type: ignore[arg-type]
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # Without its own generator a loader draws a seed from the global one, and dropout after a resume would
        # differ from dropout without.
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_run,
    )


def _leave_signals_to_the_run(worker: int) -> None:
    # A terminal and a scheduler tell every process of a run. A loader that ended first would take the run with it,
    # before it could save; without its run a loader ends by itself.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _nearest_batch(batch_size: int, unit: int) -> str:
    if unit < 1:
        return "both must be at least 1"
    below, above = batch_size // unit * unit, -(-batch_size // unit) * unit
    return f"take {below} or {above}" if 0 < below < above else f"take {max(above, unit)}"


def _check_ranks(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise DataError(f"rank {rank} of world_size {world_size}: ranks count from 0 to world_size - 1")
