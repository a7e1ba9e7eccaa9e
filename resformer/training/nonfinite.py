"""What is done about a batch whose loss or gradient is not finite. It is never stepped on."""

from typing import Literal

from .checkpoints import Progress
from .config import TrainConfig

SKIPS_IN_A_ROW = 20


def answer(train: TrainConfig, progress: Progress) -> Literal["skip", "rollback", "stop"]:
    """What ``train.on_nonfinite`` means for a run that stands at ``progress``.

    Where it has not helped (``max_rollbacks`` used up, or 20 updates skipped in a row) the run counts as diverged, and
    ``train.on_divergence`` decides: stop, or skip this batch too.
    """
    if train.on_nonfinite == "skip" and progress.skipped_in_a_row < SKIPS_IN_A_ROW:
        return "skip"
    if train.on_nonfinite == "rollback" and progress.rollbacks < train.max_rollbacks:
        return "rollback"
    return "skip" if train.on_nonfinite != "stop" and train.on_divergence == "continue" else "stop"


def pass_over(failed: Progress, restored: Progress) -> Progress:
    """Go on from ``restored`` without the batches that led from there to ``failed``, its next one included.

    The practice of PaLM (Chowdhery et al. 2022, arXiv:2204.02311): go back to before the failure and leave out the
    batches around it. Weights, optimiser and schedule are those of the checkpoint; only the data moves on.
    """
    restored.batches_passed_over = failed.batch + 1 - restored.step
    restored.rollbacks = failed.rollbacks + 1
    restored.seconds = failed.seconds
    return restored
