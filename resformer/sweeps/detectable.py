"""What a design can find: the smallest difference that its own rule, multiplicity included, finds with power 0.8."""

import math
from functools import lru_cache

from scipy import optimize, special

from .inference import NAN
from .looks import alpha_at
from .results import Rules

POWER = 0.8
ENOUGH = 4.0
"""Standard deviations of a paired difference: a design that finds only larger ones has too few seeds."""


def detectable_difference(sd: float, n: int, level: float, allowance: float = 0.0, power: float = POWER) -> float:
    """Nats of true difference that a paired t test on ``n`` pairs at the two-sided ``level`` finds with ``power``.

    Args:
        sd: of the paired differences.
        level: after multiplicity.
        allowance: what the loser is credited with before the test.
    """
    if n < 2 or not math.isfinite(sd) or not 0 < level < 1:
        return NAN
    return _effect(n, level, power) * sd + allowance


@lru_cache(4096)
def _effect(n: int, level: float, power: float) -> float:
    """In standard deviations. The noncentral t is that of the true sign; the chance of the wrong one is nil here."""
    critical = float(special.stdtrit(n - 1, 1 - level / 2))

    def shortfall(effect: float) -> float:
        return 1 - power - float(special.nctdtr(n - 1, effect * n**0.5, critical))

    largest = 1.0
    while shortfall(largest) < 0:
        largest *= 2
    return float(optimize.brentq(shortfall, 0.0, largest))


def smallest_p(n: int) -> float:
    """Of the exact test of stability on ``n`` seeds an arm: all of the one's seeds end badly, none of the other's."""
    return 2 / math.comb(2 * n, n)


def family_size(rules: Rules) -> int:
    """Loss and stability of each arm at each point, and its loss at equal time where that was declared."""
    return 2 * len(rules.compared) * len(rules.points) + len(rules.equal_time)


def design_warnings(rules: Rules) -> list[str]:
    """What the design cannot answer, one sentence each with what would suffice; empty for one that can."""
    size = family_size(rules)
    if not size:
        return []
    n = rules.all_looks[-1]
    levels = alpha_at(rules.all_looks, rules.declared_looks, rules.alpha)
    level = levels[-1] / size
    found = []
    if smallest_p(n) > level:
        enough = next(k for k in range(n, 1000) if smallest_p(k) <= level)
        found.append(
            f"{n} reporting seeds cannot tell arms apart in stability: with {size} comparisons the exact test needs "
            f"{enough} seeds, or fewer arms or points"
        )
    if n < 2 or _effect(n, level, POWER) > ENOUGH:
        enough = next(k for k in range(max(n, 2), 1000) if _effect(k, level, POWER) <= ENOUGH)
        now = f"only differences above {_effect(n, level, POWER):.1f} standard deviations" if n > 1 else "none"
        found.append(
            f"{n} reporting seeds find {now} of a paired difference of loss with power {POWER:g} over {size} "
            f"comparisons: {enough} seeds find {_effect(enough, level, POWER):.1f}"
        )
    if len(rules.tuning_seeds) < 2:
        found.append(
            "one tuning seed says nothing of how well a best rate is known, and verdicts allow half a rung for it: "
            "two tuning seeds suffice"
        )
    return found
