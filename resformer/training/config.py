"""What a run is told: one typed configuration, from YAML and dotted flags."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..data import DataConfig
from ..files import read_yaml
from ..keys import nested, plain
from ..model.options import ResformerOptions
from ..model.trust import found_in_a_file, name_code
from ..programs import Parser, command_of, parser_of, path_of, read_arguments
from ..ranges import check_ranges, named, within
from .schema import with_kinds_and_ranges

if TYPE_CHECKING:
    from ..model import ResformerConfig

_TRAIN = command_of("train")
FIRST = {
    _TRAIN: "the default: pre-norm, on the source of Python's standard library, minutes on two CPU cores",
    f"{_TRAIN} --model.residual 'post*1,highway*1,pre*rest' --run_dir runs/mixed":
        f"other connections, and where they stand; {command_of('variants')} lists all kinds",
    f"{_TRAIN} --data.source my.txt --data.tokenizer bpe:8000 --data.sequence_length 256":
        "your own text: a file, a folder, a glob, or hub:OWNER/NAME",
    f"{_TRAIN} --model.num_hidden_layers 12 --model.hidden_size 384 --train.max_steps 2000":
        "a larger model, trained for longer; --optimizer.learning_rate is its peak rate",
    f"{_TRAIN} --config {path_of('configs/mixed.yaml')} --seed 1 --trackers [tensorboard]":
        "keys from a file, and flags on top; --print_config prints all keys as such a file",
    f"accelerate launch --config_file {path_of('accelerate/cpu-2.yaml')} {path_of('train.py')}":
        "several processes; the folder beside it has GPUs, split weights and several machines",
    f"{_TRAIN} --print_completion jsonschema > run.schema.json":
        "what an editor completes YAML files of keys from; shtab-bash, -zsh for a shell (pip install shtab)",
    "The same command again":
        "goes on from the newest checkpoint. Exit code 0: done, 2: bad input, 3: diverged, 130 and 143: interrupted",
}  # fmt: skip
"""What help says first."""
STEPS, SEQUENCES, SEEDS = 10**9, 2**24, 2**63 - 1
"""The most that a key may say."""
_SET_BY_THE_TOKENIZER = {"vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "use_cache"}


def _model_options() -> type:
    """The keys of ``ResformerConfig`` that a person sets, as a dataclass: said once, there."""
    defaults = {"hidden_size": 128, "max_position_embeddings": None, "num_attention_heads": 2}
    columns = []
    for item in dataclasses.fields(ResformerOptions):
        if item.name in _SET_BY_THE_TOKENIZER:
            continue
        default = defaults.get(item.name, item.default)
        hint = int | None if item.name == "max_position_embeddings" else item.type
        columns.append((item.name, hint, field(default=default, metadata=item.metadata)))
    options = dataclasses.make_dataclass("ModelOptions", columns)
    options.__doc__ = ResformerOptions.__doc__
    options.__module__ = __name__  # or no process could hand a configuration to another
    return options


ModelOptions = _model_options()


@dataclass
class OptimizerConfig:
    """How weights are updated."""

    name: Literal["adamw", "muon", "sgd"] = "muon"
    """adamw, sgd, or muon: Muon (Jordan et al. 2024) for the blocks' projections and AdamW for all other weights."""
    learning_rate: float = within(1e-12, 1e6, 0.01)
    """Peak learning rate. Muon's updates are scaled to the size of AdamW's, so one rate serves both."""
    betas: tuple[float, float] = within(0, 1 - 1e-9, (0.9, 0.95))
    """AdamW's moment decays; the first is also the momentum of sgd, the second that of muon."""
    weight_decay: float = within(0, 1e6, 0.1)
    """Decoupled weight decay of matrices, as a factor of the learning rate."""
    max_grad_norm: float = within(0, 1e9, 1.0)
    """Gradients are clipped to this global norm; 0 does not clip."""
    z_loss: float = within(0, 1e6, 0.0)
    """Factor of the squared log-normaliser added to the loss."""


