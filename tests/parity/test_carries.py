"""What each carry of ``mhc`` promises of its mixing, whatever the logits; maps in float64, streams of any size."""

import pytest
import torch
from parity_helpers import build

SIZES = [1, 2, 3, 4, 6]


def mixing(variant, n, noise=1.0):
    connection = build({"kind": "mhc", "variant": variant, "n": n}, 1, noise=noise).model.layers[0].mlp_residual
    drawn = torch.randn(2, 5, n, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 3
    return connection, connection.maps(drawn)[2]


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("variant", ["lite", "kronecker"])
def test_sums_of_permutations_are_doubly_stochastic_without_iteration(variant, n):
    _, found = mixing(variant, n)
    assert (found >= 0).all()
    for axis in (-1, -2):
        torch.testing.assert_close(found.sum(axis), torch.ones_like(found[..., 0]), atol=1e-14, rtol=0)


def test_a_kronecker_product_reaches_less_than_all_permutations():
    """Of four streams: it moves halves and quarters, and cannot turn three streams around."""
    lite, _ = mixing("lite", 4)
    kronecker, _ = mixing("kronecker", 4)
    assert (lite.weight.shape[0], kronecker.weight.shape[0]) == (8 + 24, 8 + 4)
    with torch.no_grad():
        for connection, choice in ((lite, [3]), (kronecker, [1, 2])):
            connection.bias[8:] = -50.0
            connection.bias[[8 + c for c in choice]] = 50.0
            connection.scale.zero_()
    streams = torch.randn(1, 1, 4, 16, dtype=torch.float64)
    moved = [c.maps(streams)[2].mT @ streams for c in (lite, kronecker)]
    torch.testing.assert_close(moved[0], streams[..., [0, 3, 1, 2], :])
    torch.testing.assert_close(moved[1], streams[..., [2, 3, 0, 1], :])


@pytest.mark.parametrize("n", SIZES)
def test_two_steps_are_near_the_cayley_transform(n):
    """Orthogonal to the third power of the generator, as two steps of the iteration are."""
    for noise, apart in ((0.1, 2e-5), (0.02, 2e-7)):
        _, found = mixing("orthogonal", n, noise)
        identity = torch.eye(n, dtype=torch.float64)
        torch.testing.assert_close(found @ found.mT, identity.expand_as(found), atol=apart, rtol=0)
        skew = found.mT - found
        assert n == 1 or skew.abs().max() > 1e-3
