"""What a trial's files say: whether it is finished, how it ended, what it cost."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from ..files import write_atomically
from ..stability.endstate import end_state_of
from .provenance import Facts, of_a_trial
from .results import Result
from .trials import Trial

RECORDS = "attempts.jsonl"


@dataclass(frozen=True)
class Outcome:
    """A finished trial: its result and what it cost.

    Attributes:
        spikes: spike events of the training loss; none where the run did not count them.
        facts: what its attempts ran on.
        step_seconds: median over the run.
        peak_memory: bytes, of the device, or of the process where there is none.
    """

    trial: Trial
    result: Result
    steps: int
    tokens: int
    wall_seconds: float
    step_seconds: float | None
    peak_memory: int | None
    spikes: int | None
    summary: Mapping[str, Any]
    facts: list[Facts]


class TornTrial(ValueError):
    """A file of a trial that cannot be read, or does not belong with the others."""


def read_outcome(trial: Trial, folder: Path) -> Outcome | None:
    """The outcome of the trial in ``folder``, or none if it is not finished.

    Raises:
        TornTrial: if its files are torn.
    """
    if not (folder / "summary.json").exists():
        _check_yaml(folder / "config.yaml")
        return None
    summary = _json(folder / "summary.json", (folder / "summary.json").read_text(encoding="utf-8", errors="replace"))
    if not isinstance(summary, dict) or "status" not in summary:
        raise TornTrial(f"{folder / 'summary.json'} is no summary of a run")
    _check_yaml(folder / "config.yaml")
    if summary["status"] not in ("completed", "diverged"):
        return None
    metrics = _lines(folder / "metrics.jsonl")
    losses = {line["step"]: float(line["loss"]) for line in metrics if line.get("loss") is not None}
    first = losses.get(1)
    if first is None and summary["status"] == "diverged" and not summary["step"]:
        first = summary.get("initial_loss")  # of a run whose first gradient is not finite no step was made, nor logged
    if first is None:
        raise TornTrial(f"{folder / 'metrics.jsonl'} lacks step 1 of a finished run")
    val_loss = summary.get("val_loss")
    result = Result(
        trial.arm, trial.point, trial.learning_rate, trial.seed,
        float("nan") if val_loss is None else float(val_loss), first,
        end_state_of(summary, [losses[step] for step in sorted(losses)]) or "diverged",
    )  # fmt: skip
    spikes = summary.get("spikes")
    speeds = [line["tokens_per_second"] for line in metrics if line.get("tokens_per_second")]
    tokens_per_step = summary["tokens"] / max(1, summary["step"])
    peaks = [record.get("peak_memory") for record in _lines(folder / RECORDS, torn_ok=True)]
    return Outcome(
        trial, result, summary["step"], summary["tokens"], summary["wall_seconds"],
        tokens_per_step / median(speeds) if speeds else None,
        max((peak for peak in peaks if peak), default=None),
        len(spikes["loss"]) if isinstance(spikes, dict) else None, summary, of_a_trial(folder, summary),
    )  # fmt: skip


def set_aside(folder: Path, why: str = "torn") -> Path:
    """Rename a trial's folder, so that it runs anew and nothing is lost. Returns where it went."""
    number = 1
    while (target := folder.with_name(f"{folder.name}.{why}-{number}")).exists():
        number += 1
    os.rename(folder, target)
    return target


def record_attempt(folder: Path, record: dict[str, Any]) -> None:
    file = folder / RECORDS
    text = "".join(json.dumps(line) + "\n" for line in [*_lines(file, torn_ok=True), record])
    write_atomically(file, text)


def _lines(file: Path, torn_ok: bool = False) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    lines: list[dict[str, Any]] = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            lines.append(_json(file, line))
        except TornTrial:
            if not torn_ok:
                raise
    return lines


def _json(file: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise TornTrial(f"{file} is torn ({error.msg})") from error


def _check_yaml(file: Path) -> None:
    if not file.exists():
        return
    try:
        whole = isinstance(yaml.safe_load(file.read_text(encoding="utf-8", errors="replace")), dict)
    except yaml.YAMLError:
        whole = False
    if not whole:
        raise TornTrial(f"{file} is torn")
