"""What a sweep says on the screen: its plan, a live table of all trials, and the verdicts."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from statistics import mean

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm

from ..data import Corpus
from ..programs import command_of, is_watched
from .detectable import design_warnings
from .plan import Plan
from .state import State
from .timing import seconds_per_step
from .trials import Sweep, Trial
from .verdict import Comparison
from .wanted import bounds

_START_AND_SAVE = 2.0
"""Seconds of a trial beside its steps and its evaluation: building, saving, writing a sample."""


def on_a_terminal() -> bool:
    return sys.stdout.isatty()


def print_plan(sweep: Sweep, data: Mapping[tuple[str, str], Corpus], state: State, plan: Plan) -> None:
    """Trials, cost, ledgers, and every difference between arms that is not the residual connection."""
    console, config = _console(), sweep.config
    few, many = bounds(sweep)
    console.print(
        f"{sweep.folder}: {len(sweep.arms)} arms x {len(sweep.points)} points x {len(config.learning_rates.grid)} "
        f"learning rates; {few} to {many} trials, {len(state.outcomes)} finished"
    )
    for warning in design_warnings(sweep.rules()):
        console.print(f"this design cannot answer all: {warning}", soft_wrap=True)
    seconds, how = _cost(sweep, data, plan, state)
    low, high = (_duration(number * seconds / _slots(sweep)) for number in (few, many))
    console.print(f"cost: about {low} to {high}, {_slots(sweep)} trials at once ({how})")

    table = Table("arm", "point", "parameters", "non-embedding", "FLOPs/token", "tokens/run", box=None)
    for (arm, point), entry in plan.ledgers.items():
        table.add_row(
            arm, point, f"{entry.parameters:,}", f"{entry.non_embedding:,}", f"{entry.flops_per_token:,}",
            f"{entry.tokens:,}",
        )  # fmt: skip
    console.print(table)
    console.print(f"\ndifferences from {config.controls.baseline!r} that are not the residual connection:")
    for arm, lines in plan.differences.items():
        because = f" (because: {sweep.because[arm]})" if arm in sweep.because else ""
        console.print(f"  {arm}{because}: " + ("; ".join(lines) or "none"), markup=False)
    console.print()


@contextlib.contextmanager
def live(sweep: Sweep, slots: int) -> Iterator[Callable[[State], None]]:
    """A function to call with the state whenever it may have changed; silent where nobody looks."""
    if not on_a_terminal():
        with tqdm(unit="trial", disable=not is_watched()) as bar:  # in a notebook

            def follow(state: State) -> None:
                bar.total, bar.n = len(state.trials), len(state.outcomes)
                bar.refresh()

            yield follow
        return
    started = time.perf_counter()
    with Live(console=_console(), auto_refresh=False, transient=True) as display:

        def show(state: State) -> None:
            display.update(_table(sweep, state, slots, started), refresh=True)

        yield show


def print_end(state: State) -> None:
    console, sweep, code = _console(), state.sweep, state.exit_code
    for warning in state.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    analysis = state.analysis()
    names = ("arm", "point", "stability", "bad ends", "loss", "difference (95 %)", "verdict on the loss", "best rate")
    table = Table(*names, box=None)
    for row in analysis.rows:
        stability, loss = row.stability_comparison, row.loss_comparison
        table.add_row(
            row.arm, row.point, _said(stability) or row.role,
            ", ".join(f"{at.bad}/{at.n} at {at.at}" for at in row.bad_ends),
            f"{row.loss.mean:.4f}" if row.loss.n else "", _difference(loss) if loss else "",
            _said(loss) + (f"; at equal time {_said(row.equal_time)}" if row.equal_time else ""),
            f"{row.optimum.rate:g}{'' if row.optimum.interior else ', at the edge of the grid'}",
        )  # fmt: skip
    console.print(table)
    left = len(state.trials) - len(state.outcomes)
    whole = f"{len(state.outcomes)} trials are finished"
    console.print(f"\n{whole}, {left} are not: the same command goes on" if left or code else f"\n{whole}, all of them")
    if state.overhead is not None:
        console.print(f"beyond the trials themselves: {state.overhead:.1%} of the workers' time")
    console.print(f"page: {command_of('report')} {sweep.folder}", soft_wrap=True)


def _said(comparison: Comparison | None) -> str:
    return f"{comparison.verdict}: {comparison.reason}" if comparison else ""


def _difference(comparison: Comparison) -> str:
    if not comparison.seeds:
        return ""
    interval = f" [{comparison.low:+.4f}, {comparison.high:+.4f}]" if math.isfinite(comparison.low) else ""
    return f"{comparison.difference:+.4f}{interval}"


def _table(sweep: Sweep, state: State, slots: int, started: float) -> Group:
    cells: dict[tuple[str, str], dict[float, list[Trial]]] = {}
    for trial in state.trials:
        cells.setdefault((trial.arm, trial.point), {}).setdefault(trial.learning_rate, []).append(trial)
    rates = sorted({trial.learning_rate for trial in state.trials})
    table = Table("arm", "point", *[f"{rate:g}" for rate in rates], box=None)
    for (arm, point), by_rate in cells.items():
        table.add_row(arm, point, *[_letters(state, by_rate.get(rate, [])) for rate in rates])
    left = len(state.waiting) + len(state.running)
    expected = _mean_seconds(state)
    time_left = f"about {expected * left / slots / 60:.0f} min left" if expected else "time left unknown"
    elapsed = (time.perf_counter() - started) / 60
    line = f"{len(state.outcomes)} of {len(state.trials)} trials known so far, {elapsed:.0f} min, {time_left}"
    legend = "o finished  > running  . waiting  x stuck or diverged  ! failed, one letter for each seed"
    return Group(table, Text(line), Text(legend, style="dim"))


def _letters(state: State, trials: list[Trial]) -> str:
    """One for each trial, as the legend says."""
    return "".join(
        "!" if trial in state.failed
        else ">" if trial in state.running
        else "." if trial not in state.outcomes
        else "x" if state.outcomes[trial].result.failed
        else "o"
        for trial in trials
    )  # fmt: skip


def _mean_seconds(state: State) -> float | None:
    """Of the trials that are left, each expected to take as long as the finished ones of its arm and point."""
    known: dict[tuple[str, str], list[float]] = {}
    for trial, outcome in state.outcomes.items():
        known.setdefault((trial.arm, trial.point), []).append(outcome.wall_seconds)
    if not known:
        return None
    overall = mean(seconds for group in known.values() for seconds in group)
    left = [*state.waiting, *state.running]
    return mean(mean(known.get((t.arm, t.point), [overall])) for t in left) if left else 0.0


def _cost(sweep: Sweep, data: Mapping[tuple[str, str], Corpus], plan: Plan, state: State) -> tuple[float, str]:
    """Expected seconds of a trial, and what they were read off."""
    if state.outcomes:
        return mean(outcome.wall_seconds for outcome in state.outcomes.values()), "from the finished trials"
    costs = {key: entry.flops_per_token * entry.tokens for key, entry in plan.ledgers.items()}
    ordered = sorted(costs, key=lambda key: costs[key])
    total = 0.0
    ends = [ordered[0], ordered[-1]] if len(ordered) > 1 else ordered
    for key in ends:
        run, step = sweep.runs[key], seconds_per_step(sweep, key)
        held_out = data[key].validation.num_tokens / (run.train.batch_size * run.data.sequence_length)
        total += (run.train.max_steps + held_out / 3) * step + _START_AND_SAVE
    return total / len(ends), "from steps of the smallest and the largest run, measured here and now, one at a time"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _slots(sweep: Sweep) -> int:
    from .executor_local import local_slots

    executor = sweep.config.executor
    return executor.workers or (local_slots(executor) if executor.name == "local" else 1)


def _console() -> Console:
    return Console(width=None if on_a_terminal() else 200, highlight=False)
