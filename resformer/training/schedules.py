"""The learning rate as a pure function of the step: nothing to save, nothing to resume."""

import math
from collections.abc import Callable

from .config import ScheduleConfig


def make_schedule(config: ScheduleConfig, max_steps: int) -> Callable[[int], float]:
    """`lr_factor(step)`, the factor of the peak learning rate for the update of `step` (from 0).

    Linear warm-up over `warmup_steps` (the last of them has factor 1), then the named shape down to
    `min_lr_ratio` in the last step.
    """
    floor = config.min_lr_ratio
    start = {"wsd": max_steps - round(config.decay_fraction * max_steps)}.get(config.name, 0)
    start = max(start, config.warmup_steps)

    def lr_factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        if config.name == "constant" or step < start:
            return 1.0
        done = min(1.0, (step + 1 - start) / max(1, max_steps - start))
        fall = 0.5 * (1 + math.cos(math.pi * done)) if config.name == "cosine" else 1 - done
        return floor + (1 - floor) * fall

    return lr_factor
