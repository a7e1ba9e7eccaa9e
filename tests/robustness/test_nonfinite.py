"""A loss or gradient that is not finite is never stepped on, and what follows is what was asked for."""

import json

import numpy as np
import pytest
import torch
from run_helpers import Runs, differences, steps_counted
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

import resformer.training.trainer
from resformer import ResformerForCausalLM
from resformer.data import batch_indices
from resformer.training.checkpoints import Progress
from resformer.training.config import OptimizerConfig, ScheduleConfig, TrainConfig
from resformer.training.nonfinite import SKIPS_IN_A_ROW, answer
from resformer.training.optimizers import Float32, build_optimizers, lr_factor, set_learning_rate

FP32 = ("--train.max_steps", "9", "--train.save_every", "3")


@pytest.fixture(autouse=True)
def in_fp32(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")


class Poison:
    """Makes the loss of the sequences of certain batches NaN or infinite, by their content: whenever they come."""

    def __init__(self, monkeypatch, factor: float = float("nan")):
        self.sequences: set[bytes] = set()
        self.seen = 0
        real = ResformerForCausalLM.forward

        def forward(model, input_ids=None, **rest):
            output = real(model, input_ids=input_ids, **rest)
            if model.training and any(row.numpy().tobytes() in self.sequences for row in input_ids):
                self.seen += 1
                output.loss = output.loss * factor
                output.cross_entropy = output.cross_entropy * factor
            return output

        monkeypatch.setattr(ResformerForCausalLM, "forward", forward)

    def batches(self, runs: Runs, *numbers: int) -> None:
        for number in numbers:
            self.sequences |= {row.numpy().tobytes() for row in sequences(runs, number)}


def sequences(runs: Runs, batch: int) -> torch.Tensor:
    """The inputs of a batch, [8, 32], read from the cache by hand."""
    tokens = np.fromfile(next(runs.folder.glob("cache/*/train.tokens")), np.uint16).astype(np.int64)
    size = (len(tokens) - 1) // 32
    rows = [tokens[i * 32 : i * 32 + 32] for i in batch_indices(batch, 8, size, 0)]
    return torch.from_numpy(np.stack(rows))


@pytest.fixture
def runs(tmp_path) -> Runs:
    runs = Runs(tmp_path)
    assert runs.here("clean", *FP32) == 0
    return runs


class Reads(TorchDispatchMode):
    """Counts the numbers that the host takes from a device, for each of which it waits."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def test_a_step_reads_the_device_at_most_once(tmp_path, monkeypatch):
    """Loss and norm are read together, which no dispatch mode sees on a CPU."""
    counts, real = [], resformer.training.trainer.Trainer.step

    def step(trainer):
        with Reads() as reads:
            further = real(trainer)
        counts.append(reads.count)
        return further

    monkeypatch.setattr(resformer.training.trainer.Trainer, "step", step)
    assert Runs(tmp_path).here("reads", *FP32, "--train.record_every", "0", "--train.micro_batch_size", "4") == 0
    assert len(counts) == 9
    assert max(counts) <= 1


def events(runs: Runs, run: str) -> list[dict]:
    return [line for line in runs.metrics(run) if "event" in line]


def by_hand(runs: Runs, batches: list[int | None]) -> dict[str, torch.Tensor]:
    """Weights after one update for each batch (None: no update, the schedule goes on), by a loop of its own."""
    model = ResformerForCausalLM.from_pretrained(runs.folder / "clean" / "model")
    torch.manual_seed(0)
    model = ResformerForCausalLM(model.config)
    optimizers = build_optimizers(model, OptimizerConfig())
    for step, batch in enumerate(batches):
        if batch is None:
            continue
        tokens = np.fromfile(next(runs.folder.glob("cache/*/train.tokens")), np.uint16).astype(np.int64)
        size = (len(tokens) - 1) // 32
        rows = torch.from_numpy(np.stack([tokens[i * 32 : i * 32 + 33] for i in batch_indices(batch, 8, size, 0)]))
        set_learning_rate(optimizers, lr_factor(step, 9, ScheduleConfig()))
        model(input_ids=rows[:, :-1], shift_labels=rows[:, 1:], use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            with Float32():
                optimizer.step()
            optimizer.zero_grad()
    return dict(model.named_parameters())


def assert_weights(runs: Runs, run: str, expected: dict[str, torch.Tensor]) -> None:
    for name, weight in load_file(runs.folder / run / "model" / "model.safetensors").items():
        torch.testing.assert_close(weight, expected[name].detach(), rtol=1e-5, atol=1e-6)


def test_the_loop_by_hand_is_the_run(runs):
    assert_weights(runs, "clean", by_hand(runs, list(range(9))))


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_skip_passes_over_one_update(runs, monkeypatch, factor):
    Poison(monkeypatch, factor).batches(runs, 4)
    assert runs.here("skip", *FP32, "--train.on_nonfinite", "skip") == 0
    assert [(e["event"], e["step"], e["batch"]) for e in events(runs, "skip")] == [("skip", 5, 4)]
    assert runs.summary("skip")["skipped_updates"] == 1
    assert_weights(runs, "skip", by_hand(runs, [0, 1, 2, 3, None, 5, 6, 7, 8]))


def test_a_connection_that_changes_with_training_moves_on_as_the_learning_rate_does(runs, monkeypatch):
    """Past an update that is skipped, and back with one that is rolled back."""
    Poison(monkeypatch).batches(runs, 4)
    for action in ("skip", "rollback"):
        flags = (*FP32, "--train.on_nonfinite", action, "--model.residual", "prores(warmup_steps=6)")
        assert runs.here(action, *flags) == 0
        assert [event["event"] for event in events(runs, action)] == [action]
        assert steps_counted(runs.folder / action / "model") == {9}


def test_a_loss_that_is_not_finite_with_a_gradient_that_is_one(runs, monkeypatch):
    """The loss alone is enough: nothing is stepped on."""
    real = ResformerForCausalLM.forward
    monkeypatch.setattr(ResformerForCausalLM, "forward", real)

    def forward(model, input_ids=None, **rest):
        output = real(model, input_ids=input_ids, **rest)
        if model.training:
            output.cross_entropy = output.cross_entropy + torch.tensor(float("inf"))
        return output

    monkeypatch.setattr(ResformerForCausalLM, "forward", forward)
    assert runs.here("loss", *FP32) == 3
    assert runs.summary("loss")["step"] == 0


def test_rollback_restores_and_leaves_out_the_batches(runs, monkeypatch):
    poison = Poison(monkeypatch)
    poison.batches(runs, 4)
    assert runs.here("back", *FP32, "--train.on_nonfinite", "rollback") == 0
    (event,) = events(runs, "back")
    assert (event["event"], event["step"], event["batch"]) == ("rollback", 3, 4)
    assert runs.summary("back")["rollbacks"] == 1
    assert poison.seen == 1  # the batch did not come again
    assert [line["step"] for line in runs.metrics("back") if "loss" in line] == list(range(1, 10))
    assert_weights(runs, "back", by_hand(runs, [0, 1, 2, 5, 6, 7, 8, 9, 10]))


def test_rollback_before_anything_is_saved_goes_to_the_start(runs, monkeypatch):
    Poison(monkeypatch).batches(runs, 1)
    assert runs.here("start", *FP32, "--train.on_nonfinite", "rollback") == 0
    assert_weights(runs, "start", by_hand(runs, list(range(2, 11))))


def test_a_run_that_rolled_back_and_died_goes_on_exactly(runs, monkeypatch):
    Poison(monkeypatch).batches(runs, 4)
    flags = (*FP32, "--train.on_nonfinite", "rollback")
    assert runs.here("whole", *flags) == 0
    real = resformer.training.trainer.train_step
    for death in (6, 4):  # after the rollback; then after the checkpoint that knows of it
        calls = iter(range(1, 100))

        def train_step(*arguments, calls=calls, death=death, **named):
            if next(calls) == death:
                raise KeyboardInterrupt
            return real(*arguments, **named)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(resformer.training.trainer, "train_step", train_step)
            runs.here("died", *flags)
    assert runs.here("died", *flags) == 0
    assert differences(runs.folder / "whole", runs.folder / "died") == []


def test_rollbacks_end(runs, monkeypatch):
    Poison(monkeypatch).batches(runs, *range(4, 30))
    flags = (*FP32, "--train.on_nonfinite", "rollback", "--train.max_rollbacks", "2")
    assert runs.here("ends", *flags) == 3
    assert [e["event"] for e in events(runs, "ends")] == ["rollback", "rollback", "stop"]
    assert runs.summary("ends")["status"] == "diverged"


def test_stop_saves_the_state_before_the_batch_and_can_go_on_with_another_answer(runs, monkeypatch):
    Poison(monkeypatch).batches(runs, 4)
    assert runs.here("stop", *FP32) == 3
    assert runs.summary("stop")["status"] == "diverged"
    assert runs.summary("stop")["step"] == 4
    state = json.loads((runs.folder / "stop/checkpoints/step-00000004/trainer_state.json").read_text())
    assert state["step"] == 4
    before = runs.metrics("stop")
    assert runs.here("stop", *FP32) == 3  # the same again, and no line twice
    assert runs.metrics("stop") == before
    assert runs.here("stop", *FP32, "--train.on_nonfinite", "skip") == 0
    assert_weights(runs, "stop", by_hand(runs, [0, 1, 2, 3, None, 5, 6, 7, 8]))


def test_instruments_find_their_state_again(tmp_path):
    """Progress.extra_state is saved and handed back as it was."""
    assert Progress(**json.loads(json.dumps(vars(Progress(extra_state={"spikes": {"window": [1.5, None]}}))))) == (
        Progress(extra_state={"spikes": {"window": [1.5, None]}})
    )


@pytest.mark.parametrize(
    ("on_nonfinite", "on_divergence", "progress", "expected"),
    [
        ("stop", "stop", Progress(), "stop"),
        ("stop", "continue", Progress(), "stop"),
        ("skip", "stop", Progress(skipped_in_a_row=SKIPS_IN_A_ROW - 1), "skip"),
        ("skip", "stop", Progress(skipped_in_a_row=SKIPS_IN_A_ROW), "stop"),
        ("skip", "continue", Progress(skipped_in_a_row=SKIPS_IN_A_ROW), "skip"),
        ("rollback", "stop", Progress(rollbacks=2), "rollback"),
        ("rollback", "stop", Progress(rollbacks=3), "stop"),
        ("rollback", "continue", Progress(rollbacks=3), "skip"),
    ],
)
def test_how_the_two_keys_live_together(on_nonfinite, on_divergence, progress, expected):
    assert answer(TrainConfig(on_nonfinite=on_nonfinite, on_divergence=on_divergence), progress) == expected
