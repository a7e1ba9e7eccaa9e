"""Intervals and tests against SciPy, closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats

from resformer.sweeps.inference import holm, minimum_detectable_difference, poisson_rate, t_estimate, tost, wilson


def test_paired_t_equals_scipy():
    a, b = np.random.default_rng(0).normal([[0.3], [0.0]], 1.0, (2, 5))
    ours, theirs = t_estimate(a - b), stats.ttest_rel(a, b)
    interval = theirs.confidence_interval(0.95)
    assert (ours.p, ours.low, ours.high) == pytest.approx((theirs.pvalue, interval.low, interval.high))
    assert (ours.n, ours.sd) == (5, pytest.approx(np.std(a - b, ddof=1)))


def test_one_seed_says_nothing_and_equal_runs_say_no_difference():
    assert np.isnan(t_estimate([0.4]).p)
    assert t_estimate([0.4]).mean == 0.4
    assert (t_estimate([0.0, 0.0, 0.0]).p, t_estimate([1.0, 1.0]).p) == (1.0, 0.0)


@pytest.mark.parametrize("n", [3, 5, 10])
def test_intervals_cover_as_often_as_they_say(n):
    draws = np.random.default_rng(n).normal(0.7, 2.0, (4000, n))
    covered = np.mean([e.low <= 0.7 <= e.high for e in map(t_estimate, draws)])
    assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 4000))


def test_tost_equals_two_one_sided_tests_of_scipy():
    differences = np.random.default_rng(1).normal(0.002, 0.004, 6)
    lower = stats.ttest_1samp(differences, -0.01, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, 0.01, alternative="less").pvalue
    assert tost(differences, 0.01) == pytest.approx(max(lower, upper))
    assert tost([0.0, 0.0], 0.01) == 0.0
    assert tost([0.02, 0.02], 0.01) == 1.0


def test_tost_says_equivalent_at_the_margin_no_more_often_than_five_percent():
    draws = np.random.default_rng(2).normal(0.01, 0.004, (4000, 4))
    said = np.mean([tost(d, 0.01) < 0.05 for d in draws])
    assert said == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / 4000))


def test_holm_by_hand_and_with_untested_members():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.02, float("nan"), 0.5])
    assert adjusted[[0, 2]] == pytest.approx([0.04, 0.5])
    assert np.isnan(adjusted[1])


def test_holm_keeps_the_family_error_under_the_null():
    p = np.random.default_rng(3).uniform(size=(4000, 8))
    assert np.mean([holm(row).min() < 0.05 for row in p]) < 0.06


# For differences with the runs' own standard deviation (a correlation of 0.5 within pairs), in units of it.
@pytest.mark.parametrize(("n", "multiple"), [(2, None), (3, 3.3), (5, 1.7), (8, 1.2), (10, 1.0)])
def test_smallest_detectable_difference_has_its_power(n, multiple):
    smallest = minimum_detectable_difference(1.0, n)
    if multiple:
        assert smallest == pytest.approx(multiple, abs=0.07)
    draws = np.random.default_rng(n).normal(smallest, 1.0, (4000, n))
    assert np.mean([t_estimate(d).p < 0.05 for d in draws]) == pytest.approx(0.8, abs=0.03)


def test_wilson_interval_of_no_failure_in_three():
    low, high = wilson(0, 3)
    z2 = stats.norm.ppf(0.975) ** 2
    assert (low, high) == pytest.approx((0.0, z2 / (3 + z2)))
    assert high == pytest.approx(0.56, abs=0.005)


def test_poisson_interval_inverts_the_distribution():
    low, high = poisson_rate(4, 2.0)
    assert stats.poisson.sf(3, 2 * low) == pytest.approx(0.025)
    assert stats.poisson.cdf(4, 2 * high) == pytest.approx(0.025)
    assert poisson_rate(0, 1.0) == (0.0, pytest.approx(-np.log(0.025)))
