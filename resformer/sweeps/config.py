"""What a sweep is told: arms, grid, learning rates, seeds, controls, and who runs it."""

import itertools
import re
import sys
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from ..keys import flat, plain
from ..model.trust import name_code
from ..programs import command_of, parser_of, path_of, read_arguments
from ..ranges import check_ranges, named, within
from ..training.config import SEEDS, OptimizerConfig
from .results import Statistics
from .schema import with_keys_of_a_run, with_ranges

_SWEEP = f"{command_of('sweep')} --config {path_of('sweeps/quick.yaml')}"
FIRST = {
    f"{_SWEEP} --dry_run": "the plan, what it costs, and every difference between its arms",
    _SWEEP: "a sweep of three connections against pre-norm; the same command again goes on with it",
    f"{_SWEEP} --sweep_dir runs/sweeps/mine --base.data.source my.txt --base.train.max_steps 500":
        "the same question of your own text; --base.KEY sets one key of all its runs",
    f"{_SWEEP} --executor.workers 2 --seeds.reporting [0,1,2,3]":
        "two trials at once, four seeds that are reported",
    f"{command_of('report')} runs/sweeps/quick": "its page, finished or not; --watch follows it",
    f"{command_of('sweep')} --print_completion jsonschema > sweep.schema.json":
        "what an editor completes YAML files of sweeps from; shtab-bash, -zsh for a shell (pip install shtab)",
}  # fmt: skip
"""What help says first."""
A_A_SEED = 500_000
"""The A/A arm's initial weights and dropout are its own, by a seed that is as much higher (the data's order is shared,
as between any two arms): a bit-equal copy would come out null whatever the noise."""
_RATES: tuple[float, float] = next(
    item.metadata["range"] for item in fields(OptimizerConfig) if item.name == "learning_rate"
)
_SEEDS = (0, SEEDS - A_A_SEED)
_SECONDS = 10**9
_LONGEST_ARM = 100
"""In bytes: a trial's folder is called after its arm, its point, rate and seed, and may have 255."""


@dataclass
class LearningRates:
    """The peak learning rates that every arm is tuned over."""

    grid: list[float] = field(
        default_factory=lambda: [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1], metadata={"range": _RATES}
    )
    """Of every arm at every point."""
    extend_by: int = within(0, 100, 2)
    """Rates that may be added at each point, for all its arms alike, while the best of some arm lies at the edge."""
    multiples: list[float] = field(default_factory=lambda: [1.0, 2.0, 4.0], metadata={"range": (1, 10**6)})
    """Of the best rate, at which the reporting seeds run; without common rates, bad ends are compared there, which
    answers little where an arm fails close above a best rate that is known to half a rung only."""
    common: list[float] = field(default_factory=list, metadata={"range": _RATES})
    """Rates at which the reporting seeds of every arm run as well: bad ends are then compared at these, the same for
    all arms, and no verdict on stability rests on tuning."""


@dataclass
class Seeds:
    """Each seed sets the initial weights, the order of the data and dropout."""

    tuning: list[int] = field(default_factory=lambda: [1000, 1001], metadata={"range": _SEEDS})
    """Choose each arm's best learning rate; never reported. One says nothing of how well the rate is known."""
    reporting: list[int] = field(default_factory=lambda: [*range(8)], metadata={"range": _SEEDS})
    """Reported, paired between arms. More may be added at the end later, up to the last of the looks."""
    looks: list[int] = field(default_factory=list, metadata={"range": (2, 10**6)})
    """Numbers of reporting seeds at which verdicts are drawn, declared before the first run, for example [4, 8]; the
    chance of a false verdict is spent over them, and an arm of which all is said runs no more seeds. By default there
    is one look, at all of them."""
    reporting_rates: Literal["optimum", "all"] = "optimum"
    """Where the reporting seeds run: at the multiples of the arm's best rate and the common rates, or at every rate of
    the grid as well."""


