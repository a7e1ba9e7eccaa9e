"""From a configuration to a trained model: the trainer, its configuration, checkpoints and resuming."""

from typing import TYPE_CHECKING

from ..lazily import lazily

if TYPE_CHECKING:
    from .config import RunConfig as RunConfig
    from .config import parse_arguments as parse_arguments
    from .config import read_config as read_config
    from .config import run_config as run_config
    from .trainer import Trainer as Trainer

_WHERE = {
    "RunConfig": "config",
    "Trainer": "trainer",
    "parse_arguments": "config",
    "read_config": "config",
    "run_config": "config",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
