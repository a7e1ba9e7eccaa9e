"""Stacks compiled one after another in one process: none goes on uncompiled without a word."""

import copy
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn
from torch._dynamo.testing import CompileCounter

import resformer
from resformer import ResformerConfig, ResformerForCausalLM
from resformer.training import parse_arguments, run_config
from resformer.training.compiling import compile_blocks, decide, eager_seconds
from resformer.training.evaluation import evaluate


@pytest.fixture
def limits():
    kept = {
        name: getattr(torch._dynamo.config, name)
        for name in ("recompile_limit", "accumulated_recompile_limit", "fail_on_recompile_limit_hit")
    }
    torch._dynamo.reset()
    torch._dynamo.config.recompile_limit = 1
    yield
    torch._dynamo.reset()
    for name, value in kept.items():
        setattr(torch._dynamo.config, name, value)


def test_each_of_many_stacks_is_compiled(monkeypatch, limits):
    counter, real = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: real(module, **more, backend=counter))
    ids = torch.arange(8)[None]
    for number in range(1, 6):
        shape = {"hidden_size": 8 * number, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 8}
        model = ResformerForCausalLM(ResformerConfig(**shape))
        compile_blocks(model)
        before = counter.frame_count
        model.train()(ids, labels=ids).loss.backward()
        assert counter.frame_count > before, number


def test_a_model_of_equal_shape_reuses_what_was_compiled(monkeypatch, limits):
    """As the trials of a sweep's worker are, which differ in rate and seed."""
    counter, real = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: real(module, **more, backend=counter))
    ids, frames = torch.arange(8)[None], []
    for seed in range(3):
        torch.manual_seed(seed)
        model = ResformerForCausalLM(
            ResformerConfig(hidden_size=8, num_hidden_layers=3, num_attention_heads=2, vocab_size=8, residual="hyper")
        )
        compile_blocks(model)
        model.train()(ids, labels=ids).loss.backward()
        frames.append(counter.frame_count)
    assert frames[0] == frames[-1]


def test_a_compiled_run_of_many_blocks_ends_with_its_sample(monkeypatch, limits, tmp_path, capsys):
    """Each block has its own place in the cache, which would be a graph of its own."""
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: real(module, **more, backend=CompileCounter()))
    (tmp_path / "text.txt").write_text("To be, or not to be, that is the question.\n" * 400)
    run = resformer.train(
        {
            "run_dir": str(tmp_path / "run"), "draw": False,
            "model": {"num_hidden_layers": 12, "hidden_size": 16, "num_attention_heads": 2},
            "data": {"source": str(tmp_path / "text.txt"), "tokenizer": "bytes", "sequence_length": 32,
                     "cache_dir": str(tmp_path / "cache")},
            "train": {"max_steps": 2, "batch_size": 2, "compile": True},
        }
    )  # fmt: skip
    assert run.summary["status"] == "completed"
    assert "--- a sample ---" in capsys.readouterr().out


@pytest.mark.parametrize(("residual", "graphs"), [("hyper", 3), ("attn_res", 4)])
def test_a_size_has_graphs_of_its_own_and_what_an_evaluation_has_left_over_has_none(
    monkeypatch, limits, residual, graphs
):
    """A size that may vary is slower; of a state that grows every block is a graph, which three sizes would exceed."""
    counter, real = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: real(module, **more, backend=counter))
    shape = {"hidden_size": 8, "num_hidden_layers": 4, "num_attention_heads": 2, "vocab_size": 8}
    model = ResformerForCausalLM(ResformerConfig(**shape, residual=residual))
    uncompiled = copy.deepcopy(model)
    compile_blocks(model)
    ids = torch.arange(8)
    corpus = SimpleNamespace(validation=[{"input_ids": ids.roll(n), "shift_labels": ids.roll(n + 3)} for n in range(5)])
    for _ in range(2):
        found = evaluate(model, corpus, Accelerator(cpu=True), 2)
    assert found == pytest.approx(evaluate(uncompiled, corpus, Accelerator(cpu=True), 2))
    assert counter.frame_count == graphs
    for _ in range(2):
        model(ids[None], labels=ids[None]).loss.backward()
    assert counter.frame_count == 2 * graphs


class _Accelerator:
    def __init__(self, device: str = "cpu", precision: str = "no"):
        self.device, self.mixed_precision, self.num_processes = torch.device(device), precision, 1


