"""The ledger is whole: every kind, preset and option is held against its formula, and each class says truly what else.

Run ``python tests/parity/test_ledger.py`` to print it.
"""

import importlib
import inspect
import itertools
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from parity_helpers import LEDGER
from test_formulas import FORMULAS, OPTIONS, PARALLEL_ONLY, SHALLOWEST, hold

from resformer.model.specification import KINDS, PRESETS


def strongest() -> dict[str, str]:
    """What each class should say of itself: ``package name, name; package name``, or else ``formula``."""
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        importlib.import_module(path.stem)
    packages = ["transformers", "x-transformers", "hyper-connections", "rezero", "its"]
    found = {}
    for kind, oracles in LEDGER.items():
        split = sorted((oracle.split(" ", 1) for oracle in oracles), key=lambda o: (packages.index(o[0]), o[1]))
        parts = [f"{p} {', '.join(name for _, name in names)}" for p, names in itertools.groupby(split, lambda o: o[0])]
        found[kind] = "; ".join(parts) or "formula"
    return found


def test_every_kind_has_its_formula():
    strongest()
    assert set(FORMULAS) == set(KINDS)
    assert set(LEDGER) == set(KINDS) | set(PRESETS)
    for preset in PRESETS:
        assert LEDGER[preset], f"no test holds {preset} against its parts"


@pytest.mark.parametrize("kind", KINDS)
def test_class_says_what_it_is_held_against(kind):
    assert KINDS[kind].oracle == strongest()[kind]


def options_of(kind: str) -> dict[str, inspect.Parameter]:
    return {p.name: p for p in inspect.signature(KINDS[kind].__init__).parameters.values() if p.kind == p.KEYWORD_ONLY}


def test_every_option_is_drawn():
    for kind in KINDS:
        assert set(OPTIONS.get(kind, {})) == set(options_of(kind)), kind


def choices():
    for kind in KINDS:
        hints = get_type_hints(KINDS[kind].__init__)
        for option in options_of(kind):
            values = get_args(hints[option]) if get_origin(hints[option]) is Literal else ()
            for value in (False, True) if hints[option] is bool else values:
                yield kind, option, value


@pytest.mark.parametrize("kind, option, value", choices())
def test_every_choice_of_every_option(kind, option, value):
    for depth in (SHALLOWEST.get(kind, 1), 4):
        hold({"kind": kind, option: value}, depth, parallel_block=kind in PARALLEL_ONLY)


if __name__ == "__main__":
    for name, oracle in strongest().items():
        print(f"{name:16}{oracle}")
