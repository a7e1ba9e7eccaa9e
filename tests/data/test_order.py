"""The tokens of a step are a pure function of step and seed, whoever asks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from data_helpers import corpus, text_file
from hypothesis import given, settings
from hypothesis import strategies as st

from resformer.data import DataError, PackedTokens, batch_indices, evaluation_batches, training_batches

small = st.integers(1, 40)


@given(batch=small, size=small, seed=st.integers(0, 2**40), epoch=st.integers(0, 3))
def test_every_epoch_is_a_permutation_across_batch_borders(batch: int, size: int, seed: int, epoch: int) -> None:
    steps = -(-size * (epoch + 1) // batch)
    stream = np.concatenate([batch_indices(step, batch, size, seed) for step in range(steps)])
    assert sorted(stream[epoch * size : (epoch + 1) * size]) == list(range(size))


@given(steps=st.lists(st.integers(0, 50), min_size=1, max_size=8), batch=small, size=small)
def test_a_step_does_not_depend_on_what_was_asked_before(steps: list[int], batch: int, size: int) -> None:
    alone = {step: batch_indices(step, batch, size, 7).tolist() for step in sorted(set(steps))}
    assert [batch_indices(step, batch, size, 7).tolist() for step in steps] == [alone[s] for s in steps]


def test_seed_and_epoch_change_the_order_and_the_order_never_changes() -> None:
    first, again, other, next_epoch = (
        batch_indices(0, 64, 64, 0),
        batch_indices(0, 64, 64, 0),
        batch_indices(0, 64, 64, 1),
        batch_indices(1, 64, 64, 0),
    )
    assert (first == again).all() and (first != other).any() and (first != next_epoch).any()
    assert (first != np.arange(64)).any()
    # Written down once: runs of earlier releases must repeat.
    assert batch_indices(0, 8, 8, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]


@pytest.fixture
def packed(tmp_path: Path) -> PackedTokens:
    return corpus(tmp_path, text_file(tmp_path)).train


def steps_of(packed: PackedTokens, ranks: int, micro: int, start: int = 0, workers: int = 0) -> list[list]:
    """Per step, the input ids of all ranks in the order of ranks."""
    streams = [
        list(
            training_batches(
                packed,
                seed=3,
                batch_size=12,
                micro_batch_size=micro,
                rank=rank,
                world_size=ranks,
                start_step=start,
                max_steps=30,
                num_workers=workers,
            )
        )
        for rank in range(ranks)
    ]
    per_step = 12 // (micro * ranks)
    assert {len(stream) for stream in streams} == {(30 - start) * per_step}
    return [
        [
            row
            for stream in streams
            for micro_batch in stream[step * per_step : (step + 1) * per_step]
            for row in micro_batch["input_ids"].tolist()
        ]
        for step in range(30 - start)
    ]


@pytest.mark.parametrize(("ranks", "micro"), [(1, 6), (2, 6), (2, 3), (3, 2), (4, 1)])
def test_processes_and_accumulation_do_not_change_a_step(packed: PackedTokens, ranks: int, micro: int) -> None:
    assert steps_of(packed, ranks, micro) == steps_of(packed, 1, 12)


def test_a_resume_continues_where_it_stopped(packed: PackedTokens) -> None:
    assert steps_of(packed, 2, 3, start=11) == steps_of(packed, 2, 3)[11:]


@pytest.mark.filterwarnings("ignore::UserWarning")  # fewer cores than workers
def test_workers_do_not_change_batches(packed: PackedTokens) -> None:
    assert steps_of(packed, 1, 4, workers=2) == steps_of(packed, 1, 4)


def test_loading_leaves_the_global_generator_alone(packed: PackedTokens) -> None:
    before = torch.get_rng_state()
    steps_of(packed, 1, 12)
    list(evaluation_batches(packed, batch_size=5))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_ranks_evaluate_every_sequence_once(packed: PackedTokens, ranks: int) -> None:
    rows = [
        row.tolist()
        for rank in range(ranks)
        for batch in evaluation_batches(packed, batch_size=7, rank=rank, world_size=ranks)
        for row in batch["input_ids"]
    ]
    assert rows == [packed[index]["input_ids"].tolist() for index in range(len(packed))]


@settings(max_examples=20)
@given(micro=st.integers(-1, 6), ranks=st.integers(1, 5))
def test_a_batch_that_does_not_divide_is_refused_at_once(micro: int, ranks: int) -> None:
    packed = PackedTokens(Path(__file__), "uint8", 8, 0)
    arguments = {"seed": 0, "batch_size": 7, "micro_batch_size": micro, "world_size": ranks, "max_steps": 1}
    if micro > 0 and 7 % (micro * ranks) == 0:
        training_batches(packed, **arguments)
        return
    with pytest.raises(DataError, match="batch_size 7") as error:
        training_batches(packed, **arguments)
    assert "\n" not in str(error.value)
