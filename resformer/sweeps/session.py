"""A sweep from its definition to its verdicts."""

from ..files import locked
from . import running, screen
from .config import SweepConfig
from .executors import make_executor
from .plan import corpora, make_plan
from .provenance import of_this_sweep
from .state import State, load
from .timing import keep_step_times
from .trials import Sweep


def run_sweep(config: SweepConfig) -> State:
    """Run what a sweep wants and does not have yet, and say on the screen what it costs, where it stands and what it
    found; with ``dry_run``, what it would cost.

    Returns:
        Where it stands then, with its ``exit_code``.

    Raises:
        ValueError: one line, for what cannot be run: before the first file is written.
    """
    sweep = Sweep(config)
    data = corpora(sweep, show_progress=screen.on_a_terminal())
    plan, here = make_plan(sweep, data), of_this_sweep(sweep, data)
    if config.dry_run:
        state = load(sweep)
        screen.print_plan(sweep, data, state, plan)
        return state
    executor = make_executor(config.executor, str(sweep.folder / "executor"))
    sweep.open_folder()
    try:
        lock = locked(sweep.folder / ".lock", wait=False)
        with lock:
            state = load(sweep, set_torn_aside=True)
            state.agree(here)
            plan.write(sweep.folder)
            screen.print_plan(sweep, data, state, plan)
            here_too = config.executor.name == "local"  # elsewhere trials run on other machines than this one
            if here_too and config.executor.time_steps:
                keep_step_times(sweep)
            with screen.live(sweep, executor.slots) as show:
                state.exit_code = running.run(state, executor, show)
    except BlockingIOError:
        raise ValueError(f"{sweep.folder}: another process runs this sweep; wait for it, or end it first") from None
    screen.print_end(state)
    return state
