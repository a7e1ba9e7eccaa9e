"""The table of kinds says what the code does, and the README shows that table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from resformer.catalogue import markdown, variants
from resformer.model import catalogue
from resformer.model.specification import KINDS, PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def rows():
    return {kind: row for row in catalogue.entries() for kind in row.kind.split(", ")}


def test_every_kind_is_listed_with_a_formula_and_an_oracle(rows):
    assert set(rows) == {*KINDS, *PRESETS}
    for row in rows.values():
        assert row.formula and row.oracle
        assert row.paper or row.kind == "scaled"


def test_costs(rows):
    """Against counts by hand, for 12 blocks of width d = 512."""
    d, sites = catalogue.HIDDEN_SIZE, 24
    block = 4 * d * d + 3 * d * 1376
    base = 12 * block + sites * d + d + d  # projections, norms, the final norm, an embedding of one token
    assert rows["pre"].parameters == rows["pre"].flops == 0
    assert rows["highway"].parameters == pytest.approx(sites * (d * d + d) / base)
    assert rows["layerscale"].parameters == pytest.approx(sites * d / base)
    assert rows["mhc"].parameters == pytest.approx(sites * (24 * 4 * d + 24 + 3) / base)
    assert rows["hyper"].parameters == pytest.approx(sites * (4 * 5 + 4 + d * 6 + 2 + 2 * d) / base)
    multiplications = 2 * catalogue.TOKENS * 12 * block
    assert rows["highway"].flops == pytest.approx(2 * catalogue.TOKENS * sites * d * d / multiplications, rel=0.05)
    streams = {"pre": 1, "hyper": 4, "frac": 1, "siamese": 2, "unet": 6, "denseformer": 13, "concat": 1 + 22 / 4}
    for kind, expected in streams.items():
        assert rows[kind].streams == expected


def test_the_readme_shows_the_table_of_the_code():
    found = (ROOT / "resformer" / "model" / "README.md").read_text()
    assert markdown(variants()) in found, "run: python recipes/variants.py --format markdown"


def run(*arguments):
    command = [sys.executable, str(ROOT / "recipes" / "variants.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_the_program():
    assert {row["kind"] for row in json.loads(run("--format", "json").stdout)} >= {"pre", "hyper", "mhc"}
    refused = run("--format", "html")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert "markdown" in refused.stderr
    assert "Traceback" not in refused.stderr
