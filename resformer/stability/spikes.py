"""Spikes in a curve of positive values (loss, gradient norm), found while it is drawn."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

WINDOW, FEWEST, OFFSET, MERGE = 64, 20, 10, 10
RECOVERED = 2.0
SMALLEST_SCALE = 1e-3
"""Scale of the residuals below which a curve counts as noiseless, in log units: a tenth of a percent."""


@dataclass
class Event:
    """Neighbouring spikes, less than 10 steps apart.

    Attributes:
        step: of the first flagged value.
        last: of the last flagged value.
        amplitude: largest excess over the trend as it was at ``step``, in units of the value (nats for a loss).
        area: excess over that trend until recovery, in units of the value times steps.
        recovery: steps until the value was back within two scales of the trend; none if it never was.
        lead: steps by which a spike of the gradient norm came before; none if none did. Set by ``pair``.
    """

    step: int
    last: int
    amplitude: float
    area: float
    recovery: int | None = None
    lead: int | None = None


class SpikeDetector:
    """Robust, detrended, and made for short runs, where the descent itself inflates a window's standard deviation.

    In the trailing window a robust line of ``log(value)`` against ``log(step + 10)`` is fitted (Tukey's line through
    the medians of the window's halves); a value is a spike if it lies ``threshold`` scaled median absolute deviations
    of the residuals above that line. Values that are not finite and positive never enter the window: one NaN would
    blind it.

    Args:
        threshold: 8 by default; 6 is more sensitive and gives three times the false alarms.
    """

    def __init__(self, threshold: float = 8.0):
        self.threshold = threshold
        self.window: deque[tuple[int, float]] = deque(maxlen=WINDOW)
        self.events: list[Event] = []
        self.trend: tuple[float, float, float] | None = None

    def update(self, step: int, value: float) -> bool:
        """Take the value of a step, in order; whether it is a spike."""
        if not (math.isfinite(value) and value > 0):
            return False
        x, y = math.log(step + OFFSET), math.log(value)
        line = self._fit() if len(self.window) >= FEWEST else None
        spike = line is not None and y - line[0] - line[1] * x >= self.threshold * line[2]
        if spike and line is not None:
            self._flag(step, line)
        self._follow(step, value, x, y)
        self.window.append((step, y))
        return spike

    def _fit(self) -> tuple[float, float, float]:
        """Intercept, slope and scale of the window's residuals."""
        # Plain Python: for 64 numbers it takes a quarter of numpy's time.
        x, y = [math.log(step + OFFSET) for step, _ in self.window], [value for _, value in self.window]
        half = len(x) // 2
        rise = median(y[-half:]) - median(y[:half])
        slope = rise / (median(x[-half:]) - median(x[:half]))
        intercept = median(value - slope * at for at, value in zip(x, y, strict=True))
        deviation = median(abs(value - intercept - slope * at) for at, value in zip(x, y, strict=True))
        return intercept, slope, max(1.4826 * deviation, SMALLEST_SCALE)

    def _flag(self, step: int, line: tuple[float, float, float]) -> None:
        if self.events and step - self.events[-1].last < MERGE:
            self.events[-1].last = step
            return
        self.events.append(Event(step, step, 0.0, 0.0))
        self.trend = line

    def _follow(self, step: int, value: float, x: float, y: float) -> None:
        """Measure the open event against the trend at its start."""
        if self.trend is None:
            return
        event, (intercept, slope, scale) = self.events[-1], self.trend
        expected = intercept + slope * x
        excess = value - math.exp(expected)
        if y - expected <= RECOVERED * scale:
            event.recovery, self.trend = step - event.step, None
            return
        event.amplitude = max(event.amplitude, excess)
        event.area += excess

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON values; ``load_state_dict`` goes on from there as if there had been no break."""
        return {
            "window": [list(pair) for pair in self.window],
            "events": [asdict(event) for event in self.events],
            "trend": self.trend,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window = deque(((int(step), y) for step, y in state["window"]), maxlen=WINDOW)
        self.events = [Event(**event) for event in state["events"]]
        self.trend = tuple(state["trend"]) if state["trend"] else None


def pair(losses: list[Event], gradients: list[Event], within: int = 20) -> list[Event]:
    """Say of each event of the loss by how many steps an event of the gradient norm preceded it, at most ``within``."""
    for event in losses:
        leads = [event.step - other.step for other in gradients if 0 <= event.step - other.step <= within]
        event.lead = min(leads) if leads else None
    return losses


class OlmoSpikeScore:
    """Percentage of values at least seven standard deviations away from the mean of the last 1,000 values.

    OLMo 2, 2024, arXiv:2501.00656, section 3.2. Two-sided; the window holds the 1,000 finite values before the value,
    and values without a full window before them are not judged. Blind on runs of under two thousand steps.
    """

    window, deviations = 1000, 7.0

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=self.window)
        self.judged = self.flagged = 0

    def update(self, value: float) -> None:
        if not math.isfinite(value):
            return
        if len(self.values) == self.window:
            past = np.array(self.values)
            self.judged += 1
            self.flagged += bool(abs(value - past.mean()) >= self.deviations * past.std())
        self.values.append(value)

    @property
    def percent(self) -> float | None:
        """Of the values that were judged; none if there are none."""
        return 100 * self.flagged / self.judged if self.judged else None

    def state_dict(self) -> dict[str, Any]:
        return {"values": list(self.values), "judged": self.judged, "flagged": self.flagged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.values = deque(state["values"], maxlen=self.window)
        self.judged, self.flagged = state["judged"], state["flagged"]
