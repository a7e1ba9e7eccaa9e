"""Every key a training run knows, with its type, unit and default."""

import dataclasses
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ..data import DataConfig
from ..model import ResformerConfig


class ConfigError(ValueError):
    """A run cannot start as described. One line: which key, what is wrong with it, what to do instead."""


# What the tokenizer and the use of the model say, and not the person.
_NOT_TO_BE_SAID = {"use_cache", "pad_token_id", "bos_token_id", "eos_token_id"}
_DEFAULTS_OF_A_RUN = {"vocab_size": None, "max_position_embeddings": None}


def _model_keys() -> type:
    """`model.*`: the fields that ResformerConfig itself declares. Two of them default to what the data says."""
    said = [f for f in dataclasses.fields(ResformerConfig) if f.name in ResformerConfig.__annotations__]  # type: ignore[arg-type]
    fields = []
    for f in said:
        if f.name in _NOT_TO_BE_SAID:
            continue
        if f.name in _DEFAULTS_OF_A_RUN:
            fields.append((f.name, f.type | None, _DEFAULTS_OF_A_RUN[f.name]))  # type: ignore[operator]
        else:
            fields.append((f.name, f.type, f.default))
    keys = dataclasses.make_dataclass("ModelConfig", fields, module=__name__)
    documentation = (ResformerConfig.__doc__ or "").replace("number of tokens.", "by default the tokenizer's size.")
    keys.__doc__ = documentation.replace("longest sequence in tokens.", "in tokens, by default data.sequence_length.")
    return keys


if TYPE_CHECKING:
    ModelConfig = Any
else:
    ModelConfig = _model_keys()


@dataclass
class OptimizerConfig:
    """How gradients become updates."""

    name: Literal["adamw", "muon", "sgd"] = "adamw"
    """`muon`: Muon for the matrices inside the blocks, AdamW for everything else."""

    learning_rate: float = 2e-3
    """Peak learning rate. Muon's updates are scaled to AdamW's size, so that one number fits both."""

    betas: tuple[float, float] = (0.9, 0.95)
    """Decay rates of AdamW's two averages; the first is also the momentum of SGD."""

    weight_decay: float = 0.1
    """Weight decay, decoupled for AdamW and Muon. Not for vectors, nor what a residual connection exempts."""

    max_grad_norm: float = 1.0
    """Gradients are scaled down to this global norm; 0 for no clipping."""

    z_loss: float = 0.0
    """Factor of the squared log-normaliser added to the loss."""


@dataclass
class ScheduleConfig:
    """The learning rate over the steps, as a factor of `optimizer.learning_rate`."""

    name: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """Shape after the warm-up; `wsd` stays at the peak and falls linearly at the end."""

    warmup_steps: int = 50
    """Steps of linear warm-up."""

    min_lr_ratio: float = 0.1
    """Where the learning rate ends, as a share of the peak (not for `constant`)."""

    decay_fraction: float = 0.2
    """Share of `train.max_steps` in which `wsd` falls."""


