"""How a run ended, in five exclusive words, and the watch that follows loss and gradient step by step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Literal

from .spikes import OlmoSpikeScore, SpikeDetector, pair

EndState = Literal["ok", "spiked-recovered", "degraded", "stuck", "diverged"]
END_STATES: tuple[EndState, ...] = ("ok", "spiked-recovered", "degraded", "stuck", "diverged")
FAILED: tuple[EndState, ...] = ("stuck", "diverged")
"""Of a run that has learned nothing worth comparing."""
BAD_ENDS: tuple[EndState, ...] = ("degraded", *FAILED)
"""What the chance of a bad end counts."""

DEGRADED = 0.2
"""Nats above its fellows of a sweep at which a run counts as degraded; a run alone never does."""
STUCK = 0.1
"""Nats within which a loss counts as the unigram entropy."""
JUMP = 1.0
"""Nats above the running minimum that count as divergence when they last."""
LAST_SHARE = 0.05
EMA = 0.9
LONG = 5000
"""Steps from which the OLMo 2 score means something."""


class StabilityWatch:
    """Follows every optimiser step of a run.

    Divergence is a loss or gradient that is not finite at the end (in the last 5 % of the steps), or a smoothed loss
    (exponential average, 0.9) that ends above the loss at initialisation, or lies more than 1 nat above its own minimum
    through the last 5 % of the steps. A value that is not finite earlier, and was got over, counts as a spike; so does
    a rollback (``rollbacks``, told by the run: what led to it is not among its steps any more).

    Args:
        max_grad_norm: where gradients are clipped, for the clip rate; 0 where they are not.
        untrained: the least that counts as the loss at initialisation, of a run that starts from trained weights.
    """

    def __init__(self, max_grad_norm: float = 0.0, untrained: float = 0.0):
        self.max_grad_norm, self.untrained = max_grad_norm, untrained
        self.loss, self.gradient = SpikeDetector(), SpikeDetector()
        self.loss_score, self.gradient_score = OlmoSpikeScore(), OlmoSpikeScore()
        self.steps = self.clipped = self.loss_spikes = self.gradient_spikes = 0
        self.initial: float | None = None
        self.smoothed: float | None = None
        self.lowest: float | None = None
        self.high_since: int | None = None
        self.not_finite: list[int] = []
        self.rollbacks = 0
        self.last_step = 0

    def update(self, step: int, loss: float, grad_norm: float) -> bool:
        """Take a step's training loss (nats) and gradient norm before clipping; whether either is a spike."""
        self.steps, self.last_step = self.steps + 1, step
        self.clipped += bool(self.max_grad_norm and grad_norm > self.max_grad_norm)
        loss_spikes, gradient_spikes = self.loss.update(step, loss), self.gradient.update(step, grad_norm)
        self.loss_spikes += loss_spikes
        self.gradient_spikes += gradient_spikes
        self.loss_score.update(loss)
        self.gradient_score.update(grad_norm)
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self.not_finite.append(step)
        if math.isfinite(loss):
            self._smooth(step, loss)
        return loss_spikes or gradient_spikes

    def _smooth(self, step: int, loss: float) -> None:
        self.initial = max(loss, self.untrained) if self.initial is None else self.initial
        self.smoothed = loss if self.smoothed is None else EMA * self.smoothed + (1 - EMA) * loss
        self.lowest = self.smoothed if self.lowest is None else min(self.lowest, self.smoothed)
        if self.smoothed <= min(self.lowest + JUMP, self.initial):
            self.high_since = None
        elif self.high_since is None:
            self.high_since = step

    @property
    def divergence_step(self) -> int | None:
        """The first step of the end that was not finite, or of the excursion that never ended; none if none."""
        at_the_end = [step for step in self.not_finite if step > (1 - LAST_SHARE) * self.last_step]
        if at_the_end:
            return at_the_end[0]
        if self.high_since is None or self.smoothed is None or self.initial is None or self.lowest is None:
            return None
        lasted = self.last_step - self.high_since + 1 >= max(1.0, LAST_SHARE * self.last_step)
        if self.smoothed > self.initial or (self.smoothed > self.lowest + JUMP and lasted):
            return self.high_since
        return None

    @property
    def clip_rate(self) -> float | None:
        """Share of the steps whose gradient was clipped."""
        return self.clipped / self.steps if self.max_grad_norm and self.steps else None

    def clip_coefficient(self, grad_norm: float) -> float | None:
        """What clipping multiplies a gradient of this norm by, at most 1."""
        return min(1.0, self.max_grad_norm / grad_norm) if self.max_grad_norm and grad_norm > 0 else None

    def summary(self, val_loss: float | None, unigram_entropy: float) -> dict[str, Any]:
        """What summary.json says of stability.

        Args:
            val_loss: final held-out loss in nats per token, or none for a run that did not get there.
            unigram_entropy: of the corpus, in nats per token.
        """
        long = self.steps >= LONG
        return {
            "end_state": end_state(val_loss, unigram_entropy, self),
            "divergence_step": self.divergence_step,
            "initial_loss": self.initial,
            "spikes": {
                "loss": [asdict(event) for event in pair(self.loss.events, self.gradient.events)],
                "grad_norm": [asdict(event) for event in self.gradient.events],
                "not_finite": self.not_finite,
                "loss_events_per_1000_steps": 1000 * len(self.loss.events) / max(1, self.steps),
                "grad_norm_events_per_1000_steps": 1000 * len(self.gradient.events) / max(1, self.steps),
                "olmo2_score_loss_percent": self.loss_score.percent if long else None,
                "olmo2_score_grad_norm_percent": self.gradient_score.percent if long else None,
            },
            "clip_rate": self.clip_rate,
        }

    _PLAIN = ("steps", "clipped", "loss_spikes", "gradient_spikes", "initial", "smoothed", "lowest", "high_since",
              "not_finite", "rollbacks", "last_step")  # fmt: skip
    _PARTS = ("loss", "gradient", "loss_score", "gradient_score")

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = {name: getattr(self, name).state_dict() for name in self._PARTS}
        return {name: getattr(self, name) for name in self._PLAIN} | parts

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in self._PLAIN:
            setattr(self, name, state[name])
        for name in self._PARTS:
            getattr(self, name).load_state_dict(state[name])


def end_state(val_loss: float | None, unigram_entropy: float, watch: StabilityWatch) -> EndState | None:
    """The first that holds: diverged, stuck (within 0.1 nat of the unigram entropy, or above), spiked-recovered (the
    loss had a spike, or the run rolled back), ok; none for a run that did not get to its final held-out loss and did
    not diverge. Degraded is a run beside others, which a sweep says. All losses in nats per token."""
    if watch.divergence_step is not None or (val_loss is not None and not math.isfinite(val_loss)):
        return "diverged"
    if val_loss is None:
        return None
    if val_loss >= unigram_entropy - STUCK:
        return "stuck"
    return "spiked-recovered" if watch.loss.events or watch.not_finite or watch.rollbacks else "ok"


def end_state_of(summary: Mapping[str, Any], losses: Iterable[float] = ()) -> EndState | None:
    """What a run's ``summary.json`` says of its end; where it says nothing, what its training losses, in order, show.

    Returns:
        None for a run that did not end.
    """
    if summary.get("end_state") is not None:
        return summary["end_state"]
    if summary["status"] != "completed":
        return "diverged" if summary["status"] == "diverged" else None
    watch = StabilityWatch()
    for step, loss in enumerate(losses, 1):
        watch.update(step, loss, 1.0)
    val_loss = summary.get("val_loss")
    return end_state(math.nan if val_loss is None else val_loss, summary["unigram_entropy"], watch)
