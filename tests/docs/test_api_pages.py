"""The pages of the API, as `pdoc -o site resformer` writes them, come from the docstrings without a warning."""

import html
import re
import warnings

import pytest

import resformer


@pytest.mark.slow
def test_they_are_written_without_a_warning_and_say_what_the_docstrings_do(tmp_path):
    pdoc = pytest.importorskip("pdoc")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        pdoc.pdoc("resformer", output_directory=tmp_path)
    assert [str(one.message) for one in said if "pdoc" in one.filename] == []
    first = html.unescape(re.sub(r"<[^>]+>", "", (tmp_path / "resformer.html").read_text()))
    for name in resformer.__all__:
        sentence = (getattr(resformer, name).__doc__ or "").split("\n")[0].replace("``", "")
        assert sentence in first.replace("`", ""), name
    pages = {path.relative_to(tmp_path).with_suffix("").as_posix() for path in tmp_path.rglob("*.html")}
    assert {"resformer/model/residual_gated", "resformer/training/trainer", "resformer/sweeps/config"} <= pages
