"""How the chance of a false verdict is spent over the looks that are taken while seeds are added."""

from collections.abc import Sequence

from scipy import stats

DECLARED_SHARE = 0.9
"""Of alpha, for the looks that were declared; half of what is left goes to each later one that was not."""


def alpha_at(looks: Sequence[int], declared: int | None = None, alpha: float = 0.05) -> list[float]:
    """The level of each look's own tests, in the order of ``looks``; together never more than ``alpha``.

    By the union bound nothing need be known of how looks depend on each other, so it holds for t tests of a few pairs
    and for exact ones as well. The shares of the declared looks are the increments of the spending function that Lan
    and DeMets 1983 took from O'Brien and Fleming: little early, most at the end.

    Args:
        looks: numbers of seeds, ascending.
        declared: how many of them were declared before the first run; by default all.
    """
    counts, known = list(looks), len(looks) if declared is None else declared
    z = stats.norm.isf(alpha / 2)
    spent = [2 * stats.norm.sf(z / (n / counts[known - 1]) ** 0.5) for n in counts[:known]]
    levels = [DECLARED_SHARE * (now - before) for before, now in zip([0.0, *spent], spent, strict=False)]
    left = (1 - DECLARED_SHARE) * alpha
    for _ in counts[known:]:
        left /= 2
        levels.append(left)
    return [float(level) for level in levels]
