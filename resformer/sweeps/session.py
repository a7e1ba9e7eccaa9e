"""A sweep from its definition to its end."""

from pathlib import Path

from ..files import write_json
from ..programs import DONE
from . import running, screen
from .config import SweepConfig
from .executors import make_executor
from .plan import corpora, make_plan
from .timing import keep_step_times
from .trials import Sweep


def run_sweep(config: SweepConfig, program: Path) -> int:
    """Run what a sweep wants and has not finished; or, with ``dry_run``, only say what that is and costs.

    Args:
        program: file of the training program that runs a trial.

    Returns:
        The exit code: 0 done, 1 where trials were given up, 130 or 143 interrupted.

    Raises:
        ValueError: one line, for a combination that no run could have, or a sweep that runs already.
    """
    sweep = Sweep(config)
    data = corpora(sweep, show_progress=screen.on_a_terminal())
    plan = make_plan(sweep, data)
    if config.dry_run:
        screen.print_plan(sweep, data, running.load(sweep), plan)
        return DONE
    executor = make_executor(config.executor, str(sweep.folder / "executor"))
    sweep.open_folder()
    write_json(sweep.folder / "plan.json", plan.as_dict())
    state = running.load(sweep, set_torn_aside=True)
    screen.print_plan(sweep, data, state, plan)
    if config.executor.name == "local":  # elsewhere trials run on other machines than this one
        keep_step_times(sweep, data)
    with screen.live(sweep, executor.slots) as show:
        code = running.run(sweep, executor, str(program), state, show)
    screen.print_end(sweep, state, code)
    return code