@dataclass
class TrainConfig:
    """The loop. Steps are optimiser steps."""

    max_steps: int = 600
    """Steps of the whole run."""

    batch_size: int = 32
    """Sequences per step, over all processes and micro batches."""

    micro_batch_size: int | None = None
    """Sequences per forward pass and process; by default a process's whole share of the batch."""

    eval_every: int = 200
    """Steps between losses over the validation split; the last step always has one."""

    save_every: int = 200
    """Steps between checkpoints; the last step always has one."""

    keep_checkpoints: int = 2
    """Checkpoints kept, the newest ones; 0 for all."""

    log_every: int = 10
    """Steps between lines of metrics.jsonl; the first step always has one."""

    compile: bool = False
    """torch.compile each block. Needs a C++ compiler on CPU."""

    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, more time."""

    on_divergence: Literal["stop", "continue"] = "stop"
    """After a non-finite loss or gradient, whose update is never made: stop (exit code 3), or go on without it."""


@dataclass
class TrainingConfig:
    """A training run."""

    run_dir: str = "runs/default"
    """Folder of the run. A run that was interrupted there is continued."""

    seed: int = 0
    """Sets the three seeds below where they are not given."""

    init_seed: int | None = None
    """Seed of the initial weights."""

    data_seed: int | None = None
    """Seed of the order of sequences."""

    dropout_seed: int | None = None
    """Seed of dropout."""

    resume: str = "auto"
    """`auto`: go on from the newest checkpoint of run_dir; `never`: refuse a run_dir that holds a run; or the path
    of a checkpoint (or of a run, for its newest) from which a new run_dir starts."""

    trackers: list[str] = field(default_factory=list)
    """Accelerate's trackers that get the metrics too: tensorboard, wandb, trackio, ..."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    @property
    def seeds(self) -> dict[str, int]:
        """The three seeds, resolved: `init_seed`, `data_seed`, `dropout_seed`."""
        given = {name: getattr(self, name) for name in ("init_seed", "data_seed", "dropout_seed")}
        return {name: self.seed if value is None else value for name, value in given.items()}

    @property
    def tokens_per_step(self) -> int:
        return self.train.batch_size * self.data.sequence_length

    def micro_batch_size(self, world_size: int) -> int:
        """Sequences per forward pass and process."""
        return self.train.micro_batch_size or self.train.batch_size // world_size

    def check(self, world_size: int = 1) -> None:
        """Raises ConfigError or DataError for values that no run could have."""
        self.data.check()
        _check_ranges(self)
        if self.data.sequence_length > (longest := self.model.max_position_embeddings or self.data.sequence_length):
            raise ConfigError(
                f"data.sequence_length {self.data.sequence_length} is more than model.max_position_embeddings "
                f"{longest}; raise the latter or leave it out"
            )
        unit = world_size * (self.train.micro_batch_size or 1)
        if self.train.batch_size % unit:
            below, above = self.train.batch_size // unit * unit, -(-self.train.batch_size // unit) * unit
            micro = f"train.micro_batch_size {self.train.micro_batch_size} x " if self.train.micro_batch_size else ""
            raise ConfigError(
                f"train.batch_size {self.train.batch_size} does not divide into {micro}{world_size} "
                f"process{'es' if world_size > 1 else ''}; take {f'{below} or ' if below else ''}{above}"
            )


def _check_ranges(config: TrainingConfig) -> None:
    optimizer, schedule, train = config.optimizer, config.schedule, config.train
    at_least = [
        ("seed", config.seed, 0),
        *((name, value, 0) for name, value in config.seeds.items()),
        ("optimizer.learning_rate", optimizer.learning_rate, 0),
        ("optimizer.weight_decay", optimizer.weight_decay, 0),
        ("optimizer.max_grad_norm", optimizer.max_grad_norm, 0),
        ("optimizer.z_loss", optimizer.z_loss, 0),
        ("schedule.warmup_steps", schedule.warmup_steps, 0),
        ("schedule.min_lr_ratio", schedule.min_lr_ratio, 0),
        ("schedule.decay_fraction", schedule.decay_fraction, 0),
        ("train.max_steps", train.max_steps, 1),
        ("train.batch_size", train.batch_size, 1),
        ("train.micro_batch_size", 1 if train.micro_batch_size is None else train.micro_batch_size, 1),
        ("train.eval_every", train.eval_every, 1),
        ("train.save_every", train.save_every, 1),
        ("train.keep_checkpoints", train.keep_checkpoints, 0),
        ("train.log_every", train.log_every, 1),
    ]
    for key, value, smallest in at_least:
        if not value >= smallest:  # also refuses nan
            raise ConfigError(f"{key} is {value}; it must be at least {smallest}")
    at_most = [
        ("schedule.min_lr_ratio", schedule.min_lr_ratio, 1),
        ("schedule.decay_fraction", schedule.decay_fraction, 1),
        ("schedule.warmup_steps", schedule.warmup_steps, train.max_steps),
        *(("optimizer.betas", beta, 1 - 1e-12) for beta in optimizer.betas),
    ]
    for key, value, largest in at_most:
        if value > largest:
            shown = "train.max_steps" if key == "schedule.warmup_steps" else "below 1" if largest < 1 else "1"
            raise ConfigError(f"{key} is {value}; it must be {shown if largest < 1 else f'at most {shown}'}")
    if min(optimizer.betas) < 0:
        raise ConfigError(f"optimizer.betas is {list(optimizer.betas)}; both must be at least 0")
