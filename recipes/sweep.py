"""Compare residual connections over learning rates, seeds and whatever else a run has keys for.

python recipes/sweep.py --config recipes/sweeps/quick.yaml [--dotted.key VALUE ...]

The same command goes on with a sweep that was stopped. `--dry_run` prints the plan and what it costs.
"""

from pathlib import Path

from resformer.programs import run_program
from resformer.sweeps.config import parse_sweep
from resformer.sweeps.session import run_sweep

PROGRAM = Path(__file__).with_name("train.py")


def main(arguments: list[str] | None = None) -> int:
    return run_sweep(parse_sweep(arguments), Path(PROGRAM))


if __name__ == "__main__":
    run_program(main)
