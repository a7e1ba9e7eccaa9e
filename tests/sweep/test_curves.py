"""Learning-rate curves against values worked out by hand."""

import numpy as np
import pytest

from resformer.sweeps import curves

RATES = [1e-3, 1e-2, 1e-1]


def test_sensitivity_clips_failures_at_the_loss_of_initialisation():
    losses = [[2.0], [1.0], [np.nan]]
    found = curves.lr_sensitivity(RATES, losses, 5.0)
    assert found.value == pytest.approx(((2 - 1) + 0 + (5 - 1)) / 3)
    assert (found.best, found.window) == (1.0, (1e-3, 1e-1))
    assert curves.lr_sensitivity(RATES, [[2.0], [1.0], [np.inf]], 5.0).value == found.value
    assert curves.lr_sensitivity(RATES, [[2.0], [1.0], [9.0]], 5.0).value == found.value


def test_sensitivity_averages_seeds_before_it_takes_the_minimum():
    losses = np.array([[2.0, 4.0], [3.0, 2.0], [5.0, 5.0]])
    found = curves.lr_sensitivity(RATES, losses, 6.0)
    assert found.value == pytest.approx(np.mean([3.0, 2.5, 5.0]) - 2.5)
    assert found.per_seed.mean() == pytest.approx(found.value)
    assert found.per_seed == pytest.approx([10 / 3 - 3.0, 11 / 3 - 2.0])


def test_sensitivity_in_a_window_and_of_a_flat_curve():
    assert curves.lr_sensitivity(RATES, [[2.0], [1.0], [7.0]], 9.0, (1e-3, 1e-2)).value == pytest.approx(0.5)
    assert curves.lr_sensitivity(RATES, np.full((3, 2), 3.0), 9.0).value == 0
    with pytest.raises(ValueError, match="window"):
        curves.lr_sensitivity(RATES, [[2.0], [1.0], [7.0]], 9.0, (1.0, 2.0))


def test_centred_sensitivity_moves_with_the_optimum_and_the_plain_one_does_not():
    rates = 10.0 ** np.arange(-5, 2.01, 0.5)
    bowl = [[min(9.0, 1 + (x + 2) ** 2)] for x in np.log10(rates)]
    shifted = [[min(9.0, 1 + (x + 1) ** 2)] for x in np.log10(rates)]
    by_hand = np.mean([j**2 / 4 for j in range(-2, 4)])
    assert curves.centred_lr_sensitivity(rates, bowl, 9.0) == pytest.approx(by_hand)
    assert curves.centred_lr_sensitivity(rates, shifted, 9.0) == pytest.approx(by_hand)
    window = (1e-4, 1e-1)
    plain = [curves.lr_sensitivity(rates, losses, 9.0, window).value for losses in (bowl, shifted)]
    assert plain[1] > plain[0] + 1
    assert curves.centred_lr_sensitivity(RATES, [[2.0], [1.0], [7.0]], 9.0) is None


def test_optimum_of_a_parabola_is_its_vertex():
    rates = 10.0 ** np.array([-3, -2.5, -2, -1.5])
    losses = [[2 + 0.3 * (np.log10(rate) + 2.37) ** 2] for rate in rates]
    found = curves.optimum(rates, losses, 9.0)
    assert (found.index, found.interior) == (1, True)
    assert (np.log10(found.fitted_rate), found.fitted_loss) == pytest.approx((-2.37, 2.0))


def test_optimum_trusts_no_parabola_through_a_failure_or_at_the_edge():
    failed = curves.optimum(RATES, [[2.0], [1.9], [np.nan]], 8.0)
    assert (failed.fitted_rate, failed.fitted_loss, failed.interior) == (1e-2, 1.9, True)
    edge = curves.optimum(RATES, [[3.0], [2.0], [1.9]], 8.0)
    assert (edge.interior, edge.rate, edge.fitted_loss) == (False, 1e-1, 1.9)


def test_largest_stable_rate_needs_every_seed_and_a_loss_near_the_best():
    losses = [[2.1, 2.0], [1.9, 1.9], [2.0, np.nan]]
    assert curves.largest_stable_rate(RATES, losses, 5.0) == 1e-2
    assert curves.largest_stable_rate(RATES, [[2.1], [1.9], [2.05]], 5.0) == 1e-1
    assert curves.largest_stable_rate(RATES, [[2.1], [1.9], [2.05]], 5.0, delta=0.1) == 1e-2
    assert curves.largest_stable_rate(RATES, [[2.1], [1.9], [2.05]], 5.0, [[False], [False], [True]]) == 1e-2
    assert curves.largest_stable_rate(RATES, [[np.nan]] * 3, 5.0) is None
    assert curves.headroom(1e-1, 1e-2) == pytest.approx(1.0)
    assert curves.headroom(None, 1e-2) is None


def test_depth_limit_stops_at_the_first_depth_that_fails_in_any_seed():
    assert curves.depth_limit([24, 6, 12], [[True, True], [True, True], [True, False]]) == 6
    assert curves.depth_limit([6, 12], [True, True]) == 12
    assert curves.depth_limit([6, 12], [False, True]) is None
