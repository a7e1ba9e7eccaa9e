"""What is known of a sweep before its first run: what each arm costs, and in what it differs from the baseline."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..data import Corpus, load_corpus
from ..files import write_json
from ..model import Residual
from ..model.catalogue import formula_and_paper
from .ledgers import Ledger, differences, ledger
from .trials import Sweep


@dataclass(frozen=True)
class Plan:
    """The ledger of each arm at each point, each arm's differences from the baseline, and what each kind of connection
    was published as."""

    ledgers: dict[tuple[str, str], Ledger]
    differences: dict[str, list[str]]
    papers: dict[str, str]

    def write(self, folder: Path) -> None:
        """plan.json: all that a page needs to know of the models, so that it builds none."""
        ledgers = [{"arm": arm, "point": point} | asdict(entry) for (arm, point), entry in self.ledgers.items()]
        write_json(folder / "plan.json", {"ledgers": ledgers, "differences": self.differences, "papers": self.papers})


def make_plan(sweep: Sweep, data: Mapping[tuple[str, str], Corpus]) -> Plan:
    """What is known before the first run. Differences are taken at the first point that an arm has."""
    others = [arm for arm in sweep.arms if arm != sweep.config.controls.baseline]
    first = {arm: next(point for point in sweep.points if (arm, point) in sweep.runs) for arm in others}
    return Plan(
        {key: ledger(run, data[key]) for key, run in sweep.runs.items()},
        {arm: differences(sweep, arm, point, data[arm, point]) for arm, point in first.items()},
        {kind: formula_and_paper(found)[1] for kind, found in kinds_of(sweep).items()},
    )


def kinds_of(sweep: Sweep) -> dict[str, type[Residual]]:
    """The classes of the connections that stand in its models, by kind."""
    models = [config.model_config(vocab_size=1) for config in sweep.runs.values()]
    return {
        site.kind: site.residual_class for model in models for block in model.connections() for site in block.values()
    }


def corpora(sweep: Sweep, show_progress: bool = False) -> dict[tuple[str, str], Corpus]:
    """Of each arm at each point. Fills the cache, so that no two trials build it at once."""
    found: dict[str, Corpus] = {}
    for config in sweep.runs.values():
        if repr(config.data) not in found:
            found[repr(config.data)] = load_corpus(config.data, show_progress=show_progress)
    return {key: found[repr(config.data)] for key, config in sweep.runs.items()}
