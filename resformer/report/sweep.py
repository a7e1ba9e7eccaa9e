"""A sweep's folder as a study: its runs, its verdicts, and what its runs recorded inside."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..stability.endstate import FAILED
from ..sweeps.analysis import Analysis, Row
from ..sweeps.curves import depth_limit
from ..sweeps.endings import ended_badly
from ..sweeps.inference import event_rate
from ..sweeps.outcomes import Outcome
from ..sweeps.state import State
from ..sweeps.state import read_sweep as read_state
from ..sweeps.timing import STEPS
from ..sweeps.trials import Sweep, Trial
from .study import Run, Study, few, framed, group, number, read_run

_KEPT = ("train_loss", "train_gradient_norm")
_CURVE = 200
"""Steps of a trial's loss curve that a sweep's page draws."""


@dataclass(kw_only=True)
class SweepStudy(Study):
    """``frame`` holds the reporting runs at their arm's best rate, at the steps where the stream was looked at."""

    sweep: Sweep
    state: State
    analysis: Analysis
    plan: dict[str, Any]
    steps: list[dict[str, Any]]
    problems: list[str]

    @property
    def missing(self) -> int:
        return len(self.state.trials) - len(self.state.outcomes)

    @cached_property
    def depth(self) -> str | None:
        """The key of the grid that stands for depth, if there is one."""
        numeric = [
            key
            for key, values in self.sweep.config.grid.items()
            if len(values) > 1 and all(isinstance(value, (int, float)) for value in values)
        ]
        return next((key for key in numeric if key.endswith("num_hidden_layers")), numeric[0] if numeric else None)

    @property
    def recipe_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.sweep.config.definition(), sort_keys=True).encode()).hexdigest()[:12]

    def common(self, key: str) -> list[str]:
        """The different values that the finished runs' summaries have under ``key``."""
        values = [outcome.summary.get(key) for outcome in self.state.outcomes.values()]
        return sorted({str(value) for value in values if value is not None})

    def numbers(self, key: str) -> list[float]:
        """Those of ``common`` that are numbers."""
        return sorted(
            {value for o in self.state.outcomes.values() if (value := number(o.summary.get(key))) is not None}
        )

    def _cost(self, arm: str, point: str) -> tuple[float | None, float | None]:
        """Seconds of a step and bytes, of the run that took least: what else the machine did can only add to them."""
        outcomes = [o for trial, o in self.state.outcomes.items() if (trial.arm, trial.point) == (arm, point)]
        step = [outcome.step_seconds for outcome in outcomes if outcome.step_seconds]
        memory = [outcome.peak_memory for outcome in outcomes if outcome.peak_memory]
        return min(step, default=None), min(memory, default=None)

    @cached_property
    def table_of_runs(self) -> pd.DataFrame:
        """One line for each finished run. Losses in nats per token; ``loss`` is clipped at ``initial_loss``."""
        tuning = set(self.sweep.config.seeds.tuning)
        lines = []
        for result in self.state.results:
            trial = Trial(result.arm, result.point, result.learning_rate, result.seed)
            outcome = self.state.outcomes[trial]
            lines.append({
                "arm": result.arm, "point": result.point, "learning_rate": result.learning_rate, "seed": result.seed,
                "role": "tuning" if result.seed in tuning else "reporting", "end_state": result.end_state,
                "bad": ended_badly(result),
                "loss": result.clipped, "val_loss": result.val_loss, "initial_loss": result.initial_loss,
                "steps": outcome.steps, "wall_seconds": outcome.wall_seconds, "step_seconds": outcome.step_seconds,
                "peak_memory": outcome.peak_memory, "folder": f"trials/{trial.name}",
            })  # fmt: skip
        return pd.DataFrame(lines)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One line for each arm and point, in numbers."""
        return pd.DataFrame([self._verdict(row) for row in self.analysis.rows])

    def by_merit(self) -> list[str]:
        """Arms whose difference from the baseline is known, from the best to the worst, over all points."""
        table = self.verdicts
        if table.empty:
            return []
        known = table[table.role == "arm"].assign(difference=table.difference.astype(float))
        known = known[np.isfinite(known.difference)]
        return list(known.groupby("arm", sort=False).difference.mean().sort_values(kind="stable").index)

    def _verdict(self, row: Row) -> dict[str, Any]:
        at_best = at_best_rate(self.state, row)
        ledger = _entry(self.plan.get("ledgers"), row.arm, row.point)
        timed = _entry(self.steps, row.arm, row.point)
        step, memory = self._cost(row.arm, row.point)
        base_step, base_memory = self._cost(str(self.baseline), row.point)
        if "memory" in timed:
            memory, base_memory = timed["memory"], _entry(self.steps, self.baseline, row.point).get("memory")
        events = [o.spikes for o in at_best if o.spikes is not None]
        thousands = sum(o.steps for o in at_best) / 1000 / max(1, len(at_best))
        counted = sum(events) if events and len(events) == len(at_best) and thousands else None
        low, high = event_rate(events, thousands) if counted is not None else (None, None)
        profile = self.profiles.get((row.arm, row.point), {})
        stability, loss, s = row.stability_comparison, row.loss_comparison, row.sensitivity
        return {
            "arm": row.arm, "point": row.point, "role": row.role,
            "stability": stability.verdict if stability else row.role,
            "stability_reason": stability.reason if stability else "",
            "stability_p_adjusted": stability.p_adjusted if stability else None,
            "bad_ends": ", ".join(f"{at.bad}/{at.n} at {at.at}" for at in row.bad_ends),
            "any_bad_low": row.any_bad.low, "any_bad_high": row.any_bad.high,
            "verdict": loss.verdict if loss else row.role, "reason": loss.reason if loss else "",
            "runs": row.bad_ends[0].n, "failed": row.bad_ends[0].bad,
            "end_states": ", ".join(f"{name} {count}" for name, count in row.end_states.items()),
            "loss": row.loss.mean, "loss_low": row.loss.low, "loss_high": row.loss.high,
            "best_fitted_loss": row.optimum.loss,
            "difference": loss.difference if loss else None, "difference_low": loss.low if loss else None,
            "difference_high": loss.high if loss else None, "p_adjusted": loss.p_adjusted if loss else None,
            "equivalence_p_adjusted": loss.equivalence_adjusted if loss else None,
            "detectable": loss.detectable if loss else None, **self._at_equal_time(row),
            "best_rate": row.optimum.rate, "best_rate_low": row.optimum.low, "best_rate_high": row.optimum.high,
            "interior": row.optimum.interior, "regret": row.optimum.regret, "trains_to": row.trains_to[0],
            "trains_to_low": row.trains_to[1], "trains_to_high": row.trains_to[2],
            "S": s.value.mean if s else None, "S_low": s.value.low if s else None,
            "S_high": s.value.high if s else None,
            "S_below": s.low_side.mean if s else None, "S_above": s.high_side.mean if s else None,
            "events_per_1000": counted / thousands / len(events) if counted is not None else None,
            "events_low": low, "events_high": high, "olmo2_percent": _olmo2(at_best),
            "depth_limit": self.depth_limits.get(row.arm),
            "stream_growth": profile.get("stream_growth"), "gradient_ratio": profile.get("gradient_ratio"),
            "parameters": ledger.get("parameters"), "non_embedding": ledger.get("non_embedding"),
            "flops_per_token": ledger.get("flops_per_token"), "tokens": ledger.get("tokens"),
            "step_seconds": timed.get("seconds", step),
            "step_ratio": timed.get("ratio", step / base_step if step and base_step else None),
            "peak_memory": memory, "memory_ratio": memory / base_memory if memory and base_memory else None,
            "tuning_runs": len(row.rates) * len(self.sweep.config.seeds.tuning),
        }  # fmt: skip

    def _at_equal_time(self, row: Row) -> dict[str, Any]:
        """Against the baseline trained for longer, and on how many times as many tokens that is."""
        found, ledgers = row.equal_time, self.plan.get("ledgers")
        name = self.sweep.config.controls.equal_time.get(row.arm, "")
        longer, base = (_entry(ledgers, arm, row.point).get("tokens") for arm in (name, self.baseline))
        return {
            "equal_time": found.verdict if found else "", "equal_time_reason": found.reason if found else "",
            "equal_time_difference": found.difference if found else None,
            "equal_time_low": found.low if found else None, "equal_time_high": found.high if found else None,
            "equal_time_tokens": longer / base if found and longer and base else None,
        }  # fmt: skip

    @cached_property
    def profiles(self) -> dict[tuple[str, str], dict[str, float]]:
        """By arm and point, of the last look, median over seeds: ``stream_growth``, RMS of the stream at the end of
        the stack over that at its start, and ``gradient_ratio``, norm of the gradient of the MLP's output matrix in the
        first block over that in the last (Xiong et al. 2020, arXiv:2002.04745)."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        ends = (("stream_growth", "stream_rms", -1, 0), ("gradient_ratio", "gradient_norm.down_proj", 0, -1))
        kept = self.of(*(metric for _, metric, _, _ in ends))
        for (arm, point), cell in kept.groupby(["arm", "point"]):
            last = cell[cell.step == cell.groupby("seed").step.transform("max")].sort_values("depth")
            for name, metric, over, under in ends:
                runs = [run.value.to_numpy() for _, run in last[last.metric == metric].groupby("seed")]
                ratios = [run[over] / run[under] for run in runs if len(run) and run[under] > 0]
                if ratios:
                    found.setdefault((arm, point), {})[name] = float(np.median(ratios))
        return found

    @cached_property
    def depth_limits(self) -> dict[str, int | None]:
        """By arm: the deepest point of the ladder up to which every reporting run trained, its rate tuned at each."""
        limits: dict[str, int | None] = {}
        for arm in self.arms if self.depth is not None else []:
            rows = [row for row in self.analysis.rows if row.arm == arm and row.end_states]
            depths = [self.sweep.points[row.point][str(self.depth)] for row in rows]
            trained = [not set(row.end_states) & set(FAILED) for row in rows]
            limits[arm] = depth_limit(depths, trained) if len(set(depths)) == len(depths) and depths else None
        return limits

    @cached_property
    def timelines(self) -> pd.DataFrame:
        """One line for each reporting run at its arm's best rate: how long it ran, where it spiked, how it ended."""
        lines = []
        for row in self.analysis.rows:
            for outcome in at_best_rate(self.state, row):
                spikes = group(dict(outcome.summary), "spikes")
                lines.append({
                    "arm": row.arm, "point": row.point, "seed": outcome.trial.seed, "steps": outcome.steps,
                    "clip_rate": outcome.summary.get("clip_rate"), "counted": outcome.spikes is not None,
                    "end_state": outcome.result.end_state, "loss": spikes.get("loss") or [],
                    "gradient": spikes.get("grad_norm") or [],
                    "divergence_step": outcome.summary.get("divergence_step") or outcome.steps,
                })  # fmt: skip
        return pd.DataFrame(lines)


