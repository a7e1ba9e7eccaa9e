"""Learning-rate curves against values worked out by hand and by simulation."""

import numpy as np
import pytest
from scipy import stats

from resformer.sweeps import curves
from resformer.sweeps.endings import sound, with_degraded
from resformer.sweeps.results import Result
from resformer.sweeps.sensitivity import common_window, lr_sensitivity

RATES = [1e-3, 1e-2, 1e-1]
HALF = 10.0 ** np.arange(-3.5, -0.9, 0.5)


def parabola(place: float, curvature: float = 1.0) -> np.ndarray:
    return 2 + curvature * (np.log10(HALF) - place) ** 2


def test_optimum_of_a_parabola_is_its_vertex():
    losses = np.repeat(parabola(-2.17)[:, None], 2, axis=1)
    found = curves.optimum(HALF, losses, 9.0)
    assert (found.interior, found.fitted) == (True, True)
    assert (np.log10(found.rate), found.loss) == pytest.approx((-2.17, 2.0), abs=2e-3)
    assert (found.low, found.high) == pytest.approx((10**-2.17, 10**-2.17))  # nothing hides it
    assert curves.reporting_rates(found, [1, 2]) == [
        pytest.approx(10**-2.17, rel=5e-3),
        pytest.approx(2 * 10**-2.17, rel=5e-3),
    ]


def test_the_rate_s_interval_covers_and_the_regret_bounds_what_is_left():
    draw = np.random.default_rng(0)
    covered, bounded = [], []
    for _ in range(800):
        place = draw.uniform(-2.25, -1.75)
        found = curves.optimum(HALF, parabola(place)[:, None] + 0.03 * draw.standard_normal((6, 2)), 9.0)
        covered.append(found.low <= 10**place <= found.high)
        bounded.append((np.log10(found.rate) - place) ** 2 <= found.regret)
    assert np.mean(covered) > 0.93
    assert np.mean(bounded) > 0.95


def test_the_rate_s_interval_is_where_the_slope_is_not_told_from_zero():
    draw = np.random.default_rng(2)
    losses = parabola(-2.2, 0.5)[2:5, None] + 0.02 * draw.standard_normal((3, 3))
    found = curves.optimum(HALF[2:5], losses, 9.0)
    x, y = np.repeat(np.log10(HALF[2:5]), 3), losses.ravel()
    places = np.linspace(x[0], x[-1], 20_001)
    inside = []
    for v in places:  # in (x - v) the slope at v is the linear coefficient
        design = np.stack([np.ones_like(x), x - v, (x - v) ** 2], axis=1)
        fit, rest, *_ = np.linalg.lstsq(design, y, rcond=None)
        error = np.sqrt(rest[0] / (len(y) - 3) * np.linalg.inv(design.T @ design)[1, 1])
        inside.append(abs(fit[1]) <= stats.t.ppf(0.975, len(y) - 3) * error)
    told = places[np.array(inside)]
    assert np.log10([found.low, found.high]) == pytest.approx([told[0], told[-1]], abs=2e-4)
    flat = curves.optimum(HALF[2:5], [[2.01, 2.10], [2.0, 2.02], [2.10, 2.01]], 9.0)  # no curvature to be told
    assert flat.fitted
    assert (flat.low, flat.high) == pytest.approx((HALF[2], HALF[4]))


def test_next_to_a_cliff_the_rung_stays_and_its_regret_is_the_gentle_rise():
    losses = np.repeat([[2.3], [2.2], [2.1], [2.0], [3.5], [np.nan]], 2, axis=1)
    found = curves.optimum(HALF, losses, 9.0)
    assert (found.index, found.rate, found.fitted) == (3, pytest.approx(1e-2), False)
    assert found.regret >= 0.1
    assert found.off == pytest.approx(0.25)
    failed = curves.optimum(HALF, np.where(losses > 3, np.nan, losses), 9.0)
    assert (failed.index, failed.fitted, failed.regret) == (3, False, pytest.approx(0.1))


