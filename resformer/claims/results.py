"""What stays of a claim that was run: a whole folder or none."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ..files import damage, null_where_not_finite, remove_leftovers, whole_folder, write_checksums, write_json
from ..sweeps.inference import Estimate
from ..training.provenance import device_name, git_commit, source_hash
from .claim import Claim, Verdict

RESULT, TABLE = "result.json", "table.parquet"
STUDIES = "studies"
"""Beside the folders of the claims, which share them."""


@dataclass(frozen=True)
class Result:
    """Attributes: the claim's name and what its verdict rests on, verdict, one estimate for each criterion, why there
    is no number where there is none, and when, by what, on what and how long it was made."""

    claim: str
    definition: str
    code: str
    size: str
    verdict: Verdict
    estimates: list[Estimate]
    trouble: str
    date: str
    commit: str | None
    command: str
    device: str
    seconds: float


@dataclass(frozen=True)
class Stored:
    result: Result
    table: pd.DataFrame


def make(claim: Claim, folder: Path, size: str) -> Stored:
    """Run the study of a claim, judge it and keep both under ``folder``/result.

    Raises:
        ValueError: one line, for a study that cannot be run.
    """
    started = time.perf_counter()
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    table = claim.study.table(folder.parent / STUDIES, size)
    verdict: Verdict = "unresolved"
    estimates: list[Estimate] = []
    trouble = ""
    try:
        judged = claim.judged(table)
        verdict, estimates = judged.verdict, judged.estimates
    except ValueError as error:  # a number is missing, because runs diverged before it: the table stays
        trouble = str(error)
    result = Result(
        claim.name, claim.definition, source_hash(), size, verdict, estimates, trouble,
        datetime.now(UTC).strftime("%Y-%m-%d"), git_commit(), f"python recipes/claims.py {claim.name}"
        + (f" --size {size}" if size != "laptop" else ""), device_name(), time.perf_counter() - started,
    )  # fmt: skip
    with whole_folder(folder / "result") as temporary:
        kept = asdict(result) | {"estimates": [null_where_not_finite(asdict(found)) for found in estimates]}
        write_json(temporary / RESULT, kept)
        table.to_parquet(temporary / TABLE)
        write_checksums(temporary)
    return Stored(result, table)


def read(claim: Claim, folder: Path, size: str) -> tuple[Stored | None, str]:
    """What was found earlier, or none and why it does not stand: torn, or made by another definition or other code."""
    kept = folder / "result"
    if not kept.exists():
        return None, ""
    if wrong := damage(kept):
        return None, f"{claim.name}: its earlier result is torn ({wrong}); it is run again, the others stay"
    told = json.loads((kept / RESULT).read_text(encoding="utf-8"))
    numbers: Iterator[dict[str, Any]] = ({name: math.nan if value is None else value for name, value in found.items()}
                                         for found in told["estimates"])  # fmt: skip
    result = Result(**told | {"estimates": [Estimate(**found) for found in numbers]})
    if (result.definition, result.size) != (claim.definition, size):
        return None, f"{claim.name}: its earlier result is of another definition; it is run again"
    if result.code != source_hash():
        return None, f"{claim.name}: its earlier result is of other code (commit {result.commit}); it is run again"
    return Stored(result, pd.read_parquet(kept / TABLE)), ""
