"""In which dtype the stream travels: whatever stands beside it, a connection finds it as the embedding left it."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_helpers import BLOCKS, EVERY_KIND, MIXES, OPTIONS, build, tokens
from torch.utils._pytree import tree_leaves

CRASHED = ["plain*1,hyper*rest", "plain*1,projection*rest", "concat*2,hyper*rest", "plain*1,pre*rest", "mhc*2,concat*2"]
"""Mixes of which an earlier version lost the dtype, or raised."""
MODES = pytest.mark.parametrize("mode", ["autocast", "bfloat16"])


def assert_keeps_its_dtype(model, mode: str) -> None:
    """Forward and backward in training; float32 between all sites under autocast, bfloat16 in a bfloat16 model."""
    promised = torch.float32 if mode == "autocast" else torch.bfloat16
    model, ids, handed_on = model.to(promised).train(), tokens(), []
    for block in model.model.layers:
        for residual in block.residuals:
            residual.step = watched(residual.step, handed_on)
    with torch.autocast("cpu", torch.bfloat16, enabled=mode == "autocast"):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    assert len(handed_on) == sum(len(block.residuals) for block in model.model.layers)
    assert {x.dtype for state in handed_on for x in tree_leaves(state)} == {promised}
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


def watched(step, handed_on):
    def and_keep(state, branch):
        handed_on.append(step(state, branch))
        return handed_on[-1]

    return and_keep


@MODES
@pytest.mark.parametrize("residual", [*EVERY_KIND, *OPTIONS, *MIXES, *BLOCKS, *CRASHED], ids=str)
def test_the_stream_keeps_its_dtype(residual, mode):
    assert_keeps_its_dtype(build(residual), mode)


WHOLE_BLOCKS = ("b2t", "denseformer", "unet", "x0_mix")
anywhere = st.sampled_from([kind for kind in [*EVERY_KIND, *OPTIONS] if not kind.startswith((*WHOLE_BLOCKS, "mix_ln"))])


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.fixed_dictionaries({"attention": anywhere, "mlp": anywhere}), min_size=2, max_size=3))
def test_the_stream_keeps_its_dtype_in_any_mix(residual):
    for mode in ("autocast", "bfloat16"):
        assert_keeps_its_dtype(build(residual, num_hidden_layers=len(residual)), mode)


@pytest.mark.parametrize("residual, bias, shut", [
    ("highway", "transform.bias", -1e4), ("gru", "cell.bias_ih", 1e4), ("gtrxl", "b", 1e4),
    ("gtrxl(gate=highway)", "b", 1e4),
])  # fmt: skip
def test_a_closed_gate_passes_the_stream_whole_under_autocast(residual, bias, shut):
    connection = build(residual).model.layers[1].mlp_residual
    with torch.no_grad():
        connection.get_parameter(bias).fill_(shut)
    h = torch.randn(2, 3, 32, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        passed = connection.step(h, lambda x: x.bfloat16())
    torch.testing.assert_close(passed, h, atol=5e-7, rtol=0)  # float32 rounding, of the GRU's (h - n) + n