@dataclass
class Controls:
    """What every difference is measured against, and what shows that the instrument works."""

    baseline: str = "pre"
    """The arm that all others are compared with."""
    a_a_control: str | None = None
    """The A/A arm: the baseline once more, with initial weights of its own. It must come out null."""
    positive_control: str | None = None
    """An arm known to break. It must be flagged."""
    positive_control_at: dict[str, Any] = field(default_factory=dict)
    """The part of the grid where it is known to break; by default anywhere."""
    sensitivity_control: str | None = None
    """The baseline with a few per cent fewer steps: shows what a small true difference looks like in the table."""
    equal_time: dict[str, str] = field(default_factory=dict)
    """Arm: another arm that is the baseline with more train.max_steps, by as much as the first one's step takes longer
    (the page's costs say it). It runs at the baseline's best rate, and the first is compared with it too."""


_RENAMED = {"reference": "baseline", "same": "a_a_control", "broken": "positive_control"}
_RENAMED |= {"broken_at": "positive_control_at"}


@dataclass
class ExecutorConfig:
    """Who runs the trials. Their results do not depend on it."""

    name: Literal["local", "ray", "slurm"] = "local"
    """This machine, a Ray cluster, or SLURM through submitit."""
    workers: int | None = within(1, 10_000, None)
    """Trials at once; by default as many as devices or cores allow."""
    processes: int = within(1, 10_000, 1)
    """Processes of one trial; more than one are launched by accelerate."""
    threads: int = within(1, 1024, 1)
    """Threads of a process."""
    devices: int | None = within(0, 1024, None)
    """Accelerators of one process; by default one where there are any."""
    retries: int = within(0, 1000, 2)
    """Further attempts at a trial that ended for a reason outside the run."""
    stall: float = within(0, _SECONDS, 200.0)
    """A trial none of whose files has changed for as long as that many steps take is ended, which counts as an attempt;
    0 never ends one."""
    stall_seconds: float = within(0, _SECONDS, 600.0)
    """It is never ended sooner than that: starting, compiling and evaluating write nothing."""
    time_steps: bool = True
    """Before the first trial, time a step of each arm in turn with the baseline's; without it the page has no costs."""
    address: str | None = named(None)
    """Of a Ray cluster; by default one is started here."""
    slurm: dict[str, Any] = field(default_factory=dict)
    """Parameters of submitit: partition, timeout_min, mem_gb, ...; `cluster: local` runs its jobs here."""