@dataclass
class ScheduleConfig:
    """How the learning rate changes."""

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape after the warm-up. wsd (warm-up, stable, decay) falls linearly over the last decay_fraction."""
    warmup_steps: int | None = within(0, STEPS, None)
    """Optimiser steps over which the rate rises linearly from 0; by default 30, or all of a run that is shorter."""
    min_lr_ratio: float = within(0, 1, 0.1)
    """The rate at the end, as a share of the peak."""
    decay_fraction: float = within(0, 1, 0.2)
    """Share of the steps over which wsd decays."""

    def warmup(self, max_steps: int) -> int:
        """``warmup_steps`` of a run of ``max_steps``; the constant schedule does not depend on where it ends."""
        if self.warmup_steps is not None:
            return self.warmup_steps
        return 30 if self.name == "constant" else min(30, max_steps or 30)


@dataclass
class TrainConfig:
    """How long and in what pieces a model trains."""

    max_steps: int = within(1, STEPS, 500)
    """Optimiser steps."""
    batch_size: int = within(1, SEQUENCES, 16)
    """Sequences per optimiser step, over all processes."""
    micro_batch_size: int | None = within(1, SEQUENCES, None)
    """Sequences per forward pass and process; by default as many as need no accumulation."""
    eval_every: int = within(1, STEPS, 200)
    """Optimiser steps between evaluations on part of the held-out text; the end is always evaluated on all of it."""
    eval_sequences: int = within(1, SEQUENCES, 256)
    """Sequences of an evaluation during training."""
    save_every: int = within(1, STEPS, 200)
    """Optimiser steps between checkpoints."""
    keep_checkpoints: int = within(1, STEPS, 2)
    """Newest checkpoints to keep."""
    log_every: int = within(1, STEPS, 10)
    """Optimiser steps between lines of metrics.jsonl."""
    record_every: int = within(0, STEPS, 50)
    """Optimiser steps between looks at the whole stream (layers.parquet, report.html); 0 never looks."""
    record_sequences: int = within(1, SEQUENCES, 4)
    """Held-out sequences of the batch on which the stream is looked at."""
    compile: bool | Literal["auto"] = "auto"
    """Compile each block with torch.compile: true, false, or auto, where the run is long enough to earn it back, by an
    estimate that its first lines say."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    shard: bool = False
    """Split weights, gradients and optimiser states over the processes (FSDP2) instead of keeping a copy in each; then
    only loss and gradient are watched, not the stream."""
    on_divergence: Literal["stop", "continue"] = "stop"
    """When on_nonfinite cannot help any more: save and stop with exit code 3, or go on. A loss that is finite stops no
    run; summary.json's end_state says of it what it was."""
    on_nonfinite: Literal["skip", "stop", "rollback"] | None = None
    """At a batch whose loss or gradient is not finite, which is never stepped on: skip passes over its update; stop
    saves the state before it and counts the run as diverged, exit code 3; rollback goes back to the last checkpoint and
    leaves out the batches since, this one included. After max_rollbacks rollbacks, or 20 updates skipped in a row,
    on_divergence decides. By default stop, or skip where on_divergence is continue."""
    max_rollbacks: int = within(0, STEPS, 3)
    """Rollbacks of a run, at most."""
    patience: float = within(1, 10**6, 600.0)
    """Seconds that a process waits for the others, to begin with and in every exchange, before it ends."""
    draw: bool = True
    """Draw report.html at the end."""


@dataclass
class RunConfig:
    """A training run."""

    model: ModelOptions = field(default_factory=ModelOptions)  # type: ignore[valid-type]
    data: DataConfig = field(default_factory=lambda: DataConfig(tokenizer="bpe:2048", sequence_length=128))
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    run_dir: str = named("runs/default")
    """Folder of the run's files."""
    seed: int = within(0, SEEDS, 0)
    """Sets the three seeds below where they are not given."""
    init_seed: int | None = within(0, SEEDS, None)
    """Of the initial weights."""
    init_from: str | None = named(None)
    """Folder of a resformer model (a checkpoint of a run, or what import.py wrote) whose weights the model starts from.
    What is not said of model.* is as there, and so is data.tokenizer; model.residual may be another wiring."""
    data_seed: int | None = within(0, SEEDS, None)
    """Of the order of the data."""
    dropout_seed: int | None = within(0, SEEDS, None)
    """Of dropout."""
    resume: str = "auto"
    """auto (go on from the newest whole checkpoint of run_dir), never (refuse a folder in use), or a checkpoint."""
    trackers: list[str] = field(default_factory=list)
    """Trackers of accelerate to log to as well: tensorboard, wandb, trackio, ..."""

    def __post_init__(self):
        for name in ("init_seed", "data_seed", "dropout_seed"):
            if getattr(self, name) is None:
                setattr(self, name, self.seed)
        self.schedule.warmup_steps = self.schedule.warmup(self.train.max_steps)
        if self.train.on_nonfinite is None:
            self.train.on_nonfinite = "stop" if self.train.on_divergence == "stop" else "skip"

    def check(self) -> None:
        """Raises ValueError, one line, for numbers that no run could use."""
        self.data.check()
        check_ranges(self)
        for group in ("model", "optimizer", "schedule", "train"):
            check_ranges(getattr(self, group), f"{group}.")
        warmup, steps = self.schedule.warmup(self.train.max_steps), self.train.max_steps
        if self.schedule.name != "constant" and warmup > steps:  # a constant schedule may go on beyond max_steps
            raise ValueError(
                f"schedule.warmup_steps {warmup} is longer than the run, train.max_steps {steps}; shorten the first"
            )
        if self.data.sequence_length > (longest := self.longest_sequence()):
            raise ValueError(
                f"data.sequence_length {self.data.sequence_length} is above model.max_position_embeddings {longest}; "
                "raise the second or leave it out"
            )

    def longest_sequence(self) -> int:
        return self.model.max_position_embeddings or self.data.sequence_length  # type: ignore[attr-defined]

    def model_config(self, **tokenizer_facts: Any) -> "ResformerConfig":
        """The model's configuration, with what only the tokenizer knows (``vocab_size``, ``eos_token_id``, ...)."""
        from ..model import ResformerConfig

        options = vars(self.model) | {"max_position_embeddings": self.longest_sequence()}
        return ResformerConfig(**options, **tokenizer_facts)  # type: ignore[arg-type]

    def as_dict(self) -> dict[str, Any]:
        return plain(dataclasses.asdict(self))


