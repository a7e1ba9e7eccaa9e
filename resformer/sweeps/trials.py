"""From a definition to its trials: which run each of them is, under which name, in which folder."""

import copy
import hashlib
import itertools
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..files import read_yaml, write_yaml
from ..keys import flat
from ..model.trust import found_in_a_file
from ..training.config import SEEDS, RunConfig, run_config
from .config import A_A_SEED, SweepConfig
from .results import Rules

# Said elsewhere in a sweep, so that every arm gets the same.
_ELSEWHERE = {"optimizer.learning_rate": "learning_rates.grid", "run_dir": "sweep_dir", "resume": "nothing"}
_ELSEWHERE |= dict.fromkeys(("seed", "init_seed", "data_seed", "dropout_seed"), "seeds")

_LONGEST_FOLDER = 230
"""In bytes, of the 255 that there are: one that is set aside gets a few more."""


@dataclass(frozen=True)
class Trial:
    """One training run of a sweep. ``point`` is the label of its place in the grid."""

    arm: str
    point: str
    learning_rate: float
    seed: int

    @property
    def name(self) -> str:
        words = [self.arm, *([self.point] if self.point else []), f"lr={self.learning_rate:g}", f"seed={self.seed}"]
        return _in_a_path("_".join(words))


class Sweep:
    """A checked definition.

    Attributes:
        config: as told.
        folder: of the sweep's files.
        points: label of each point of the grid: its keys and values.
        cells: each arm at each of its points.

    Raises:
        ValueError: one line, for what no sweep could be; whether each run can be, ``runs`` finds out.
    """

    def __init__(self, config: SweepConfig):
        self.config, self.folder = config, Path(config.sweep_dir)
        self.base = {"train.log_every": 1, "train.keep_checkpoints": 1} | flat(config.base)
        self.because = {arm: str(keys["because"]) for arm, keys in config.arms.items() if "because" in keys}
        self.arms = {arm: {k: v for k, v in flat(keys).items() if k != "because"} for arm, keys in config.arms.items()}
        places = {"base": self.base} | {f"arms.{arm}": keys for arm, keys in self.arms.items()} | {"grid": config.grid}
        for place, keys in places.items():
            for key in keys:
                if key in _ELSEWHERE:
                    raise ValueError(f"{place}: {key} is set by the sweep, see {_ELSEWHERE[key]}")
        if self.base["train.log_every"] != 1:
            raise ValueError("base: train.log_every must be 1; the loss at initialisation and spikes are read from it")
        folders: dict[str, str] = {}
        for arm in self.arms:
            if (other := folders.setdefault(_in_a_path(arm), arm)) != arm:
                raise ValueError(f"arms: {other!r} and {arm!r} would share their folders; rename one")
        self.points = {self._label(point): point for point in self._grid()}
        self.cells = [
            (arm, label)
            for label in self.points
            for arm in self.arms
            if not any(self._matches(part, arm, label) for part in config.exclude)
        ]
        for arm, label in self.cells:
            if len(Trial(arm, label, 1.23456e-12, SEEDS).name.encode()) > _LONGEST_FOLDER:
                raise ValueError(
                    f"grid: {arm!r} at {label} is too long for the name of a folder; vary fewer keys, or shorten the "
                    "arm's name"
                )
        baseline = config.controls.baseline
        for label in self.points:
            if self.arms_at(label) and (baseline, label) not in self.cells:
                raise ValueError(f"exclude: the baseline {baseline!r} is left out at {label or 'all points'}")

    @cached_property
    def runs(self) -> dict[tuple[str, str], RunConfig]:
        """The run of each cell, but for its learning rate and seed. A person's own classes are imported here, and only
        here: a sweep that is read and not run needs none.

        Raises:
            ValueError: one line, for a combination that no run could have, naming arm, point and key.
        """
        return {(arm, label): self._run(arm, label) for arm, label in self.cells}

    def arms_at(self, point: str) -> list[str]:
        return [arm for arm, label in self.cells if label == point]

    def rules(self) -> Rules:
        controls, seeds = self.config.controls, self.config.seeds
        return Rules(
            arms=list(self.arms),
            points=list(self.points),
            baseline=controls.baseline,
            tuning_seeds=seeds.tuning,
            reporting_seeds=seeds.reporting,
            a_a_control=controls.a_a_control,
            positive_control=controls.positive_control,
            positive_control_points=[p for p in self.points if self._matches(controls.positive_control_at, "", p)],
            sensitivity_control=controls.sensitivity_control,
            multiples=self.config.learning_rates.multiples,
            common=self.config.learning_rates.common,
            looks=seeds.looks,
            equal_time={
                (arm, point): name
                for arm, name in controls.equal_time.items()
                for point in self.points
                if {(arm, point), (name, point)} <= set(self.cells)
            },
            **vars(self.config.statistics),
        )

    def run_dir(self, trial: Trial) -> Path:
        return self.folder / "trials" / trial.name

    def run_config(self, trial: Trial) -> RunConfig:
        config = copy.deepcopy(self.runs[trial.arm, trial.point])
        config.optimizer.learning_rate = trial.learning_rate
        config.seed = config.data_seed = trial.seed
        own = trial.seed + (A_A_SEED if trial.arm == self.config.controls.a_a_control else 0)
        config.init_seed = config.dropout_seed = own
        config.run_dir = str(self.run_dir(trial))
        return config

    def open_folder(self) -> None:
        """Write sweep.yaml. Raises ValueError if the folder holds another definition, naming the first key."""
        file, ours = self.folder / "sweep.yaml", self.config.definition()
        theirs = read_yaml(file) if file.exists() else ours
        if theirs != ours and not _has_grown(theirs, ours):
            key, other, mine = _first_difference(theirs, ours)
            how = "give another --sweep_dir"
            if key == "seeds.reporting" and mine[: len(other)] == other:
                how += ", or declare seeds.looks from the start: a look that nobody declared would not be a fair one"
            raise ValueError(
                f"{self.folder} holds a sweep of another definition ({key} is {_short(other)}, not "
                f"{_short(mine)}); {how}"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_yaml(file, ours)
        except OSError as error:
            raise OSError(f"sweep_dir: cannot write to {self.folder} ({error.strerror}); give another") from error

    def _grid(self) -> list[dict[str, Any]]:
        keys = self.config.grid
        return [dict(zip(keys, values, strict=True)) for values in itertools.product(*keys.values())]

    def _label(self, point: dict[str, Any]) -> str:
        last = [key.rpartition(".")[2] for key in point]
        names = last if len(set(last)) == len(last) else list(point)
        return ",".join(f"{name}={_value(value)}" for name, value in zip(names, point.values(), strict=True))

    def _matches(self, part: dict[str, Any], arm: str, label: str) -> bool:
        where = {"arm": arm} | self.points[label]
        return all(where.get(key) == value for key, value in part.items())

    def _run(self, arm: str, label: str) -> RunConfig:
        try:
            with found_in_a_file():
                return run_config(self.base | self.points[label] | self.arms[arm])
        except ValueError as error:
            raise ValueError(f"arm {arm!r} at {label or 'its point'}: {error}") from error


def _has_grown(theirs: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether all that is new are reporting seeds at the end, up to a declared look."""
    before, now = theirs.get("seeds", {}), ours["seeds"]
    grown = now["reporting"][: len(before.get("reporting", []))] == before.get("reporting")
    same = theirs | {"seeds": before | {"reporting": now["reporting"]}} == ours
    return bool(now["looks"]) and grown and same


def _first_difference(theirs: dict[str, Any], ours: dict[str, Any]) -> tuple[str, Any, Any]:
    key = next(key for key in {**ours, **theirs} if theirs.get(key) != ours.get(key))
    one, other = theirs.get(key), ours.get(key)
    if isinstance(one, dict) and isinstance(other, dict):
        inner, one, other = _first_difference(one, other)
        return f"{key}.{inner}", one, other
    return key, one, other


def _in_a_path(text: str) -> str:
    return re.sub(r"[^\w.=,+-]", "-", text)


def _value(value: Any) -> str:
    text = str(value) if isinstance(value, (str, int, float)) else json.dumps(value, sort_keys=True)
    if len(text) > 24 or re.search(r"[^\w.+-]", text):
        return re.sub(r"[^\w.+-]", "-", text)[:16] + "-" + hashlib.sha256(text.encode()).hexdigest()[:6]
    return text


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."
