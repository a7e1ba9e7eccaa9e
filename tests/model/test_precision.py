"""In which dtype the stream travels: whatever stands beside it, a connection finds it as the embedding left it."""

import pytest
import torch
from model_helpers import build, subject

from resformer.checks import CHECKS

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
