"""A sweep's folder as tables: its verdicts, its runs, its spikes."""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..sweeps.analysis import Analysis, Result
from ..sweeps.curves import depth_limit
from ..sweeps.inference import poisson_rate
from ..sweeps.outcomes import Outcome
from ..sweeps.state import State
from ..sweeps.state import read_sweep as read_state
from ..sweeps.timing import STEPS
from ..sweeps.trials import Sweep, Trial
from .run_data import with_depth

TRAINED = ("ok", "spiked-recovered", "degraded")


@dataclass
class SweepReport:
    """All that the page of a sweep shows. ``depth``: the key of the grid that stands for depth, if there is one."""

    sweep: Sweep
    state: State
    results: list[Result]
    analysis: Analysis
    plan: dict[str, Any]
    steps: list[dict[str, Any]]

    @cached_property
    def missing(self) -> int:
        return len(self.state.trials) - len(self.state.outcomes)

    @cached_property
    def depth(self) -> str | None:
        numeric = [
            key
            for key, values in self.sweep.config.grid.items()
            if len(values) > 1 and all(isinstance(value, (int, float)) for value in values)
        ]
        return next((key for key in numeric if key.endswith("num_hidden_layers")), numeric[0] if numeric else None)

    @cached_property
    def recipe_hash(self) -> str:
        return hashlib.sha256(json.dumps(self.sweep.config.definition(), sort_keys=True).encode()).hexdigest()[:12]

    def outcomes(self, arm: str, point: str, rate: float, seeds: list[int]) -> list[Outcome]:
        trials = [Trial(arm, point, rate, seed) for seed in seeds]
        return [self.state.outcomes[trial] for trial in trials if trial in self.state.outcomes]

    def _cost(self, arm: str, point: str) -> tuple[float | None, float | None]:
        """Seconds of a step and bytes, of the run that took least: what else the machine did can only add to them."""
        outcomes = [
            outcome for trial, outcome in self.state.outcomes.items() if (trial.arm, trial.point) == (arm, point)
        ]
        step = [outcome.step_seconds for outcome in outcomes if outcome.step_seconds]
        memory = [outcome.peak_memory for outcome in outcomes if outcome.peak_memory]
        return min(step, default=None), min(memory, default=None)

    def common(self, key: str) -> list[Any]:
        """The different values that the finished runs' summaries have under ``key``."""
        values = [outcome.summary.get(key) for outcome in self.state.outcomes.values()]
        return sorted({str(value) for value in values if value is not None})

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One line for each finished run. Losses in nats per token; ``loss`` is clipped at ``initial_loss``."""
        tuning = set(self.sweep.config.seeds.tuning)
        lines = []
        for result in self.results:
            trial = Trial(result.arm, result.point, result.learning_rate, result.seed)
            outcome = self.state.outcomes[trial]
            lines.append({
                "arm": result.arm, "point": result.point, "learning_rate": result.learning_rate, "seed": result.seed,
                "role": "tuning" if result.seed in tuning else "reporting", "end_state": result.end_state,
                "loss": result.clipped, "val_loss": result.val_loss, "initial_loss": result.initial_loss,
                "steps": outcome.steps, "wall_seconds": outcome.wall_seconds, "step_seconds": outcome.step_seconds,
                "peak_memory": outcome.peak_memory, "folder": f"trials/{trial.name}",
            })  # fmt: skip
        return pd.DataFrame(lines)

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """One line for each arm and point: the verdict table, in numbers."""
        limits = self.depth_limits
        baseline = self.sweep.config.controls.baseline
        lines = []
        for row in self.analysis.rows:
            at_best = self.outcomes(row.arm, row.point, row.optimum.rate, list(self.sweep.config.seeds.reporting))
            ledger = _entry(self.plan.get("ledgers", []), row.arm, row.point)
            step, memory = self._cost(row.arm, row.point)
            base_step, base_memory = self._cost(baseline, row.point)
            timed = _entry(self.steps, row.arm, row.point)
            if "memory" in timed:
                memory, base_memory = timed["memory"], _entry(self.steps, baseline, row.point)["memory"]
            events = [o.spikes for o in at_best]
            counted = sum(e for e in events if e is not None) if events and None not in events else None
            thousands = sum(o.steps for o in at_best) / 1000
            low, high = poisson_rate(counted, thousands) if counted is not None and thousands else (None, None)
            profile = self.profiles.get((row.arm, row.point), {})
            failed = sum(row.end_states.get(name, 0) for name in ("stuck", "diverged"))
            lines.append({
                "arm": row.arm, "point": row.point, "verdict": row.verdict, "reason": row.reason,
                "runs": sum(row.end_states.values()), "failed": failed,
                "end_states": ", ".join(f"{name} {count}" for name, count in row.end_states.items()),
                "loss": row.loss.mean, "loss_low": row.loss.low, "loss_high": row.loss.high,
                "best_fitted_loss": row.optimum.fitted_loss,
                "difference": row.matched_optimum.mean if row.evidence else None,
                "difference_low": row.matched_optimum.low if row.evidence else None,
                "difference_high": row.matched_optimum.high if row.evidence else None,
                "p_holm": row.evidence.p_holm if row.evidence else None,
                "tost_holm": row.evidence.tost_holm if row.evidence else None,
                "mdd": row.mdd if row.evidence else None,
                "rate_difference": row.matched_rate.mean if row.evidence else None,
                "rate_difference_low": row.matched_rate.low if row.evidence else None,
                "rate_difference_high": row.matched_rate.high if row.evidence else None,
                "best_rate": row.optimum.rate, "fitted_rate": row.optimum.fitted_rate,
                "interior": row.optimum.interior, "largest_stable_rate": row.largest_stable, "headroom": row.headroom,
                "S": row.sensitivity.value, "S_low": row.sensitivity.window[0], "S_high": row.sensitivity.window[1],
                "S_seeds": len(row.sensitivity.per_seed), "S_difference": row.sensitivity_difference.mean,
                "S_difference_low": row.sensitivity_difference.low,
                "S_difference_high": row.sensitivity_difference.high, "S_centred": row.centred_sensitivity,
                "events_per_1000": counted / thousands if counted is not None and thousands else None,
                "events_low": low, "events_high": high, "olmo2_percent": _olmo2(at_best),
                "depth_limit": limits.get(row.arm),
                "stream_growth": profile.get("stream_growth"), "gradient_ratio": profile.get("gradient_ratio"),
                "parameters": ledger.get("parameters"), "non_embedding": ledger.get("non_embedding"),
                "flops_per_token": ledger.get("flops_per_token"), "tokens": ledger.get("tokens"),
                "step_seconds": timed.get("seconds", step),
                "step_ratio": timed.get("ratio", step / base_step if step and base_step else None),
                "peak_memory": memory, "memory_ratio": memory / base_memory if memory and base_memory else None,
                "tuning_runs": len(row.rates) * len(self.sweep.config.seeds.tuning),
            })  # fmt: skip
        return pd.DataFrame(lines)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """layers.parquet of the reporting runs at their arm's best rate, at the steps where the stream was looked at,
        with ``arm``, ``point``, ``seed``, ``depth`` and ``site`` besides."""
        frames = []
        for row in self.analysis.rows:
            for outcome in self.outcomes(row.arm, row.point, row.optimum.rate, list(self.sweep.config.seeds.reporting)):
                file = self.sweep.run_dir(outcome.trial) / "layers.parquet"
                try:
                    frame = with_depth(pd.read_parquet(file))
                except (OSError, ValueError):  # the recorder was off; the page does without
                    continue
                frame = frame[frame.step.isin(frame.step[frame.metric == "stream_rms"])]
                frames.append(frame.assign(arm=row.arm, point=row.point, seed=outcome.trial.seed))
        columns = ["step", "layer", "sublayer", "metric", "value", "depth", "site", "arm", "point", "seed"]
        return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=columns)

    @cached_property
    def profiles(self) -> dict[tuple[str, str], dict[str, float]]:
        """By arm and point, of the last look, median over seeds: ``stream_growth``, RMS of the stream at the end of
        the stack over that at its start, and ``gradient_ratio``, norm of the gradient of the MLP's output matrix in the
        first block over that in the last (Xiong et al. 2020, arXiv:2002.04745)."""
        found: dict[tuple[str, str], dict[str, float]] = {}
        ends = (("stream_growth", "stream_rms", -1, 0), ("gradient_ratio", "gradient_norm.down_proj", 0, -1))
        for (arm, point), cell in self.layers.groupby(["arm", "point"]):
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
        if self.depth is None:
            return {}
        limits = {}
        for arm in self.sweep.arms:
            rows = [row for row in self.analysis.rows if row.arm == arm and row.end_states]
            depths = [self.sweep.points[row.point][self.depth] for row in rows]
            trained = [all(state in TRAINED for state in row.end_states) for row in rows]
            limits[arm] = depth_limit(depths, trained) if len(set(depths)) == len(depths) and depths else None
        return limits

    @cached_property
    def spikes(self) -> pd.DataFrame:
        """One line for each spike of the reporting runs at their arm's best rate; empty where runs counted none."""
        lines = []
        for row in self.analysis.rows:
            for outcome in self.outcomes(row.arm, row.point, row.optimum.rate, list(self.sweep.config.seeds.reporting)):
                found = outcome.summary.get("spikes") or {}
                for kind in ("loss", "grad_norm"):
                    for event in found.get(kind, []):
                        lines.append({
                            "arm": row.arm, "point": row.point, "seed": outcome.trial.seed, "kind": kind,
                            "step": event["step"], "amplitude": event["amplitude"], "lead": event.get("lead"),
                        })  # fmt: skip
        return pd.DataFrame(lines, columns=["arm", "point", "seed", "kind", "step", "amplitude", "lead"])

    @cached_property
    def timelines(self) -> pd.DataFrame:
        """One line for each reporting run at its arm's best rate: how long it ran, how often it was clipped."""
        lines = []
        for row in self.analysis.rows:
            for outcome in self.outcomes(row.arm, row.point, row.optimum.rate, list(self.sweep.config.seeds.reporting)):
                lines.append({
                    "arm": row.arm, "point": row.point, "seed": outcome.trial.seed, "steps": outcome.steps,
                    "clip_rate": outcome.summary.get("clip_rate"), "counted": outcome.spikes is not None,
                    "end_state": outcome.result.end_state,
                    "divergence_step": outcome.summary.get("divergence_step") or outcome.steps,
                })  # fmt: skip
        return pd.DataFrame(lines)


def read_sweep(folder: Path) -> SweepReport:
    """What the folder of a sweep, finished or not, says.

    Raises:
        ValueError: one line, if it is no sweep's folder, or its definition cannot be read.
    """
    file = folder / "sweep.yaml"
    if not file.exists():
        raise ValueError(
            f"{folder} is no folder of a sweep (it has no sweep.yaml) nor of a run (it has no layers.parquet); give "
            "the sweep_dir of a sweep or the run_dir of a run"
        )
    state = read_state(folder)
    plan, steps = _read(folder / "plan.json"), _read(folder / STEPS).get("steps", [])
    return SweepReport(state.sweep, state, state.results, state.analysis(), plan, steps)


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):  # the page does without
        return {}


def _entry(entries: list[dict[str, Any]], arm: str, point: str) -> dict[str, Any]:
    return next((entry for entry in entries if (entry["arm"], entry["point"]) == (arm, point)), {})


def _olmo2(outcomes: list[Outcome]) -> float | None:
    """Mean over runs that were long enough to have one."""
    scores = [(outcome.summary.get("spikes") or {}).get("olmo2_score_loss_percent") for outcome in outcomes]
    return float(np.mean([s for s in scores if s is not None])) if any(s is not None for s in scores) else None
