"""A run in a line of Python: train it, or open its folder, and look at what it left."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from .files import read_whole_lines, read_yaml, write_atomically
from .keys import flat, full_names
from .programs import INTERRUPTED, apart
from .training import RunConfig, Trainer, read_config, run_config
from .training.card import card
from .training.config import ScheduleConfig
from .training.resuming import newest_whole

if TYPE_CHECKING:
    from .display import Figures

_OF_THIS_MACHINE = ("run_dir", "resume", "trackers")


class Run:
    """The files of a run, finished or not. What they say is read anew at every look.

    Args:
        folder: its ``run_dir``.

    Raises:
        ValueError: one line, if no run is there.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        if not (self.folder / "config.yaml").exists():
            raise ValueError(f"{folder} is no run's folder (it has no config.yaml); give the run_dir of a run")

    @property
    def config(self) -> RunConfig:
        """Every key, resolved."""
        return read_config(self.folder / "config.yaml")

    @property
    def metrics(self) -> pd.DataFrame:
        """One row for each logged step: ``step``, ``tokens``, ``loss`` and ``val_loss`` in nats per token, ...; empty
        before the first."""
        file = self.folder / "metrics.jsonl"
        rows = read_whole_lines(file) if file.exists() else []
        return pd.DataFrame(rows, columns=None if rows else ["step", "tokens"])

    @property
    def layers(self) -> pd.DataFrame:
        """The stream by depth and time: ``step``, ``layer`` (-1: the embedding, or the whole model), ``sublayer``,
        ``metric``, ``value``.

        Raises:
            ValueError: one line, if the recorder was off or has not looked yet.
        """
        file = self.folder / "layers.parquet"
        if not file.exists():
            off = self.config.train.record_every == 0
            why = "its recorder was off (train.record_every 0)" if off else "its recorder has not looked yet"
            raise ValueError(f"{self.folder} has no layers.parquet: {why}")
        return pd.read_parquet(file)

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json: how the run ended and what came out; empty while it is under way."""
        file = self.folder / "summary.json"
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return found

    @property
    def model_folder(self) -> Path:
        """Of the final weights, or of the newest whole checkpoint before there are any.

        Raises:
            ValueError: one line, if there is neither.
        """
        folder = self.folder / "model"
        found = folder if (folder / "config.json").exists() else newest_whole(self.folder)
        if found is None:
            raise ValueError(f"{self.folder} holds no model yet: neither model/ nor a whole checkpoint")
        return found

    def model(self, **options: Any) -> PreTrainedModel:
        """The final model, or that of the newest checkpoint, in eval mode.

        Args:
            options: of ``from_pretrained``: ``dtype``, ``device_map``, ...
        """
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.model_folder, **options)
        return model.eval()

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the run was trained with."""
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(self.model_folder)
        return found

    def card(self, name: str | None = None) -> Path:
        """Write ``model/README.md`` anew, with a picture of the stream, where it was recorded, and the verdicts of the
        sweep that the run took part in, so far as there are any.

        Args:
            name: ``OWNER/NAME`` on the hub, for the lines that load it.

        Raises:
            ValueError: one line, if the run has not ended with a model.
        """
        folder, summary = self.folder / "model", self.summary
        if not folder.exists() or "residual" not in summary:
            raise ValueError(f"{self.folder} has no final model yet; the same command goes on with the run")
        picture = None
        if "stream" in (drawn := self.figures() if (self.folder / "layers.parquet").exists() else {}):
            from .display import png

            (folder / (picture := "stream.png")).write_bytes(png(drawn["stream"]))
        model = AutoConfig.from_pretrained(folder)
        text = card(summary, self.config, model, name=name, picture=picture, verdicts=_verdicts(self.folder))
        write_atomically(folder / "README.md", text)
        return folder / "README.md"

    def push_to_hub(self, name: str, **options: Any) -> str:
        """Put the final model, its tokenizer, code and card on the Hugging Face hub, as one commit.

        Args:
            name: ``OWNER/NAME``; made where it is not there yet.
            options: of ``HfApi.create_repo``: ``private``, ``token``, ...

        Returns:
            Where it is.

        Raises:
            ValueError: one line, if the run has not ended with a model.
            OSError: one line, if the hub cannot be reached or refuses; the run stays as it is.
        """
        from huggingface_hub import HfApi

        self.card(name)
        hub, token, model = HfApi(), options.get("token"), self.folder / "model"
        try:
            hub.create_repo(name, exist_ok=True, **options)
            hub.upload_folder(repo_id=name, folder_path=model, token=token, commit_message="Upload model")
        except Exception as error:  # those of the network's library are no OSErrors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise OSError(
                f"cannot push to {hub.endpoint}/{name} ({reason}); {model} is whole; put that right and call it again"
            ) from None
        return f"{hub.endpoint}/{name}"

    def figures(self) -> Figures:
        """The figures of the run's page, by name, as Altair charts.

        Raises:
            ValueError: one line, if the recorder was off.
        """
        from .display import Figures
        from .report.runs import figures

        return Figures(figures(self.folder))

    def __repr__(self) -> str:
        summary = self.summary
        loss = f", held-out loss {summary['val_loss']:.4f}" if summary.get("val_loss") is not None else ""
        return f"Run({str(self.folder)!r}: {summary.get('status', 'under way')}{loss})"

    def _repr_html_(self) -> str:
        from .display import facts

        summary = self.summary
        spikes = summary.get("spikes", {}).get("loss")
        shown = {
            "residual": flat(read_yaml(self.folder / "config.yaml")).get("model.residual"),
            "status": summary.get("status", "under way"),
            "end state": summary.get("end_state"),
            "optimiser steps": summary.get("step"),
            "held-out loss, nats per token": summary.get("val_loss"),
            "held-out text, bits per byte": summary.get("val_bits_per_byte"),
            "spikes of the loss": None if spikes is None else len(spikes),
            "parameters": summary.get("parameters"),
            "tokens": summary.get("tokens"),
            "seconds": summary.get("wall_seconds"),
        }
        return facts(str(self.folder), shown)


