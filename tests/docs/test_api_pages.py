"""The pages of the API, as the command of recipes/README.md writes them, come from the docstrings without a warning."""

import html
import re
import warnings
from pathlib import Path

import pytest

import resformer

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_they_are_written_without_a_warning_and_say_what_the_docstrings_do(tmp_path, monkeypatch):
    pytest.importorskip("pdoc")
    command = re.search(r'python -c "(import pdoc[^"]+)"', (ROOT / "recipes" / "README.md").read_text())
    assert command is not None
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        exec(command[1], {})
    troubles = [str(one.message) for one in said if "pdoc" in one.filename]
    # Its signature is written by transformers, whose annotations name what only their module imports.
    assert [trouble for trouble in troubles if "resformer.ResformerConfig.__init__" not in trouble] == []
    first = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "site" / "resformer.html").read_text()))
    for name in resformer.__all__:
        sentence = (getattr(resformer, name).__doc__ or "").split("\n")[0].replace("``", "")
        assert sentence in first.replace("`", ""), name
