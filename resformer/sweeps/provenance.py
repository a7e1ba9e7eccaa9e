"""On what the trials of a sweep ran, and what is done where that differs from what its first trial ran on."""

import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data import Corpus
from ..files import write_json
from ..model.specification import KINDS
from ..training.launch import precision_of_a_run
from ..training.provenance import device_name, git_commit, source_hash, versions
from .plan import kinds_of
from .program import find_program
from .trials import Sweep, Trial

FILE = "provenance.json"
Facts = dict[str, str]
"""code (a hash of the source that decides what a run computes), commit, versions by package, device, precision,
corpus (its fingerprint), own code (a hash of a person's own classes, where there are any)."""

_MACHINE = ("device", "precision")
_ONLY_SAID = ("commit",)  # a commit that changes no source that runs is no difference


def of_this_process(threads: int) -> Facts:
    facts = {"code": source_hash(), "commit": git_commit() or "", "device": device_name(threads)}
    return facts | {"precision": precision_of_a_run()} | versions()


def of_this_sweep(sweep: Sweep, data: Mapping[tuple[str, str], Corpus]) -> Facts:
    """What trials would run on now; on a cluster the machine is not this one, and left open."""
    facts = of_this_process(sweep.config.executor.threads)
    if sweep.config.executor.name != "local":
        facts = {key: value for key, value in facts.items() if key not in _MACHINE}
    facts["corpus"] = " ".join(sorted({corpus.fingerprint for corpus in data.values()}))
    if own := _own_code(sweep):
        facts["own code"] = own
    return facts


def of_a_trial(folder: Path, summary: Mapping[str, Any]) -> list[Facts]:
    """Of each attempt that ran on something else than the one before it; the last as its summary says it."""
    said = {"precision": summary.get("precision"), "corpus": summary.get("data_fingerprint")}
    said |= summary.get("versions") or {}
    *earlier, last = recorded(folder) or [{}]
    return [*earlier, last | {key: str(value) for key, value in said.items() if value is not None}]


def record(folder: Path, facts: Facts) -> None:
    """To be called before an attempt begins: one that is killed has run on it all the same."""
    before = recorded(folder)
    if before[-1:] != [facts]:
        write_json(folder / FILE, [*before, facts])


def recorded(folder: Path) -> list[Facts]:
    try:
        return list(json.loads((folder / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []


def differences(facts: Facts, first: Facts) -> list[str]:
    """In words; what only one of them knows is none."""
    found = []
    for key in first:
        if key in _ONLY_SAID or key not in facts or facts[key] == first[key]:
            continue
        if key == "corpus" and set(facts[key].split()) <= set(first[key].split()):
            continue
        commits = [f" (commit {said['commit'][:9]})" if key == "code" and said.get("commit") else ""
                   for said in (facts, first)]  # fmt: skip
        found.append(f"{key} {facts[key]}{commits[0]}, not {first[key]}{commits[1]}")
    return found


def agreed(sweep: Sweep, here: Facts, begun: Mapping[Trial, list[Facts]]) -> tuple[Facts, list[Trial]]:
    """What trials run on from now on, kept in the sweep's folder, and which of those begun run again.

    Args:
        here: what trials would run on now.
        begun: what each of the sweep's trials ran on.

    Raises:
        ValueError: one line, where that differs from what the first trial ran on and the sweep is to refuse.
    """
    told, first = sweep.config.on_difference, next(iter(recorded(sweep.folder)), {})
    if not begun:
        first = here
    elif told == "rerun" or not first:
        first = {key: value for key, value in first.items() if key in _MACHINE} | here
    others = {trial: found[0] for trial, attempts in begun.items()
              if (found := [words for facts in attempts for words in differences(facts, first)])}  # fmt: skip
    what = [f"here is {words}" for words in differences(here, first)]
    what += [f"{len(others)} of its trials ran on something else ({words})" for words in list(others.values())[:1]]
    if told == "refuse" and what:
        raise ValueError(
            f"{sweep.folder}: {'; '.join(what)}. --on_difference rerun runs again what ran on something else, keep "
            f"mixes the {len(begun)} trials begun with those to come, and every verdict that does says so"
        )
    write_json(sweep.folder / FILE, [first])
    return first, list(others) if told == "rerun" else []


def completed(sweep: Sweep, first: Facts, attempts: list[Facts]) -> Facts:
    """What the first trial ran on, with the machine that it turned out to be on a cluster."""
    machine = {key: attempts[-1][key] for key in _MACHINE if key in attempts[-1] and key not in first}
    if machine:
        write_json(sweep.folder / FILE, [first := first | machine])
    return first


def _own_code(sweep: Sweep) -> str:
    """Of the files of a person's own connections and training program."""
    classes: set[Any] = {find_program(sweep.config.program)}
    classes |= {found for kind, found in kinds_of(sweep).items() if kind not in KINDS}
    house = __name__.partition(".")[0] + "."
    files = {inspect.getsourcefile(each) for each in classes if not f"{each.__module__}.".startswith(house)}
    sources = b"\0".join(Path(file).read_bytes() for file in sorted(file for file in files if file))
    return hashlib.sha256(sources).hexdigest()[:12] if sources else ""
