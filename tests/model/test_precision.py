"""In which dtype the stream travels: whatever stands beside it, a connection finds it as the embedding left it."""

import pytest
import torch
from model_helpers import build, subject

from resformer.checks import CHECKS
from resformer.model.normalization import RMSNorm

CRASHED = ["plain*1,hyper*rest", "plain*1,projection*rest", "concat*2,hyper*rest", "plain*1,pre*rest", "mhc*2,concat*2"]
"""Mixes of which an earlier version lost the dtype, or raised."""


@pytest.mark.parametrize("residual", CRASHED)
def test_mixes_that_lost_their_dtype(residual):
    CHECKS["precision"](subject(residual))


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


def in_both_precisions(function, inputs):
    """Values and gradients, in float32 and under autocast."""
    found = []
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            out = function(*inputs)
        found.append([out, *torch.autograd.grad(out.sin().sum(), inputs)])
    return found


def test_a_norm_of_the_stream_is_that_of_float32_under_autocast():
    torch.manual_seed(0)
    plain, under_autocast = in_both_precisions(RMSNorm(64, eps=1e-6), [torch.randn(4, 64, requires_grad=True)])
    torch.testing.assert_close(under_autocast, plain, atol=1e-6, rtol=1e-6)


def test_attention_over_depth_is_that_of_float32_under_autocast():
    attend = build("attn_res").model.layers[1].mlp_residual.attend
    torch.manual_seed(0)
    with torch.no_grad():
        attend.query.normal_()
    sources = [torch.randn(2, 3, 32, requires_grad=True) for _ in range(4)]
    plain, under_autocast = in_both_precisions(lambda *given: attend(given), sources)
    torch.testing.assert_close(under_autocast, plain, atol=1e-6, rtol=1e-6)
