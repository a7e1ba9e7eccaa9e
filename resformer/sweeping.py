"""A sweep in a line of Python: run it, or open its folder, and look at its verdicts."""

from __future__ import annotations

import dataclasses
import html
import signal
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .keys import flat, full_names, plain
from .model.trust import name_code
from .programs import INTERRUPTED, parser_of, read_arguments
from .sweeps.config import SweepConfig, parse_sweep
from .sweeps.session import run_sweep
from .training import RunConfig

if TYPE_CHECKING:
    from .display import Figures
    from .report.sweep import SweepStudy

_FIRST = ["arm", "point", "stability", "stability_reason", "verdict", "reason",
          "difference", "difference_low", "difference_high", "loss", "best_rate"]  # fmt: skip


class SweepResult:
    """The files of a sweep, finished or not, as they were when they were first asked for.

    Args:
        folder: its ``sweep_dir``.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    @cached_property
    def study(self) -> SweepStudy:
        """All that its page shows. Raises ValueError, one line, if ``folder`` is no sweep's."""
        from .report.sweep import read_sweep

        return read_sweep(self.folder)

    @property
    def verdicts(self) -> pd.DataFrame:
        """One row for each arm and point: ``arm``, ``point``, ``verdict``, ``reason``, ``difference`` from the baseline
        in nats per token with its interval, ``best_rate``, cost, and more; empty before the first rate is tuned."""
        return self.study.verdicts

    @property
    def runs(self) -> pd.DataFrame:
        """One row for each finished run: ``arm``, ``point``, ``learning_rate``, ``seed``, ``role``, ``end_state``,
        ``loss`` in nats per token, ..., and its ``folder`` under that of the sweep, which ``open_run`` opens."""
        return self.study.table_of_runs

    def figures(self) -> Figures:
        """The figures of the sweep's page, by name, as Altair charts."""
        from .display import Figures
        from .report.comparison import outcome_figures
        from .report.depth import depth_figures

        drawn = [*outcome_figures(self.study), *depth_figures(self.study)]
        return Figures({figure.name: figure.chart() for figure in drawn if figure.panels})

    def __repr__(self) -> str:
        done, known = len(self.study.state.outcomes), len(self.study.state.trials)
        return f"SweepResult({str(self.folder)!r}: {done} of {known} trials finished)"

    def _repr_html_(self) -> str:
        words = html.escape(repr(self))
        if self.verdicts.empty:
            return f"<p>{words}; no learning rate is tuned yet</p>"
        return f"<p>{words}</p>{self.verdicts[_FIRST].to_html(index=False, na_rep='', float_format='{:.4g}'.format)}"


def open_sweep(folder: str | Path) -> SweepResult:
    """The sweep whose ``sweep_dir`` is ``folder``, finished or not. Raises ValueError, one line, if none is there."""
    result = SweepResult(folder)
    if not (result.folder / "sweep.yaml").exists():
        raise ValueError(f"{folder} is no sweep's folder (it has no sweep.yaml); give the sweep_dir of a sweep")
    return result


def sweep(config: SweepConfig | Mapping[str, Any] | str | Path | None = None, **keywords: Any) -> SweepResult:
    """Compare residual connections, or go on with a sweep that was stopped; what recipes/sweep.py does.

    Args:
        config: a ``SweepConfig``, its keys and values, or a YAML file.
        keywords: keys of ``SweepConfig`` that win over it: top-level ones, groups (``executor={"workers": 2}``), or the
            last name of a key that only one group has (``workers=2``). ``base`` adds to the file's. Keys of a run, in
            ``base``, ``arms`` and ``grid``, may be told as ``train`` takes them (``{"residual": "post"}``).

    Raises:
        ValueError: one line, for a sweep that cannot be, or a combination that no run could have.
        RuntimeError: if some trials failed for reasons outside their runs; the same call tries them anew.
        KeyboardInterrupt: if it was interrupted; the same call goes on.
    """
    chosen = as_sweep_config(config, keywords)
    code = run_sweep(chosen).exit_code
    if code == INTERRUPTED[signal.SIGINT]:
        raise KeyboardInterrupt(f"interrupted; the same call goes on with {chosen.sweep_dir}")
    if code == INTERRUPTED[signal.SIGTERM]:
        sys.exit(code)
    if code:
        raise RuntimeError(
            f"some trials failed; open_sweep({chosen.sweep_dir!r}) has the others, the same call tries anew"
        )
    return SweepResult(chosen.sweep_dir)


def as_sweep_config(
    config: SweepConfig | Mapping[str, Any] | str | Path | None, keywords: Mapping[str, Any]
) -> SweepConfig:
    """One definition from what ``sweep`` is given. Raises ValueError, one line, as ``sweep`` does."""
    keys = flat(dataclasses.asdict(SweepConfig()))
    if isinstance(config, (str, Path)):
        config = parse_sweep(["--config", str(config)])
    else:
        name_code([str(config)])
    name_code([str(dict(keywords))])
    whole = isinstance(config, SweepConfig)
    told = dataclasses.asdict(config) if whole else _grouped(full_names(config or {}, keys))  # type: ignore[arg-type]
    groups = {"base", *(key.partition(".")[0] for key in keys if "." in key)}
    for key, value in _grouped(full_names(keywords, keys)).items():
        adds = key in groups
        told[key] = told.get(key, {}) | value if adds and isinstance(value, Mapping) else value
    found = SweepConfig(**read_arguments(parser_of(SweepConfig, "sweep", ""), plain(told)))
    of_a_run = flat(RunConfig().as_dict())
    found.base = full_names(found.base, of_a_run)
    found.arms = {name: full_names(arm, [*of_a_run, "because"]) for name, arm in found.arms.items()}
    found.grid = full_names(found.grid, of_a_run)
    found.check()
    return found


def _grouped(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys of groups as mappings; what arms, the grid and the base hold stays as it is written."""
    grouped: dict[str, Any] = {}
    for key, value in values.items():
        group, _, last = key.partition(".")
        if last:
            grouped.setdefault(group, {})[last] = value
        else:
            grouped[key] = value
    return grouped
