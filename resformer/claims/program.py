"""What recipes/claims.py does: list claims, run those asked for, and put all that were run on one page."""

from __future__ import annotations

import math
import signal
import sys
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from ..keys import did_you_mean
from ..programs import DONE, FAILED, INTERRUPTED
from . import CLAIMS
from .claim import Claim
from .page import number, write_page
from .results import Stored, make, read
from .studies import SIZES


def chosen(names: Iterable[str], size: str = "laptop") -> list[Claim]:
    """The claims of these names.

    Raises:
        ValueError: one line, for a name that no claim has (with the nearest one), a size that there is not, or a claim
            that cannot be checked at this size.
    """
    if size not in SIZES:
        raise ValueError(f"there is no size {size!r}{did_you_mean(size, SIZES)}; there are {', '.join(SIZES)}")
    for name in names:
        if name not in CLAIMS:
            raise ValueError(f"there is no claim {name!r}{did_you_mean(name, CLAIMS)}; without a name they are listed")
        if size not in (sizes := CLAIMS[name].study.sizes):
            raise ValueError(f"{name} cannot be checked at the size {size}; give --size {' or '.join(sizes)}")
    return [CLAIMS[name] for name in dict.fromkeys(names)]


def of_size(size: str) -> list[str]:
    """The claims that can be checked at it."""
    return [name for name, claim in CLAIMS.items() if size in claim.study.sizes]


def listed(size: str = "laptop") -> str:
    """All claims: name, minutes, what is said and by whom."""
    here = of_size(size) if size in SIZES else []
    lines = [f"{name:<26}{CLAIMS[name].study.minutes(size):7.1f} min  {CLAIMS[name].says} ({CLAIMS[name].source})"
             for name in here]  # fmt: skip
    others = [f"{name:<26}{'gpu only':>11}  {claim.says} ({claim.source})" for name, claim in CLAIMS.items()
              if name not in here]  # fmt: skip
    total = minutes_of([CLAIMS[name] for name in here], size)
    where = "two cores" if size == "laptop" else "one GPU"
    return "\n".join(
        [*lines, *others, f"all {len(lines)}: about {total:.0f} minutes on {where}; some share their runs"]
    )


def minutes_of(claims: Iterable[Claim], size: str) -> float:
    """What several take: a study that they share is run once."""
    return sum({repr(claim.study): claim.study.minutes(size) for claim in claims}.values())


def run_claims(claims: Sequence[Claim], out: Path, size: str = "laptop", minutes: float | None = None) -> int:
    """Run claims that have no whole result yet, cheapest first, print each, and write the page of all under ``out``.

    Returns:
        0, 1 where a study could not be run (the others are done all the same, and the same call tries it anew), or 130
        where it was interrupted.

    Raises:
        ValueError: one line, where ``minutes`` do not suffice: before anything is run.
    """
    stored: dict[str, Stored] = {}
    for claim in claims:
        found, why_not = read(claim, out / claim.name, size)
        if found is not None:
            stored[claim.name] = found
        elif why_not:
            print(why_not, file=sys.stderr)
    left = sorted((c for c in claims if c.name not in stored), key=lambda claim: claim.study.minutes(size))
    _within(minutes, left, size)
    failed = []
    for claim in left:
        print(f"{claim.name}: about {claim.study.minutes(size):.1f} minutes", file=sys.stderr, flush=True)
        try:
            stored[claim.name] = make(claim, out / claim.name, size)
        except ValueError as error:
            if len(claims) == 1:
                raise
            failed.append(claim.name)
            print(f"{claim.name} could not be run: {error}", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            print(f"{claim.name} was interrupted; the same call goes on with it", file=sys.stderr, flush=True)
            return INTERRUPTED[signal.SIGINT]
        else:
            print(told(claim, stored[claim.name]), flush=True)
    for name in stored.keys() - {claim.name for claim in left}:
        print(told(CLAIMS[name], stored[name]))
    everything = {name: found for name, claim in CLAIMS.items()
                  if (found := stored.get(name) or read(claim, out / name, size)[0])}  # fmt: skip
    if everything:
        page, trouble = write_page(everything, out, size)
        print(page)
        if trouble:
            print(f"warning: {page}: {trouble}", file=sys.stderr)
    return FAILED if failed else DONE


def _within(minutes: float | None, left: Sequence[Claim], size: str) -> None:
    needed = minutes_of(left, size)
    if minutes is None or needed <= minutes:
        return
    fits: list[Claim] = []
    for claim in left:
        if minutes_of([*fits, claim], size) <= minutes:
            fits.append(claim)
    instead = f", or ask for {' '.join(claim.name for claim in fits)}" if fits else ""
    raise ValueError(
        f"what is left takes about {needed:.1f} minutes, not {minutes:g}; give --minutes {math.ceil(needed)}{instead}"
    )


def told(claim: Claim, stored: Stored) -> str:
    """One claim as a person reads it at a terminal."""
    result = stored.result
    lines = {"source": claim.source, "they": claim.paper, "we": claim.ours}
    for criterion, found in zip(claim.criteria, result.estimates, strict=False):
        lines[f"criterion {len(lines) - 2}"] = f"{criterion.words}: {number(found)}"
    lines |= {"verdict": result.verdict + (f" ({result.trouble})" if result.trouble else ""), "settles": claim.settles}
    body = [textwrap.fill(words, 118, initial_indent=f"  {name:<13}", subsequent_indent=" " * 15)
            for name, words in lines.items()]  # fmt: skip
    return "\n".join(["", f"{claim.name}: {claim.says}", *body])
