"""From a configuration to a trained model: the trainer, its configuration, checkpoints and resuming."""

from .config import RunConfig, parse_arguments, read_config, run_config
from .trainer import Trainer

__all__ = ["RunConfig", "Trainer", "parse_arguments", "read_config", "run_config"]