def at_best_rate(state: State, row: Row) -> list[Outcome]:
    """Of the reporting runs, those that are finished."""
    seeds = state.sweep.config.seeds.reporting
    trials = [Trial(row.arm, row.point, row.optimum.rate, seed) for seed in seeds]
    return [state.outcomes[trial] for trial in trials if trial in state.outcomes]


def read_sweep(folder: Path) -> SweepStudy:
    """What the folder of a sweep, finished or not, says.

    Raises:
        ValueError: one line, if it is no sweep's folder, or its definition cannot be read.
    """
    state = read_state(folder)
    sweep, analysis = state.sweep, state.analysis()
    problems = list(state.warnings)
    runs = []
    for row in analysis.rows:
        for outcome in at_best_rate(state, row):
            run = _looked_at(read_run(sweep.run_dir(outcome.trial), row.arm, row.point))
            problems += [f"trials/{run.name}: {problem}" for problem in run.problems]
            runs.append(run)
    controls = sweep.config.controls
    plan, timed = _read(folder / "plan.json"), _read(folder / STEPS)
    problems += [f"{name} is torn" for name, found in (("plan.json", plan), (STEPS, timed)) if found is None]
    steps = (timed or {}).get("steps", [])
    return SweepStudy(
        f"Sweep {folder.resolve().name}", folder, framed(runs), list(sweep.arms), list(sweep.points),
        baseline=controls.baseline, a_a_control=controls.a_a_control, sweep=sweep, state=state, analysis=analysis,
        plan=plan or {}, steps=steps if isinstance(steps, list) else [], problems=problems,
    )  # fmt: skip


def _looked_at(run: Run) -> Run:
    """With what the page draws: looks at the stream, and a thin curve of the loss."""
    layers = run.layers
    looks = layers.step.isin(layers.step[layers.metric == "stream_rms"].unique())
    curve, of_curve = few(layers.step[layers.metric == "train_loss"].unique(), _CURVE), layers.metric.isin(_KEPT)
    run.layers = layers[(looks & ~of_curve) | (of_curve & layers.step.isin(curve))]
    run.metrics = run.metrics[:0]
    return run


def _read(file: Path) -> dict[str, Any] | None:
    """Empty where there is none, none where it is torn."""
    if not file.exists():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _entry(entries: Any, arm: str | None, point: str) -> dict[str, Any]:
    listed = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return next((entry for entry in listed if (entry.get("arm"), entry.get("point")) == (arm, point)), {})


def _olmo2(outcomes: list[Outcome]) -> float | None:
    """Mean over runs that were long enough to have one."""
    scores = [number(group(dict(o.summary), "spikes").get("olmo2_score_loss_percent")) for o in outcomes]
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None