def run_parser() -> Parser:
    """Of all keys of a run."""
    parser = parser_of(RunConfig, "train.py", "Train a Transformer whose residual connections you choose.", first=FIRST)
    parser.amended = lambda schema: with_kinds_and_ranges(schema, RunConfig)
    return parser


def parse_arguments(argv: list[str] | None = None) -> RunConfig:
    """The run that the command line describes. Raises ValueError as ``run_config`` does."""
    return _checked(argv)


def run_config(values: Mapping[str, Any] | None = None) -> RunConfig:
    """The run that nested or dotted keys describe: ``{"train": {"max_steps": 9}, "model.residual": "post"}``.

    Raises:
        ValueError: one line for a key that does not exist (with the nearest one), a wrong type, or values that do not
            fit together.
    """
    return _checked(nested(plain(values or {})))


def read_config(file: Path) -> RunConfig:
    """The run that a YAML file describes. Raises ValueError, one line that names the file."""
    try:
        with found_in_a_file():
            return run_config(read_yaml(file))
    except OSError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise ValueError(error if str(file) in str(error) else f"{file}: {error}") from error


def described(folder: Path) -> dict[str, Any]:
    """config.json of a model's folder. Raises ValueError, one line, if that is none."""
    try:
        told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError("config.json cannot be read") from error
    if not isinstance(told, dict):
        raise ValueError("config.json holds no keys")
    return told


def defaults_from(folder: Path) -> dict[str, Any]:
    """What keys are by default where ``init_from`` is ``folder``: those of its model, and its tokenizer if it has one.

    Raises:
        ValueError: one line, if it holds no resformer model.
    """
    try:
        told = described(folder)
    except ValueError as error:
        raise ValueError(f"init_from: {str(folder)!r} holds no model ({error}); give its folder") from error
    if told.get("model_type") != "resformer":
        raise ValueError(
            f"init_from: {str(folder)!r} holds a {told.get('model_type')} model; make it a resformer one with "
            "import.py first"
        )
    from ..model import ResformerConfig

    try:
        there = ResformerConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ValueError(f"init_from: {str(folder)!r}: {error}") from error
    found = {f"model.{item.name}": plain(getattr(there, item.name)) for item in dataclasses.fields(ModelOptions)}
    if (folder / "tokenizer.json").exists():
        found["data.tokenizer"] = str(folder)
    return found


def _checked(given: list[str] | dict[str, Any] | None) -> RunConfig:
    parser = run_parser()
    words = sys.argv[1:] if given is None else given
    if isinstance(words, list):
        name_code(words)
    # Printing the keys ends the program while it reads them, before it could know whose defaults they have.
    to_read = [word for word in words if not word.startswith("--print_config")] if isinstance(words, list) else words
    found = read_arguments(parser, to_read)
    if (folder := found["init_from"]) is not None:
        parser.set_defaults(defaults_from(Path(folder)))
    if folder is not None or len(to_read) < len(words):
        found = read_arguments(parser, words)
    config = RunConfig(**{key: value for key, value in found.items() if value is not None})
    config.check()
    with found_in_a_file() if isinstance(words, list) else contextlib.nullcontext():
        config.model_config(vocab_size=1)
    return config
