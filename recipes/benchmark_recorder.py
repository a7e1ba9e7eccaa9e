"""What the recorder costs: a step of the default job plain, watched, and watched with a look at the stream, in turn.

python recipes/benchmark_recorder.py [--residual pre] [--rounds 15]
"""

from resformer.programs import arguments_of, run_program
from resformer.training import run_config


def benchmark(residual: str = "pre", rounds: int = 15) -> None:
    """Time the default job's step.

    Args:
        residual: as in ``model.residual``.
        rounds: timed rounds, after two that are not.
    """
    from resformer.training.benchmark import recorder_cost  # help does not wait for it

    config = run_config({"model.residual": residual})
    watch, look = recorder_cost(config, rounds)
    every = config.train.record_every
    parts = f"watch {100 * watch:.1f} %, a look {look:.2f} steps every {every} steps"
    print(f"{residual}: recorder {100 * (watch + look / every):.1f} % of a step: {parts} (medians of {rounds} rounds)")


def main(arguments: list[str] | None = None) -> int:
    benchmark(**arguments_of(benchmark, arguments))
    return 0


if __name__ == "__main__":
    run_program(main)
