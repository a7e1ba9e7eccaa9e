"""Fair comparisons: from a definition to trials, to statistics, to verdicts."""

from typing import TYPE_CHECKING

from ..lazily import lazily

if TYPE_CHECKING:
    from .config import SweepConfig as SweepConfig
    from .config import parse_sweep as parse_sweep
    from .session import run_sweep as run_sweep
    from .state import State as State
    from .state import read_sweep as read_sweep

_WHERE = {
    "State": "state",
    "SweepConfig": "config",
    "parse_sweep": "config",
    "read_sweep": "state",
    "run_sweep": "session",
}

__all__ = list(_WHERE)

__getattr__, __dir__ = lazily(__name__, _WHERE)
