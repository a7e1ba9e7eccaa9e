"""Stacks compiled one after another in one process: none goes on uncompiled without a word."""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.training.setup import compile_blocks


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
    monkeypatch.setattr(nn.Module, "compile", lambda module: real(module, backend=counter))
    ids = torch.arange(8)[None]
    for number in range(1, 6):
        shape = {"hidden_size": 8 * number, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 8}
        model = ResformerForCausalLM(ResformerConfig(**shape))
        compile_blocks(model)
        before = counter.frame_count
        model.train()(ids, labels=ids).loss.backward()
        assert counter.frame_count > before, number
