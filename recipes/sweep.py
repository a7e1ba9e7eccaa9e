"""Compare residual connections over learning rates, seeds and whatever else a run has keys for.

python recipes/sweep.py --config recipes/sweeps/quick.yaml [--dotted.key VALUE ...]

The same command goes on with a sweep that was stopped. `--dry_run` prints the plan and what it costs.
"""

from pathlib import Path

from resformer.files import write_json
from resformer.programs import run_program
from resformer.sweeps import running, screen
from resformer.sweeps.config import parse_sweep
from resformer.sweeps.executors import make_executor
from resformer.sweeps.plan import corpora, make_plan
from resformer.sweeps.timing import keep_step_times
from resformer.sweeps.trials import Sweep

PROGRAM = Path(__file__).with_name("train.py")


def main(arguments: list[str] | None = None) -> int:
    config = parse_sweep(arguments)
    sweep = Sweep(config)
    data = corpora(sweep, show_progress=screen.on_a_terminal())
    plan = make_plan(sweep, data)
    if config.dry_run:
        screen.print_plan(sweep, data, running.load(sweep), plan)
        return 0
    executor = make_executor(config.executor, str(sweep.folder / "executor"))
    sweep.open_folder()
    write_json(sweep.folder / "plan.json", plan.as_dict())
    state = running.load(sweep, set_torn_aside=True)
    screen.print_plan(sweep, data, state, plan)
    if config.executor.name == "local":  # elsewhere trials run on other machines than this one
        keep_step_times(sweep, data)
    with screen.live(sweep, executor.slots) as show:
        code = running.run(sweep, executor, str(PROGRAM), state, show)
    screen.print_end(sweep, state, code)
    return code


if __name__ == "__main__":
    run_program(main)
