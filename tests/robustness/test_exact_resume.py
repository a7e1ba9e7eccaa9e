"""2N steps equal N steps, an end without warning, and the rest: bit for bit, on CPU."""

import itertools

import pytest
from run_helpers import Runs, differences, steps_counted, torchrun

import resformer.training.trainer


class Killed(BaseException):
    """Stands for SIGKILL: nothing may catch it, nothing is saved."""


def dies_at(call: int, monkeypatch) -> None:
    """The process 'dies' in its ``call``-th optimiser step (from 1), after the gradients are there."""
    real, calls = resformer.training.trainer.train_step, itertools.count(1)

    def train_step(*arguments, **named):
        if next(calls) == call:
            raise Killed
        return real(*arguments, **named)

    monkeypatch.setattr(resformer.training.trainer, "train_step", train_step)


def options(optimizer: str, micro: int, dropout: float, checkpointing: bool, workers: int) -> list[str]:
    return [
        "--optimizer.name", optimizer, "--train.micro_batch_size", str(micro),
        "--model.hidden_dropout", str(dropout), "--model.attention_dropout", str(dropout),
        "--train.gradient_checkpointing", str(checkpointing).lower(), "--data.num_workers", str(workers),
        "--train.record_every", "5",
    ]  # fmt: skip


SGD = ("sgd", "--optimizer.learning_rate", "0.1")
CHOSEN = [("muon", 2, 0.1, True, 2), ("adamw", 8, 0.1, False, 0)]
ALL = [
    one for one in itertools.product(["muon", "adamw"], [2, 8], [0.0, 0.1], [False, True], [0, 2]) if one not in CHOSEN
]


@pytest.mark.parametrize("combination", [*CHOSEN, *(pytest.param(one, marks=pytest.mark.slow) for one in ALL)], ids=str)
def test_a_run_that_died_twice_equals_one_that_did_not(tmp_path, monkeypatch, combination):
    runs, flags = Runs(tmp_path), options(*combination)
    assert runs.here("whole", *flags) == 0
    for steps in (3, 7):  # before anything is saved, and three steps after the checkpoint of step 4
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dies_at(steps, patch)
            runs.here("died", *flags)
    assert [line["step"] for line in runs.metrics("died")][-1] == 6  # more than the checkpoint knows of
    assert runs.here("died", *flags) == 0
    assert differences(runs.folder / "whole", runs.folder / "died") == []


@pytest.mark.parametrize("residual", ["prores(warmup_steps=9)", "prores(norm=post, schedule=equal, warmup_steps=9)"])
def test_a_connection_that_changes_with_training_goes_on_where_it_stood(tmp_path, monkeypatch, residual):
    runs, flags = Runs(tmp_path), ("--model.residual", residual, "--train.micro_batch_size", "2")
    assert runs.here("whole", *flags) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at(7, patch)
        runs.here("died", *flags)
    assert runs.here("died", *flags) == 0
    assert differences(runs.folder / "whole", runs.folder / "died") == []
    assert steps_counted(runs.folder / "whole" / "model") == {8}
    assert steps_counted(runs.folder / "whole" / "checkpoints" / "step-00000004") == {4}


def test_without_the_saved_moments_the_difference_would_be_seen(tmp_path, monkeypatch):
    """The comparison above can fail."""
    import torch

    runs = Runs(tmp_path)
    assert runs.here("whole") == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at(6, patch)
        runs.here("died")
    monkeypatch.setattr(torch.optim.Muon, "load_state_dict", lambda self, state: None)
    assert runs.here("died") == 0
    assert "checkpoints/step-00000008/optimizers.safetensors differs" in differences(
        runs.folder / "whole", runs.folder / "died"
    )


@pytest.mark.slow
def test_two_processes_resume_exactly(runs):
    import shutil

    flags = options("muon", 2, 0.1, True, 2)
    assert runs.outside("pair", *flags, launcher=torchrun(2))[0] == 0
    shutil.copytree(runs.folder / "pair", runs.folder / "pair-resumed")
    for gone in ("checkpoints/step-00000008", "model"):
        shutil.rmtree(runs.folder / "pair-resumed" / gone)
    code, out, err = runs.outside("pair-resumed", *flags, launcher=torchrun(2))
    assert code == 0, err
    assert "going on from" in out
    assert differences(runs.folder / "pair", runs.folder / "pair-resumed") == []