def test_at_the_edge_nothing_is_known_and_an_arm_that_never_trains_has_no_rate_to_miss():
    edge = curves.optimum(RATES, [[3.0, 3.0], [2.0, 2.0], [1.9, 1.9]], 9.0)
    assert (edge.interior, edge.rate, edge.regret, edge.off) == (False, 1e-1, np.inf, np.inf)
    assert curves.optimum(RATES, np.full((3, 2), np.nan), 9.0).off == 0.0


def test_one_tuning_seed_may_miss_by_half_a_rung():
    found = curves.optimum(HALF, parabola(-2.1)[:, None], 9.0)
    assert found.off == pytest.approx(0.25)
    assert found.regret == pytest.approx(0.0625)


def test_an_accident_does_not_move_the_optimum():
    losses = np.repeat(parabola(-2.1)[:, None], 2, axis=1)
    losses[3, 0] += 0.5
    assert np.log10(curves.optimum(HALF, losses, 9.0).rate) == pytest.approx(-2.1, abs=2e-3)


def test_degraded_is_who_ends_above_its_fellows_and_not_a_rate_that_is_too_high():
    assert sound([[2.0, 2.05, 2.1, 2.5], [3.0, 3.1, 3.0, 3.05], [2.0, np.nan, 2.0, 9.5]], 9.0).tolist() == [
        [True, True, True, False], [True] * 4, [True, False, True, False]
    ]  # fmt: skip
    runs = [Result("a", "", 1e-2, seed, loss, 9.0) for seed, loss in enumerate([2.0, 2.0, 2.5, 2.1])]
    runs.append(Result("a", "", 1e-2, 4, 5.0, 9.0, "stuck"))
    assert [run.end_state for run in with_degraded(runs)] == ["ok", "ok", "degraded", "ok", "stuck"]


def test_sensitivity_clips_failures_at_the_loss_of_initialisation_and_has_two_sides():
    losses = [[2.0] * 4, [1.0] * 4, [np.nan] * 4]
    found = lr_sensitivity(RATES, losses, 5.0, (1e-3, 1e-1))
    assert found.value.mean == pytest.approx(((2 - 1) + 0 + (5 - 1)) / 3)
    assert (found.low_side.mean, found.high_side.mean) == (pytest.approx(1 / 3), pytest.approx(4 / 3))
    assert found.value.low <= found.value.mean <= found.value.high
    few = lr_sensitivity(RATES, [row[:3] for row in losses], 5.0, (1e-3, 1e-2))
    assert (few.value.mean, few.window) == (pytest.approx(0.5), (1e-3, 1e-2))
    assert np.isnan(few.value.low)  # three seeds have no interval
    assert lr_sensitivity(RATES, losses, 5.0, (1.0, 2.0)) is None


def test_sensitivity_averages_seeds_before_it_takes_the_minimum():
    losses = np.array([[2.0, 4.0], [3.0, 2.0], [5.0, 5.0]])
    found = lr_sensitivity(RATES, losses, 6.0, (1e-3, 1e-1))
    assert found.value.mean == pytest.approx(np.mean([3.0, 2.5, 5.0]) - 2.5)
    assert found.per_seed == pytest.approx([10 / 3 - 3.0, 11 / 3 - 2.0])


def test_the_window_is_what_all_grids_share():
    assert common_window([[1e-3, 1e-2], [3e-3, 1e-1]]) == (3e-3, 1e-2)
    assert common_window([[1e-3, 1e-1]], (1e-2, 1.0)) == (1e-2, 1e-1)
    assert common_window([[1e-3], [1e-2]]) is None
    assert common_window([]) is None


def test_depth_limit_stops_at_the_first_depth_that_fails_in_any_seed():
    assert curves.depth_limit([24, 6, 12], [[True, True], [True, True], [True, False]]) == 6
    assert curves.depth_limit([6, 12], [True, True]) == 12
    assert curves.depth_limit([6, 12], [False, True]) is None