@dataclass
class SweepConfig:
    """A sweep: arms x grid x learning rates x seeds."""

    sweep_dir: str = named("runs/sweep")
    """Folder of the sweep's files and runs."""
    base: dict[str, Any] = field(default_factory=dict)
    """Keys of a run (see recipes/train.py --help) that all trials share."""
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name: keys of a run. What is not the residual connection is printed as a difference; `because` may say why."""
    grid: dict[str, list[Any]] = field(default_factory=dict)
    """Key of a run: its values. Every arm runs at every point."""
    exclude: list[dict[str, Any]] = field(default_factory=list)
    """Parts of arms x grid to leave out, each as {arm: NAME, KEY: VALUE}."""
    learning_rates: LearningRates = field(default_factory=LearningRates)
    seeds: Seeds = field(default_factory=Seeds)
    controls: Controls = field(default_factory=Controls)
    statistics: Statistics = field(default_factory=Statistics)
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)
    program: str = named("resformer.training:Trainer")
    """What trains a trial, as my_module:MyTrainer: a subclass of the Trainer, or a function of a RunConfig that returns
    the exit code of a run."""
    on_difference: Literal["refuse", "rerun", "keep"] = "refuse"
    """Where code, versions, device, precision or corpus differ from those of the sweep's first trial: do not go on, run
    again what ran on others, or mix them, which every verdict that does then says."""
    keep: Literal["model", "all", "figures"] = "model"
    """Of a finished trial: its figures and final model, its checkpoints too, or its figures only."""
    dry_run: bool = False
    """Print the plan and what it costs, and run nothing."""

    def check(self) -> None:
        """Raises ValueError, one line, for what no sweep could be."""
        check_ranges(self)
        for group in ("learning_rates", "seeds", "controls", "statistics", "executor"):
            check_ranges(getattr(self, group), f"{group}.")
        if not self.arms:
            raise ValueError("arms: there are none; name some, for example {pre: {model.residual: pre}}")
        self._check_arms()
        for name, value in self.grid.items():
            if not isinstance(name, str):
                raise ValueError(f"grid: {name!r} is no key of a run; name one, for example model.num_hidden_layers")
            if not value:
                raise ValueError(f"grid: {name} has no values")
        for role, seeds in (("tuning", self.seeds.tuning), ("reporting", self.seeds.reporting)):
            if not seeds:
                raise ValueError(f"seeds.{role}: there are none; give at least one, for example [0, 1, 2]")
            if len(set(seeds)) < len(seeds):
                raise ValueError(f"seeds.{role}: {seeds} must be different")
        if both := set(self.seeds.tuning) & set(self.seeds.reporting):
            raise ValueError(
                f"seeds: {sorted(both)} stand under tuning and reporting; a seed that chose is not reported"
            )
        self._check_looks()
        multiples = self.learning_rates.multiples
        if not multiples or multiples[0] != 1 or sorted(set(multiples)) != multiples:
            raise ValueError(f"learning_rates.multiples: {multiples} must begin with 1 and ascend, as [1, 2, 4]")
        common = self.learning_rates.common
        if sorted(set(common)) != common:
            raise ValueError(f"learning_rates.common: {common} must be rates that ascend, as [0.01, 0.03]")
        if common and len(multiples) > 1:
            raise ValueError(
                "learning_rates.common: bad ends are compared at common rates or at multiples of each arm's best rate; "
                "say multiples: [1], or no common rates"
            )
        rates = self.learning_rates.grid
        if not rates or len(set(rates)) < len(rates):
            raise ValueError(f"learning_rates.grid: {rates} must be different rates, at least one")
        if self.learning_rates.extend_by and len(rates) < 2:
            raise ValueError("learning_rates: one rate cannot be extended; give two, or extend_by: 0")
        chosen = self.statistics
        if chosen.window and not any(chosen.window[0] <= rate <= chosen.window[1] for rate in rates):
            raise ValueError(f"statistics.window: no rate of the grid {rates} lies in {list(chosen.window)}")
        for role, arm in vars(self.controls).items():
            if isinstance(arm, str) and arm not in self.arms:
                raise ValueError(f"controls.{role}: there is no arm {arm!r}; the arms are {', '.join(self.arms)}")
        self._check_equal_time()
        if self.controls.a_a_control == self.controls.baseline:
            raise ValueError("controls.a_a_control is the baseline itself; give the A/A arm a name of its own")
        for part in (*self.exclude, self.controls.positive_control_at):
            for key, value in part.items():
                allowed = list(self.arms) if key == "arm" else self.grid.get(key)
                if allowed is None or value not in allowed:
                    raise ValueError(f"{part}: {key} is not in the grid with the value {value!r}")

    def _check_arms(self) -> None:
        for arm in self.arms:
            if not isinstance(arm, str):  # YAML takes 1, null, true and .nan for values
                raise ValueError(f"arms: {arm!r} is not a name but a value of YAML; put the arm's name in quotes")
            if not arm.strip():
                raise ValueError(f"arms: {arm!r} names nothing; give the arm a name")
            if len(arm.encode()) > _LONGEST_ARM:
                raise ValueError(
                    f"arms: {arm[:20] + '...'!r} is longer than {_LONGEST_ARM} bytes; shorten the arm's name"
                )

    def _check_equal_time(self) -> None:
        controls = self.controls
        beside = (controls.baseline, controls.a_a_control, controls.positive_control, controls.sensitivity_control)
        for pair in controls.equal_time.items():
            for arm in pair:
                if arm not in self.arms:
                    raise ValueError(
                        f"controls.equal_time: there is no arm {arm!r}; the arms are {', '.join(self.arms)}"
                    )
                if arm in beside:
                    raise ValueError(f"controls.equal_time: {arm!r} is the baseline or a control; name two other arms")
        if both := set(controls.equal_time) & set(controls.equal_time.values()):
            raise ValueError(f"controls.equal_time: {', '.join(sorted(both))} cannot be compared and compared with")

    def _check_looks(self) -> None:
        looks, seeds = self.seeds.looks, len(self.seeds.reporting)
        if looks != sorted(set(looks)):
            raise ValueError(f"seeds.looks: {looks} must be different numbers of seeds, ascending")
        if looks and seeds not in looks:
            raise ValueError(f"seeds.reporting: there are {seeds}, and a look is taken at {looks}; give one of these")

    def definition(self) -> dict[str, Any]:
        """What must not change while a sweep goes on: all but who runs it, where, and what is kept.

        One thing may: ``seeds.reporting`` may grow at its end, to a number that ``seeds.looks`` declared.
        """
        free = {"executor", "sweep_dir", "keep", "dry_run", "on_difference"}
        told: dict[str, Any] = yaml.safe_load(yaml.safe_dump(plain(asdict(self)), sort_keys=False))
        return {key: value for key, value in told.items() if key not in free}


def parse_sweep(argv: list[str] | None = None) -> SweepConfig:
    """The sweep that the command line describes.

    Raises:
        ValueError: one line, for anything that is not a sweep.
    """
    parser = parser_of(SweepConfig, "sweep.py", "Compare residual connections over a grid of runs.", first=FIRST)
    parser.amended = lambda schema: with_ranges(with_keys_of_a_run(schema), SweepConfig)
    words = sys.argv[1:] if argv is None else argv
    name_code(words)
    rest, overrides = _base_flags(words)
    try:
        config = SweepConfig(**read_arguments(parser, rest))
    except ValueError as error:
        if named := re.search(rf"unknown key 'controls\.({'|'.join(_RENAMED)})\b", str(error)):
            raise ValueError(f"controls.{named[1]} is called controls.{_RENAMED[named[1]]} now") from None
        raise
    for file in _config_files(rest):
        refuse_repeated_keys(file)
    config.base = flat(config.base) | overrides
    config.check()
    return config


def _config_files(argv: list[str]) -> list[Path]:
    words = [*argv, ""]
    named = [after if word == "--config" else word.removeprefix("--config=")
             for word, after in itertools.pairwise(words) if word.partition("=")[0] == "--config"]  # fmt: skip
    return [Path(name) for name in named if Path(name).is_file()]


def _base_flags(argv: list[str]) -> tuple[list[str], dict[str, Any]]:
    """``--base.KEY VALUE`` sets one key of a run and leaves the others: to the parser ``base`` is one value."""
    rest: list[str] = []
    found: dict[str, Any] = {}
    words = iter(argv)
    for word in words:
        if not word.startswith("--base."):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix("--base.").partition("=")
        if not equals and (following := next(words, None)) is not None:
            value = following
        elif not equals:
            raise ValueError(f"--base.{key} needs a value")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--base.{key}: cannot read {value!r}") from error
    return rest, flat(found)


def refuse_repeated_keys(file: Path) -> None:
    """YAML keeps the last of two equal keys and says nothing. Raises ValueError, which names key and lines."""
    pending: list[tuple[str, yaml.Node | None]] = [
        ("", yaml.compose(file.read_text(encoding="utf-8"), yaml.SafeLoader))
    ]
    while pending:
        path, node = pending.pop()
        if isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                name, line = str(key.value), key.start_mark.line + 1
                if name in lines:
                    raise ValueError(f"{file}: {path}{name} is named twice, in lines {lines[name]} and {line}")
                lines[name] = line
                pending.append((f"{path}{name}.", value))
        elif isinstance(node, yaml.SequenceNode):
            pending.extend((path, item) for item in node.value)