def decided(keys: dict, accelerator=None) -> tuple[bool, str]:
    config = run_config(keys)
    return decide(config, config.model_config(vocab_size=2048), accelerator or _Accelerator())


@pytest.fixture
def equipped(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: name)
    monkeypatch.setattr("resformer.training.compiling.has_triton", lambda: True)


MEASURED = [  # width, blocks, sequences, their length, optimiser, precision, milliseconds of a step
    (64, 4, 4, 128, "adamw", "bf16", 38.3),
    (64, 4, 4, 128, "muon", "bf16", 48.0),
    (64, 12, 4, 128, "adamw", "bf16", 86.4),
    (128, 4, 16, 128, "adamw", "bf16", 222.1),
    (128, 4, 16, 128, "muon", "bf16", 244.9),
    (256, 4, 4, 128, "muon", "bf16", 270.5),
    (256, 4, 8, 256, "adamw", "bf16", 478.2),
    (64, 4, 4, 128, "adamw", "no", 34.5),
    (64, 4, 4, 128, "muon", "no", 47.2),
    (64, 12, 4, 128, "adamw", "no", 81.3),
    (128, 4, 16, 128, "adamw", "no", 241.6),
    (128, 4, 16, 128, "muon", "no", 263.5),
    (384, 6, 8, 256, "adamw", "bf16", 1115.3),
]
"""CPU time of one thread of an AMD EPYC with native bfloat16, a vocabulary of 257, heads of 64 (32 at width 128): the
trainer's own steps, but the last, which is the benchmark's."""


@pytest.mark.parametrize("step", MEASURED, ids=str)
def test_the_estimate_of_a_run_is_right_within_a_factor_of_one_and_a_half(step, monkeypatch):
    width, blocks, sequences, length, optimizer, precision, milliseconds = step
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    config = run_config(
        {
            "model.hidden_size": width, "model.num_hidden_layers": blocks, "data.sequence_length": length,
            "model.num_attention_heads": 4 if width == 128 else width // 64, "train.batch_size": sequences,
            "optimizer.name": optimizer, "train.max_steps": 1000,
        }
    )  # fmt: skip
    estimate = eager_seconds(config, config.model_config(vocab_size=257), _Accelerator("cpu", precision))
    assert 1 / 1.5 < estimate / milliseconds < 1.5, f"{estimate:.0f} ms"


@pytest.mark.usefixtures("equipped")
def test_auto_compiles_what_is_long_enough():
    long = {"train.max_steps": 10**6}
    assert not decided({})[0]
    assert decided(long)[0]
    assert not decided({"train.max_steps": 500}, _Accelerator("cuda"))[0]
    large = {"model.hidden_size": 1024, "model.num_hidden_layers": 24, "train.max_steps": 20_000}
    assert decided(large, _Accelerator("cuda", "bf16"))[0]
    assert "about" in decided(long)[1]


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize("residual", ["pre", "hyper", "attn_res", "mhc"])
def test_the_arms_of_a_sweep_decide_alike(residual):
    for steps in (1_000, 10_000, 100_000):
        keys = {"train.max_steps": steps}
        assert decided(keys | {"model.residual": residual}) == decided(keys | {"model.residual": "pre"})


@pytest.mark.usefixtures("equipped")
@pytest.mark.parametrize("told", [True, False])
def test_what_is_told_is_done(told):
    assert decided({"train.compile": told, "train.max_steps": 10**6}) == (told, "as told")
    assert run_config({"train.compile": told}).train.compile is told


def test_auto_does_not_compile_where_it_cannot(monkeypatch):
    long = {"train.max_steps": 10**6}
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert decided(long) == (False, "auto, there is no C++ compiler")
    assert not decided(long, _Accelerator("mps"))[0]
    assert not decided(long | {"train.gradient_checkpointing": True})[0]
    monkeypatch.setattr("resformer.training.compiling.has_triton", lambda: False)
    assert decided(long, _Accelerator("cuda")) == (False, "auto, there is no Triton")


def test_compile_is_a_flag_that_may_be_given_a_value():
    for words, value in ([], "auto"), (["--train.compile"], True), (["--train.compile", "false"], False):
        assert parse_arguments(words).train.compile == value
