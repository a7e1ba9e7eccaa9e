"""Is an arm better or worse in loss than the baseline, whatever rung of the grid either was tuned to?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from .inference import NAN, t_estimate, t_tail


@dataclass(frozen=True)
class LossTest:
    """Of the difference of losses at the best achievable rates, arm minus baseline, in nats.

    Attributes:
        difference: mean of the paired differences as measured.
        low, high: 95 % t interval, widened by what either arm's tuning may have left.
        sd: of the paired differences.
        pairs: of seeds of which both runs are sound.
        p: two-sided; the loser is credited with the regret that its tuning may have left.
        equivalence_p: that the true difference is not inside the margin.
        allowance: the credit of whoever seems to lose.
    """

    difference: float
    low: float
    high: float
    sd: float
    pairs: int
    p: float
    equivalence_p: float
    allowance: float


def loss_test(differences: ArrayLike, our_regret: float, their_regret: float, margin: float) -> LossTest:
    """Paired t test between best achievable losses.

    Measured at rates that miss the optima, equal arms differ truly, and the more seeds the surer it is found. The loss
    at an arm's best rate lies at most its regret below what was measured. So the arm is better only if it beats the
    baseline less the baseline's regret, worse only if its loss less its own regret is above the baseline; equivalent
    (two one-sided tests, Schuirmann 1987) only if the margin holds with both.

    Args:
        differences: [pairs] of measured loss, arm minus baseline. Fewer than three say nothing: p is nan.
    """
    data = np.asarray(differences, float)
    found = t_estimate(data)
    allowance = our_regret if found.mean > 0 else their_regret
    if found.n < 3:
        return LossTest(found.mean, NAN, NAN, found.sd, found.n, NAN, NAN, allowance)
    error, df = found.sd / np.sqrt(found.n), found.n - 1
    better, worse = t_tail(-found.mean - their_regret, error, df), t_tail(found.mean - our_regret, error, df)
    farthest = max(found.mean + their_regret, -found.mean + our_regret)
    half = float(special.stdtrit(df, 0.975) * error)
    return LossTest(
        found.mean, found.mean - half - our_regret, found.mean + half + their_regret, found.sd, found.n,
        min(1.0, 2 * min(better, worse)), t_tail(margin - farthest, error, df), allowance,
    )  # fmt: skip
