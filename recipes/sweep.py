#!/usr/bin/env python3
"""Compare residual connections over learning rates, seeds and whatever else a run has keys for.

python recipes/sweep.py --config recipes/sweeps/quick.yaml [--dotted.key VALUE ...]

The same command goes on with a sweep that was stopped. `--dry_run` prints the plan and what it costs.
"""

from resformer.programs import run_program
from resformer.sweeps.config import parse_sweep


def main(arguments: list[str] | None = None) -> int:
    config = parse_sweep(arguments)
    from resformer.sweeps import run_sweep  # help does not wait for it

    return run_sweep(config).exit_code


if __name__ == "__main__":
    run_program(main)
