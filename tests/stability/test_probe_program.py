"""recipes/probe.py as a person calls it: files, tables, and one line for every mistake."""

import math
import runpy
from pathlib import Path

import pandas as pd
import pytest
from stability_helpers import build
from test_probes import llama

from resformer.data import DataConfig, load_corpus

RECIPE = Path(__file__).parents[2] / "recipes" / "probe.py"


def probe(*arguments) -> int:
    """The program's ``main``, which raises what ``run_program`` prints as one line."""
    code: int = runpy.run_path(str(RECIPE))["main"]([str(word) for word in arguments])
    return code


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A checkpoint with its tokenizer, and a text."""
    folder = tmp_path_factory.mktemp("probe")
    text = folder / "text.txt"
    text.write_text("".join(f"line {i * i % 97} of some {i % 7} words\n" for i in range(2000)))
    corpus = load_corpus(DataConfig(source=str(text), tokenizer="bytes", sequence_length=16,
                                    cache_dir=str(folder / "cache")))  # fmt: skip
    build("denseformer", vocab_size=corpus.vocab_size, hidden_size=16).save_pretrained(folder / "ours")
    corpus.tokenizer.save_pretrained(folder / "ours")
    theirs = llama()
    theirs.resize_token_embeddings(corpus.vocab_size)
    theirs.save_pretrained(folder / "theirs")
    corpus.tokenizer.save_pretrained(folder / "theirs")
    llama().save_pretrained(folder / "wordless")
    return folder


def test_every_probe_leaves_table_and_figures(saved, capsys, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(saved / "cache"))
    flags = ("--source", saved / "text.txt", "--sequence_length", 16, "--sequences", 4, "--points", 5, "--depths", 2, 3)
    assert probe(saved / "ours", "--out", saved / "out", *flags, "--width", 16) == 0
    printed = capsys.readouterr().out
    for name in ("init", "lesion", "lens", "landscape", "curvature", "reuse"):
        for file in (f"{name}.parquet", f"{name}.html", f"figures/{name}.svg", f"figures/{name}.png"):
            assert (saved / "out" / file).stat().st_size > 0
        assert name in printed
    assert set(pd.read_parquet(saved / "out" / "init.parquet").depth) == {2, 3}
    assert len(pd.read_parquet(saved / "out" / "landscape.parquet")) == 5 + 25


def test_a_llama_takes_the_four_that_need_no_connections(saved, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(saved / "cache"))
    flags = ("--source", saved / "text.txt", "--sequence_length", 16, "--sequences", 2, "--points", 3)
    assert probe(saved / "theirs", "--out", saved / "out2", *flags) == 0
    assert {path.stem for path in (saved / "out2").glob("*.parquet")} == {"lesion", "lens", "landscape", "curvature"}


def test_a_configuration_is_probed_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("model: {residual: peri}\n")
    assert probe("mine.yaml", "--depths", 2, "--width", 16, "--initialization", "xavier") == 0
    assert (tmp_path / "runs" / "probes" / "mine" / "figures" / "init.svg").exists()


def test_a_configuration_takes_other_probes_on_its_own_text(saved, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(saved / "cache"))
    model = "model: {residual: pre, hidden_size: 16, num_hidden_layers: 2}\n"
    Path("mine.yaml").write_text(
        f"{model}data: {{source: {saved / 'text.txt'}, tokenizer: 'bpe:300', sequence_length: 16}}"
    )
    assert probe("mine.yaml", "--probes", "lens", "--sequences", 2) == 0
    found = pd.read_parquet(tmp_path / "runs" / "probes" / "mine" / "lens.parquet")
    loss = found[(found.metric == "lens_loss") & (found.layer == 1)].value.item()
    assert loss == pytest.approx(math.log(300), rel=0.05)  # it has learned nothing yet


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("nowhere",), "nowhere is no folder"),
        (("empty",), "no checkpoint"),
        (("missing.yaml",), "missing.yaml"),
        (("ours", "--probes", "lesoin"), "'lesoin'"),
        (("ours", "--probes", "lens"), "give a source"),
        (("theirs", "--probes", "reuse"), "lesion, lens, landscape, curvature"),
        (("theirs", "--probes", "init"), "needs a resformer"),
        (
            ("ours", "--probes", "lens", "--source", "text.txt", "--sequence_length", "16", "--sequences", "100000"),
            "at most",
        ),
        (("ours", "--depths", "many"), "depths"),
        (("wordless", "--probes", "lens", "--source", "text.txt", "--sequence_length", "16"), "its tokenizer is not"),
        (("ours", "--probes", "init", "--depths", "0"), "depths"),
        (("ours", "--probes", "landscape", "--source", "text.txt", "--points", "1"), "points"),
    ],
)
def test_a_mistake_is_one_line(saved, monkeypatch, arguments, named):
    monkeypatch.setenv("XDG_CACHE_HOME", str(saved / "cache"))
    monkeypatch.chdir(saved)
    (saved / "empty").mkdir(exist_ok=True)
    with pytest.raises((ValueError, OSError)) as error:
        probe(*arguments)
    assert named in str(error.value)
    assert "\n" not in str(error.value)
