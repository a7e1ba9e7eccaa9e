"""Intervals and tests against SciPy, closed forms and simulation."""

import numpy as np
import pytest
from scipy import stats

from resformer.sweeps.inference import clopper_pearson, event_rate, holm, t_estimate, t_estimate_of_sound
from resformer.sweeps.looks import alpha_at
from resformer.sweeps.loss_test import loss_test
from resformer.sweeps.stability_test import difference_bounds, equivalence_p, more_often_p, stability_p


@pytest.mark.parametrize("spread", [0.05, 0.1, 0.2])
def test_the_interval_of_sound_runs_knows_of_the_runs_that_were_cut(spread):
    runs = np.random.default_rng(1).normal(2.0, spread, 400_000)
    kept = runs[runs <= np.quantile(runs, 0.25) + 0.2]
    cut, whole = t_estimate_of_sound(kept, 0.2), t_estimate(kept)
    assert cut.mean == whole.mean
    assert (cut.high - cut.low) / (whole.high - whole.low) == pytest.approx(spread / whole.sd, rel=0.02)
    assert cut.high - cut.mean == pytest.approx(cut.mean - cut.low)


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


def test_without_regret_the_loss_test_is_the_paired_t_test_and_two_one_sided_tests_of_scipy():
    data = np.random.default_rng(1).normal(0.002, 0.004, 6)
    found, plain = loss_test(data, 0.0, 0.0, 0.01), stats.ttest_1samp(data, 0)
    assert found.p == pytest.approx(plain.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(plain.confidence_interval(0.95)))
    lower = stats.ttest_1samp(data, -0.01, alternative="greater").pvalue
    upper = stats.ttest_1samp(data, 0.01, alternative="less").pvalue
    assert found.equivalence_p == pytest.approx(max(lower, upper))


def test_whoever_loses_is_credited_with_its_own_regret_only():
    worse = 0.1 + np.random.default_rng(2).normal(0, 0.01, 6)
    plain = loss_test(worse, 0.0, 0.0, 0.01)
    assert loss_test(worse, 0.0, 5.0, 0.01).p == pytest.approx(plain.p)
    credited = loss_test(worse, 0.09, 0.0, 0.01)
    assert credited.p > 0.05 > plain.p
    assert credited.low == pytest.approx(plain.low - 0.09)
    assert loss_test(worse, np.inf, 0.0, 0.01).p == 1.0  # tuned at the edge of its grid
    assert loss_test(-worse, np.inf, 0.0, 0.01).p == pytest.approx(plain.p)  # better even so
    assert np.isnan(loss_test(worse[:2], 0.0, 0.0, 0.01).p)


def test_holm_by_hand_and_with_members_that_are_not_tested_yet():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    adjusted = holm([0.02, float("nan"), 0.5])
    assert adjusted[[0, 2]] == pytest.approx([0.06, 1.0])  # declared, so it counts
    assert np.isnan(adjusted[1])


def test_holm_keeps_the_family_error_under_the_null():
    p = np.random.default_rng(3).uniform(size=(4000, 8))
    assert np.mean([holm(row).min() < 0.05 for row in p]) < 0.06


def test_the_test_of_bad_ends_is_scipy_s_permutation_test_and_fisher_s_for_one_rate():
    a, b = np.array([2, 1, 0, 2, 1]), np.array([0, 0, 1, 0, 0])
    theirs = stats.permutation_test(
        (a, b), lambda x, y: x.sum() - y.sum(), alternative="greater", n_resamples=np.inf
    ).pvalue
    assert more_often_p(a, b) == pytest.approx(theirs)
    table = [[4, 1], [1, 4]]
    fisher = stats.fisher_exact(table, alternative="greater").pvalue
    assert more_often_p([1, 1, 1, 1, 0], [0, 0, 0, 1, 0]) == pytest.approx(fisher)
    assert more_often_p(b, a) == 1.0
    assert np.isnan(more_often_p([], b))


def test_a_best_rate_that_is_not_known_is_made_up_for_by_a_multiple():
    cliff = np.zeros((3, 8), bool)
    cliff[2] = True  # fails at four times its rate
    calm = np.zeros((3, 8), bool)
    multiples = (1.0, 2.0, 4.0)
    assert stability_p(cliff, calm, multiples, 0.05) < 0.001
    assert stability_p(cliff, calm, multiples, 0.2) == 1.0  # may have been tuned too high
    cliff[1] = True
    assert stability_p(cliff, calm, multiples, 0.2) < 0.001
    assert stability_p(cliff, calm, multiples, 0.9) == 1.0
    assert stability_p(cliff, calm, multiples, np.inf) == 1.0


def test_bounds_of_a_difference_of_chances_hold_and_equivalence_inverts_them():
    low, high = difference_bounds((0, 0), (8, 8))
    assert low == -high
    margin = 0.3
    p = equivalence_p((0, 1), (30, 30), margin)
    assert max(map(abs, difference_bounds((0, 1), (30, 30), 2 * p))) == pytest.approx(margin, abs=1e-6)
    assert equivalence_p((0, 8), (8, 8), margin) == 1.0
    assert equivalence_p((0, 0), (0, 8), margin) == 1.0
    draws = np.random.default_rng(4).binomial(8, [0.3, 0.1], (2000, 2))
    held = [low <= 0.2 <= high for low, high in (difference_bounds(tuple(d), (8, 8)) for d in draws.tolist())]
    assert np.mean(held) > 0.95


def test_clopper_pearson_of_no_failure_in_three():
    assert clopper_pearson(0, 3) == (0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_interval_of_events_is_garwood_s_where_runs_are_alike_and_holds_where_they_differ():
    low, high = event_rate([1, 1, 1, 1], 0.5)
    assert stats.poisson.sf(3, 2 * low) == pytest.approx(0.025)
    assert stats.poisson.cdf(4, 2 * high) == pytest.approx(0.025)
    assert event_rate([0, 0], 0.5) == (0.0, pytest.approx(-np.log(0.025)))
    assert event_rate([], 1.0) == (0.0, np.inf)


@pytest.mark.parametrize("runs", [4, 8])
@pytest.mark.parametrize("shape", [1.0, 3.0, 1e6])
def test_interval_of_events_covers_when_runs_differ(runs, shape):
    draw = np.random.default_rng(int(runs + shape))
    rates = draw.gamma(shape, 5.0 / shape, (1500, runs))  # negative binomial; the last shape is Poisson
    held = [low <= 5.0 <= high for low, high in (event_rate(draw.poisson(row), 1.0) for row in rates)]
    assert np.mean(held) > 0.93


def test_looks_spend_alpha_late_and_never_more_than_there_is():
    assert alpha_at([8]) == [pytest.approx(0.045)]
    levels = alpha_at([4, 6, 8, 10, 12], declared=3)
    assert levels[0] < levels[1] < levels[2]
    assert sum(levels[:3]) == pytest.approx(0.045)
    assert levels[3:] == [pytest.approx(0.0025), pytest.approx(0.00125)]
    assert sum(levels) < 0.05
