"""What a paper needs beside figures and tables: the design in words, and the references."""

from __future__ import annotations

import re
from typing import Any

from ..keys import flat
from .study import said
from .sweep import SweepStudy

# Of the classes' docstrings, where they cite: authors, year, and the number on arXiv.
_CITED = re.compile(
    r"(?P<authors>[A-Z][\w'’-]+(?: et al\.?| and [A-Z][\w'’-]+)?),? (?P<year>(?:19|20)\d\d)[^;]{0,160}?"
    r"arXiv:(?P<arxiv>\d{4}\.\d{4,5})"
)


def methods(study: SweepStudy) -> str:
    """A paragraph that states the design: seeds, rates, tests, device, versions."""
    config = study.sweep.config
    seeds, rates, chosen, controls = config.seeds, config.learning_rates, config.statistics, config.controls
    key, values = zip(*config.grid.items(), strict=True) if config.grid else ((), ())
    points = "; ".join(f"{name} in {{{', '.join(map(said, found))}}}" for name, found in zip(key, values, strict=True))
    others = [arm for arm in study.arms if arm != study.baseline]
    versions: dict[str, Any] = next(
        (found for o in study.state.outcomes.values() if isinstance(found := o.summary.get("versions"), dict)), {}
    )
    over = f" over {points}" if points else ""
    grid = ", ".join(f"{rate:g}" for rate in rates.grid)
    tuning = f"{len(seeds.tuning)} tuning seed{'s' if len(seeds.tuning) != 1 else ''}"
    stressed = (
        f"learning rates that are the same for all arms ({', '.join(f'{rate:g}' for rate in rates.common)})"
        if rates.common
        else f"multiples of each arm's best rate ({', '.join(f'x {multiple:g}' for multiple in rates.multiples)})"
    )
    looks = f" and over looks after {', '.join(map(str, seeds.looks))} seeds" if len(seeds.looks) > 1 else ""
    more = f"; up to {rates.extend_by} more at each point where the best lay at the edge" if rates.extend_by else ""
    parts = [
        f"We compared {len(others)} arms ({', '.join(others)}) with {study.baseline}{over}.",
        f"Every arm was tuned over the same peak learning rates ({grid}{more}) on {tuning}; its best rate is the "
        "vertex of a parabola through the sound runs around the best of them. Reported are "
        f"{len(seeds.reporting)} other seeds; runs of the same seed share the order of the data and the initial values "
        "of all parameters that both models have.",
        f"Training stability was compared at {stressed}: runs that diverged, got stuck at the unigram entropy or "
        f"ended more than {chosen.delta:g} nats above their fellows are bad ends; whole seeds are exchanged in an "
        "exact permutation test, chances have exact 95 % intervals, and bad ends enter no mean of losses.",
        "Held-out losses (nats per token) of the sound runs at the best rates were compared in two-sided paired t "
        "tests over seeds, whoever seems to lose first credited with the loss that its tuning may have missed; the "
        "95 % intervals of differences are t intervals widened by what either tuning may have missed. Equivalence is "
        f"two one-sided tests against a margin of {chosen.margin:g} nats declared before the first run. All p values "
        f"of both questions are adjusted by Holm's method over all comparisons{looks} (alpha {chosen.alpha:g}).",
    ]
    if controls.a_a_control:
        parts.append(f"As a negative control the baseline was run again under another name ({controls.a_a_control}).")
    if controls.positive_control:
        parts.append(f"As a positive control an arm known to break was included ({controls.positive_control}).")
    for arm, longer in controls.equal_time.items():
        parts.append(f"At equal time {arm} was compared with {study.baseline} trained for more steps ({longer}).")
    base = flat(config.base)
    shared = ("train.max_steps", "train.batch_size", "data.sequence_length", "optimizer.name")
    told = {name: base[name] for name in shared if name in base}
    if told:
        parts.append(f"All arms share {', '.join(f'{name} {said(value)}' for name, value in told.items())}.")
    where = ", ".join(study.common("device")) or "a device not recorded"
    data = ", ".join(study.common("data_source")) or "not recorded"
    with_ = ", ".join(f"{name} {version}" for name, version in versions.items())
    parts.append(f"Trained on {where}{' with ' if with_ else ''}{with_}; data {data}; recipe {study.recipe_hash}.")
    return " ".join(parts) + "\n"


def references(study: SweepStudy) -> str:
    """BibTeX of what the arms' kinds were published as, from the citations that the sweep's plan carries."""
    entries = {}
    for kind, paper in (study.plan.get("papers") or {}).items():
        for found in _CITED.finditer(str(paper)):
            first = re.sub(r"\W", "", found["authors"].split()[0]).lower()
            authors = found["authors"].removesuffix(" et al.").removesuffix(" et al") + (
                " and others" if "et al" in found["authors"] else ""
            )
            entries[f"{first}{found['year']}_{found['arxiv'].replace('.', '_')}"] = (
                f"  author = {{{authors}}},\n  year = {{{found['year']}}},\n  eprint = {{{found['arxiv']}}},\n"
                f"  archivePrefix = {{arXiv}},\n  note = {{residual connection: {kind}}}"
            )
    return "".join(f"@misc{{{key},\n{body}\n}}\n\n" for key, body in entries.items())
