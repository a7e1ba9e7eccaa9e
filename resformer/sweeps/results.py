"""What an analysis is given: the finished runs, and what was declared before the first of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..ranges import within
from ..stability.endstate import DEGRADED, FAILED


@dataclass(frozen=True)
class Result:
    """A finished run. ``val_loss`` (nats per token) is nan where it diverged, ``initial_loss`` is the one before the
    first update, ``end_state`` one of ``END_STATES``."""

    arm: str
    point: str
    learning_rate: float
    seed: int
    val_loss: float
    initial_loss: float
    end_state: str = "ok"

    @property
    def failed(self) -> bool:
        return self.end_state in FAILED or not np.isfinite(self.val_loss)

    @property
    def clipped(self) -> float:
        """``min(val_loss, initial_loss)``, and the latter where the loss is not finite."""
        return min(self.val_loss, self.initial_loss) if np.isfinite(self.val_loss) else self.initial_loss


@dataclass(frozen=True)
class Statistics:
    """Declared before the first run."""

    margin: float = within(1e-9, 10**6, 0.01)
    """Smallest difference of interest in nats per token; inside it two arms are equivalent."""
    stability_margin: float = within(1e-9, 1 - 1e-9, 0.25)
    """Smallest difference of interest in the chance that a seed ends badly; inside it two arms are as stable."""
    delta: float = within(1e-9, 10**6, DEGRADED)
    """Nats above the lower quartile of an arm's runs at the same rate at which a run counts as degraded."""
    window: tuple[float, float] | None = within(0, 10**6, None)
    """Learning rates over which the sensitivity is the mean; by default all of the grid."""
    alpha: float = within(1e-9, 1 - 1e-9, 0.05)
    """Chance of one false verdict in the sweep."""


@dataclass(frozen=True, kw_only=True)
class Rules(Statistics):
    """What was declared before the first run: who is compared with whom, on which seeds, and what matters."""

    arms: Sequence[str]
    points: Sequence[str]
    baseline: str
    tuning_seeds: Sequence[int]
    reporting_seeds: Sequence[int]
    """In the order in which they are added: a look takes the first of them."""
    a_a_control: str | None = None
    """The baseline under another name."""
    positive_control: str | None = None
    """An arm known to break."""
    positive_control_points: Sequence[str] | None = None
    """Where it is known to break; by default anywhere."""
    sensitivity_control: str | None = None
    """The baseline with a few per cent fewer steps: shows what a small difference looks like."""
    multiples: Sequence[float] = (1.0, 2.0, 4.0)
    """Of the best rate, at which the reporting seeds run; the first is 1."""
    common: Sequence[float] = ()
    """Rates at which the reporting seeds of all arms run as well. Where there are any, stability is asked there."""
    looks: Sequence[int] = ()
    """Numbers of reporting seeds at which verdicts are given, ascending; by default all of them, once."""
    declared_looks: int | None = None
    """How many of the looks were declared before the first run; by default all."""
    taken: int | None = None
    """How many of the looks are asked for; by default all."""
    equal_time: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By arm and point: the baseline trained for as long as the arm takes, under the name its results have."""

    @property
    def all_looks(self) -> list[int]:
        return list(self.looks) or [len(self.reporting_seeds)]

    @property
    def reached(self) -> list[int]:
        """The looks that the reporting seeds so far suffice for; more may be declared."""
        return [n for n in self.all_looks[: self.taken] if n <= len(self.reporting_seeds)]

    def until(self, look: int) -> "Rules":
        """As they were when the first ``look`` looks had been taken; what each of them spends is as declared."""
        return replace(self, reporting_seeds=self.reporting_seeds[: self.all_looks[look - 1]], taken=look)

    @property
    def controls(self) -> tuple[str, ...]:
        named = (self.a_a_control, self.positive_control, self.sensitivity_control)
        return tuple(arm for arm in named if arm is not None)

    @property
    def companions(self) -> set[str]:
        """The baseline trained for longer, by name."""
        return set(self.equal_time.values())

    @property
    def compared(self) -> list[str]:
        """The arms whose verdicts are corrected for their number: all but the baseline, the controls and companions."""
        beside = {self.baseline, *self.controls, *self.companions}
        return [arm for arm in self.arms if arm not in beside]

    def at_best_only(self, arm: str) -> bool:
        """Two of the controls answer at the best rate alone, and the baseline trained for longer."""
        return arm in (self.positive_control, self.sensitivity_control) or arm in self.companions

    def multiples_of(self, arm: str) -> Sequence[float]:
        return self.multiples[:1] if self.at_best_only(arm) else self.multiples

    def common_of(self, arm: str) -> Sequence[float]:
        return () if self.at_best_only(arm) else self.common