@pytest.mark.slow
@pytest.mark.parametrize("optimizer, tolerance", [(SGD, 1e-6), (("adamw",), 1e-4)], ids=["sgd", "adamw"])
@pytest.mark.parametrize("processes", [2, 4])
def test_several_processes_give_the_losses_of_one_also_with_dropout(runs, processes, optimizer, tolerance):
    """AdamW divides by the gradient's size: where that is nearly zero, its steps are the rounding of another order of
    sums, and bfloat16 makes whole digits of that."""
    flags = (*options(optimizer[0], 2, 0.1, False, 0), *optimizer[1:])
    one, several = f"single-{optimizer[0]}", f"{optimizer[0]}-of-{processes}"
    if not (runs.folder / one).exists():
        assert runs.here(one, *flags) == 0
    code, _, err = runs.outside(several, *flags, launcher=torchrun(processes))
    assert code == 0, err
    assert runs.summary(several)["processes"] == processes
    for a, b in zip(runs.metrics(one), runs.metrics(several), strict=True):
        assert a.keys() == b.keys()
        for name in ("loss", "val_loss"):
            assert a.get(name, 0.0) == pytest.approx(b.get(name, 0.0), rel=tolerance)


@pytest.mark.slow
def test_another_number_of_processes_goes_on_and_says_so(runs, monkeypatch):
    flags = (*options(SGD[0], 2, 0.1, False, 0), *SGD[1:])
    if not (runs.folder / "single-sgd").exists():
        assert runs.here("single-sgd", *flags) == 0
    with monkeypatch.context() as patch, pytest.raises(Killed):
        dies_at(6, patch)
        runs.here("moved", *flags)
    code, out, err = runs.outside("moved", *flags, launcher=torchrun(2))
    assert code == 0, err
    assert "was saved by 1 process, now there are 2" in out
    for a, b in zip(runs.metrics("single-sgd"), runs.metrics("moved"), strict=True):
        assert a.get("loss", 0.0) == pytest.approx(b.get("loss", 0.0), rel=1e-6)


def test_other_micro_batches_are_refused_only_where_random_numbers_hang_on_them(tmp_path, monkeypatch):
    runs = Runs(tmp_path)
    for run, dropout in (("dry", 0.0), ("wet", 0.1)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dies_at(6, patch)
            runs.here(run, *options("adamw", 4, dropout, False, 0))
    assert runs.here("dry", *options("adamw", 2, 0.0, False, 0)) == 0
    with pytest.raises(ValueError, match=r"micro batches of 4 .*now they are of 2.*--train.micro_batch_size 4"):
        runs.here("wet", *options("adamw", 2, 0.1, False, 0))
    assert runs.here("wet", *options("adamw", 4, 0.1, False, 0)) == 0


@pytest.mark.slow
def test_compiled_or_not_dropout_draws_the_same_and_a_resume_is_exact(tmp_path, monkeypatch):
    runs = Runs(tmp_path)
    flags, compiled = (*options(SGD[0], 4, 0.1, False, 0), *SGD[1:]), ("--train.compile", "true")
    assert runs.here("plain", *flags) == 0
    assert runs.here("compiled", *flags, *compiled) == 0
    for run, before, after in (("still", compiled, compiled), ("from-now-on", (), compiled)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            dies_at(6, patch)
            runs.here(run, *flags, *before)
        assert runs.here(run, *flags, *after) == 0
    assert differences(runs.folder / "compiled", runs.folder / "still") == []
    for run in ("compiled", "from-now-on"):
        for a, b in zip(runs.metrics("plain"), runs.metrics(run), strict=True):
            assert a.get("loss", 0.0) == pytest.approx(b.get("loss", 0.0), rel=1e-6)
