"""Where a sweep stands, as the files of its trials say."""

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from .analysis import Analysis, analyse
from .config import parse_sweep
from .endings import with_degraded
from .outcomes import Outcome, TornTrial, read_outcome, set_aside
from .provenance import Facts, agreed, differences, of_a_trial, recorded
from .results import Result
from .trials import Sweep, Trial
from .wanted import wanted


@dataclass
class State:
    """Where a sweep stands.

    Attributes:
        trials: wanted, as far as is known.
        outcomes: of those that are finished.
        running: since when, on the clock of ``time.perf_counter``.
        failed: given up in this session, each with the reason.
        first: what the sweep's first trial ran on.
        exit_code: of the session: 0 all is done, 1 trials were given up, 130 or 143 interrupted.
        overhead: share of this session's worker time that no trial used.
    """

    sweep: Sweep
    trials: list[Trial] = field(default_factory=list)
    outcomes: dict[Trial, Outcome] = field(default_factory=dict)
    running: dict[Trial, float] = field(default_factory=dict)
    failed: dict[Trial, str] = field(default_factory=dict)
    attempts: dict[Trial, int] = field(default_factory=dict)
    first: Facts = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    exit_code: int = 0
    trial_seconds: float = 0.0
    overhead: float | None = None

    @property
    def results(self) -> list[Result]:
        return with_degraded((outcome.result for outcome in self.outcomes.values()), self.sweep.config.statistics.delta)

    @property
    def differing(self) -> dict[Trial, list[str]]:
        """The finished trials that ran on something else than the first, and what, in words."""
        found = {trial: [words for facts in outcome.facts for words in differences(facts, self.first)]
                 for trial, outcome in self.outcomes.items()}  # fmt: skip
        return {trial: words for trial, words in found.items() if words}

    @property
    def waiting(self) -> list[Trial]:
        busy = self.outcomes.keys() | self.running.keys() | self.failed.keys()
        return [trial for trial in self.trials if trial not in busy]

    def plan(self) -> None:
        self.trials = wanted(self.sweep, self.results, self.failed)

    def analysis(self) -> Analysis:
        """At every declared look that is complete. A verdict that rests on trials which ran on different things says
        so in its reason."""
        found = analyse(self.results, self.sweep.rules())
        differing = self.differing
        for row in found.rows:
            cells = {(row.arm, row.point), (self.sweep.config.controls.baseline, row.point)}
            mixed = [words[0] for trial, words in differing.items() if (trial.arm, trial.point) in cells]
            if mixed:
                note = f"mixes {len(mixed)} runs on something else ({', '.join(sorted(set(mixed)))})"
                for comparison in row.comparisons:
                    comparison.reason = "; ".join(words for words in (comparison.reason, note) if words)
        return found

    def read(self, trial: Trial, set_torn_aside: bool) -> None:
        """Take what a trial's files say; a torn one counts as not run."""
        folder = self.sweep.run_dir(trial)
        try:
            outcome = read_outcome(trial, folder)
        except TornTrial as error:
            where = f", what was there is in {set_aside(folder)}" if set_torn_aside else ""
            self.warnings.append(f"{trial.name}: {error}; the trial runs anew{where}")
            return
        if outcome is None:
            return
        self.outcomes[trial] = outcome
        # A finished trial never goes on: its checkpoints, with the optimiser's state, are needed by nothing.
        for name in {"all": (), "model": ("checkpoints",), "figures": ("checkpoints", "model")}[self.sweep.config.keep]:
            shutil.rmtree(folder / name, ignore_errors=True)

    def agree(self, here: Facts) -> None:
        """Hold what trials would run on now against what the sweep's first trial ran on, and do as the sweep is told
        where that differs. Raises ValueError, one line, where it is told to refuse."""
        begun = {trial: self.outcomes[trial].facts if trial in self.outcomes else of_a_trial(folder, {})
                 for trial in self.trials if (folder := self.sweep.run_dir(trial)).exists()}  # fmt: skip
        self.first, again = agreed(self.sweep, here, begun)
        for trial in again:
            where = set_aside(self.sweep.run_dir(trial), "differs")
            self.warnings.append(f"{trial.name} runs again; what ran on something else is in {where}")
            self.outcomes.pop(trial, None)


def load(sweep: Sweep, set_torn_aside: bool = False) -> State:
    """What the files of a sweep say. A torn trial counts as not run; with ``set_torn_aside`` its folder is renamed."""
    state, seen = State(sweep, first=next(iter(recorded(sweep.folder)), {})), set()
    while True:
        state.plan()
        unread = [trial for trial in state.trials if trial not in seen]
        if not unread:
            return state
        for trial in unread:
            seen.add(trial)
            state.read(trial, set_torn_aside)


def read_sweep(folder: Path) -> State:
    """What the folder of a sweep, finished or not, says. Needs no class of a person's own and builds no model.

    Raises:
        ValueError: one line, if it is no sweep's folder, or its definition cannot be read.
    """
    file = folder / "sweep.yaml"
    if not file.exists():
        raise ValueError(f"{folder} is no folder of a sweep: it has no sweep.yaml; give its sweep_dir")
    return load(Sweep(parse_sweep(["--config", str(file), "--sweep_dir", str(folder)])))
