"""Fair comparisons: from a definition to trials, to statistics, to verdicts."""

from .config import SweepConfig, parse_sweep
from .session import run_sweep
from .state import State, read_sweep

__all__ = ["State", "SweepConfig", "parse_sweep", "read_sweep", "run_sweep"]