def _verdicts(folder: Path) -> list[str]:
    """What the sweep, if any, of which a run is a trial says of its arm."""
    home = folder.resolve().parent.parent
    if not (home / "sweep.yaml").exists():
        return []
    from .sweeping import open_sweep

    found = open_sweep(home)
    runs = found.runs
    if runs.empty or found.verdicts.empty:
        return []
    own = runs[[(home / one).resolve() == folder.resolve() for one in runs.folder]]
    return [
        f'In the sweep "{home.name}" the arm "{row.arm}"{f" at {row.point}" if row.point else ""}, of which this is a '
        f"run: {row.verdict} ({row.reason}); stability: {row.stability} ({row.stability_reason})."
        for row in found.verdicts.itertuples()
        if row.arm in set(own.arm) and row.point in set(own.point)
    ]


def open_run(folder: str | Path) -> Run:
    """The run whose ``run_dir`` is ``folder``, finished or not. Raises ValueError, one line, if no run is there."""
    return Run(folder)


def train(config: RunConfig | Mapping[str, Any] | str | Path | None = None, **keywords: Any) -> Run:
    """Train a model, or go on from where the same call stood before; what recipes/train.py does.

    Args:
        config: a ``RunConfig``, nested or dotted keys, or a YAML file; by default what recipes/train.py starts from.
        keywords: keys of ``RunConfig`` that win over it: by their last name alone where only one key has it
            (``residual=...``, ``max_steps=200``), as a group (``schedule={"name": "wsd"}``), or dotted in ``**{...}``.
            Where nothing says ``run_dir``, it is a folder under ``runs/`` that the configuration names.

    Returns:
        The run, also where it diverged: ``summary`` says how it ended.

    Raises:
        ValueError: one line, for a run that cannot be, before its first file is written.
        OSError: if its files cannot be written.
        KeyboardInterrupt: if it was interrupted; everything up to there is saved, and the same call goes on.
    """
    chosen = as_run_config(config, keywords)
    with _undisturbed():
        trainer = Trainer(chosen)
        try:
            code = trainer.train()
        except SystemExit as error:  # interrupted where there was nothing to save
            code = error.code  # type: ignore[assignment]
        if code == INTERRUPTED[signal.SIGINT]:
            raise KeyboardInterrupt(f"interrupted at step {trainer.progress.step}; the same call goes on from there")
        if code == INTERRUPTED[signal.SIGTERM]:
            sys.exit(code)
        if trainer.accelerator.is_main_process and chosen.train.record_every and chosen.train.draw:
            from .report.runs import show_run_page

            apart(show_run_page, trainer.folder)
    return Run(trainer.folder)


def as_run_config(config: RunConfig | Mapping[str, Any] | str | Path | None, keywords: Mapping[str, Any]) -> RunConfig:
    """One configuration from what ``train`` is given. Raises ValueError, one line, as ``train`` does."""
    keys = flat(RunConfig().as_dict())
    if isinstance(config, RunConfig):
        told = _without_what_follows(flat(config.as_dict()))
    elif isinstance(config, (str, Path)):
        read_config(Path(config))  # what is wrong with the file is said with its name
        told = flat(read_yaml(Path(config)))
    else:
        told = full_names(config or {}, keys)
    told |= full_names(keywords, keys)
    found = run_config(told)
    if "run_dir" not in told:
        found.run_dir = _folder_of(found)
    return found


def _without_what_follows(told: dict[str, Any]) -> dict[str, Any]:
    """Without the keys that have the value that follows from another one, lest they stand when that one is changed."""
    follows = dict.fromkeys(("init_seed", "data_seed", "dropout_seed"), told["seed"])
    schedule = ScheduleConfig(name=told["schedule.name"])
    follows["schedule.warmup_steps"] = schedule.warmup(told["train.max_steps"])
    follows["train.on_nonfinite"] = "stop" if told["train.on_divergence"] == "stop" else "skip"
    return {key: value for key, value in told.items() if key not in follows or value != follows[key]}


def _folder_of(config: RunConfig) -> str:
    """The same configuration, the same folder; another one, another."""
    keys = {key: value for key, value in flat(config.as_dict()).items() if key not in _OF_THIS_MACHINE}
    digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:8]
    residual = re.sub(r"[^A-Za-z0-9]+", "-", str(keys["model.residual"])).strip("-")[:40]
    return f"runs/{residual}-{digest}"


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What a run sets for its whole process is put back: threads, random numbers, progress bars, accelerate's state."""
    threads, bars = torch.get_num_threads(), logging.is_progress_bar_enabled()
    held = {kind: dict(kind._shared_state) for kind in (PartialState, AcceleratorState, GradientState)}
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            if bars:
                logging.enable_progress_bar()
            for kind, state in held.items():
                kind._shared_state.clear()
                kind._shared_state.update(state)
