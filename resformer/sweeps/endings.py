"""Which runs ended badly, and the chance of it: an outcome beside the loss, and in no mean of losses."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from ..stability.endstate import BAD_ENDS, DEGRADED
from .inference import NAN, clopper_pearson
from .results import Result


def sound(losses: ArrayLike, initial: ArrayLike, delta: float = DEGRADED) -> np.ndarray:
    """[rates, seeds] of bool: finite, below the loss at initialisation, and not degraded.

    Degraded is a run that ends more than ``delta`` nats above the lower quartile of the arm's runs at the same rate: an
    accident that its fellows did not have. A rate at which all runs end alike is too high, not unstable; that is what
    the sensitivity measures.
    """
    values = np.asarray(losses, float)
    alive = np.isfinite(values) & np.less(values, initial)
    if not values.size:
        return alive
    ordered = np.sort(np.where(alive, values, np.inf), axis=1)
    place = 0.25 * np.maximum(alive.sum(1) - 1, 0)
    lower = place.astype(int)
    upper = np.minimum(lower + 1, values.shape[1] - 1)
    below, above = (np.take_along_axis(ordered, index[:, None], 1)[:, 0] for index in (lower, upper))
    share = place - lower
    above = np.where(share > 0, above, 0.0)
    fellows = np.where(share > 0, (1 - share) * below + share * above, below)
    return alive & (np.where(alive, values, np.inf) <= fellows[:, None] + delta)


def with_degraded(results: Iterable[Result], delta: float = DEGRADED) -> list[Result]:
    """The same results, in order, with ``degraded`` for each that ended so by the rule of ``sound``."""
    results = list(results)
    cells: dict[tuple[str, str, float], list[int]] = {}
    for index, result in enumerate(results):
        cells.setdefault((result.arm, result.point, result.learning_rate), []).append(index)
    for indices in cells.values():
        runs = [results[index] for index in indices]
        losses = [np.nan if run.failed else run.val_loss for run in runs]
        for index, run, good in zip(indices, runs, sound([losses], np.inf, delta)[0], strict=True):
            if not good and not run.failed:
                results[index] = replace(run, end_state="degraded")
            elif good and run.end_state == "degraded":
                results[index] = replace(run, end_state="ok")
    return results


def ended_badly(result: Result) -> bool:
    return result.failed or result.end_state in BAD_ENDS


@dataclass(frozen=True)
class BadEnds:
    """How often the reporting runs of an arm ended badly at one rate, or by seed at any of several, with the exact 95 %
    interval of the chance, and in which end states they are. ``at`` says where in a table's words: ``x2`` is twice the
    arm's best rate."""

    at: str
    rate: float
    bad: int
    n: int
    low: float
    high: float
    end_states: dict[str, int]


def bad_ends(at: str, rate: float, runs: Iterable[Result]) -> BadEnds:
    runs = list(runs)
    states: dict[str, int] = {}
    for run in runs:
        states[run.end_state] = states.get(run.end_state, 0) + 1
    bad = sum(ended_badly(run) for run in runs)
    return BadEnds(at, rate, bad, len(runs), *clopper_pearson(bad, len(runs)), states)


def bad_seeds(totals: ArrayLike) -> BadEnds:
    """Of seeds whose ``totals`` [seeds] of bad ends over all rates are given: how many had any."""
    counts = np.asarray(totals, int)
    bad = int((counts > 0).sum())
    return BadEnds("any", NAN, bad, len(counts), *clopper_pearson(bad, len(counts)), {})
