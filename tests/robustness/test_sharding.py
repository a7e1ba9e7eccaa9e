"""Weights split over processes: the same training, and checkpoints that any number of processes goes on from."""

import shutil
import sys

import pytest
import torch
from run_helpers import Runs, differences, steps_counted
from transformers import AutoModelForCausalLM

LAUNCH = (sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision", "no", "--num_processes")
ONE, TWO = (*LAUNCH, "1"), (*LAUNCH, "2", "--multi_gpu")
# Five sequences: one process evaluates two batches, the other one.
# Streams that are read outside of their block, scalars, an odd number of rows, a count of steps: what could be split
# wrongly.
STACK = "[hyper, {attention: rezero, mlp: attn_res}, {attention: laurel, mlp: prores(warmup_steps=9)}, x0_mix]"
FLAGS = (
    "--model.residual", STACK, "--model.num_hidden_layers", "4", "--train.micro_batch_size", "2",
    "--optimizer.name", "muon", "--train.eval_sequences", "5",
)  # fmt: skip
SPLIT = ("--train.shard", "true")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Runs:
    runs = Runs(tmp_path_factory.mktemp("sharding"))
    for name, flags in {"copies": FLAGS, "split": (*FLAGS, *SPLIT)}.items():
        code, _, err = runs.outside(name, *flags, launcher=TWO)
        assert code == 0, err
    return runs


def same_losses(runs: Runs, one: str, two: str) -> None:
    assert [line["step"] for line in runs.metrics(one)] == [line["step"] for line in runs.metrics(two)]
    for a, b in zip(runs.metrics(one), runs.metrics(two), strict=True):
        for name in ("loss", "val_loss"):
            # Adam makes whole steps of the rounding in gradients that are nearly zero: streams that are still alike
            assert a.get(name, 0.0) == pytest.approx(b.get(name, 0.0), abs=2e-6 if a["step"] < 2 else 1e-4)


def test_the_losses_of_copies(runs):
    same_losses(runs, "copies", "split")


def test_one_process_loads_what_was_split(runs):
    whole = AutoModelForCausalLM.from_pretrained(runs.folder / "split" / "model")
    copies = AutoModelForCausalLM.from_pretrained(runs.folder / "copies" / "model")
    assert {name: tuple(p.shape) for name, p in whole.named_parameters()} == {
        name: tuple(p.shape) for name, p in copies.named_parameters()
    }
    assert steps_counted(runs.folder / "split" / "model") == steps_counted(runs.folder / "copies" / "model") == {8}
    ids = torch.arange(32)[None]
    assert torch.allclose(whole(ids).logits, copies(ids).logits, atol=2e-2)
    assert not torch.allclose(whole(ids).logits, whole(ids.flip(1)).logits, atol=2e-2)


@pytest.mark.slow
@pytest.mark.parametrize("flags, launcher", [(SPLIT, TWO), ((), TWO), ((), ONE)], ids=["split", "copies", "one"])
def test_a_split_run_goes_on_in_any_way(runs, flags, launcher):
    name = f"split-then-{len(flags)}-{len(launcher)}"
    shutil.copytree(runs.folder / "split", runs.folder / name)
    for gone in ("checkpoints/step-00000008", "model"):
        shutil.rmtree(runs.folder / name / gone)
    code, out, err = runs.outside(name, *FLAGS, *flags, launcher=launcher)
    assert code == 0, err
    assert "going on from" in out
    same_losses(runs, "split", name)
    if flags:
        assert differences(runs.folder / "split", runs.folder / name) == []


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["2", "4"])
@pytest.mark.parametrize("more", [(), ("--train.compile", "true")], ids=["", "compiled"])
def test_with_dropout_the_losses_of_one_process(runs, processes, more):
    """SGD, whose steps are sums: what differs is their order alone."""
    flags = (
        "--model.residual", STACK, "--model.num_hidden_layers", "4", "--train.micro_batch_size", "2",
        "--optimizer.name", "sgd", "--optimizer.learning_rate", "0.1",
        "--model.hidden_dropout", "0.1", "--model.attention_dropout", "0.1",
    )  # fmt: skip
    if not (runs.folder / "whole-sgd").exists():
        assert runs.outside("whole-sgd", *flags, launcher=ONE)[0] == 0
    name = f"split-sgd-{processes}-{len(more)}"
    code, _, err = runs.outside(name, *flags, *SPLIT, *more, launcher=(*LAUNCH, processes, "--multi_gpu"))
    assert code == 0, err
    for a, b in zip(runs.metrics("whole-sgd"), runs.metrics(name), strict=True):
        assert a["step"] == b["step"]
        for key in ("loss", "val_loss"):
            assert a.get(key, 0.0) == pytest.approx(b.get(key, 0.0), rel=1e-6)


def test_one_process_alone_is_refused(runs):
    code, _, err = runs.outside("alone", *SPLIT)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "train.shard" in err
