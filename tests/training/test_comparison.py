"""The benchmark: each model is a model of that size, each row is what it says; no time is asserted."""

import json

import pytest
import torch
from resformer.recipes.benchmark import main

from resformer.training import comparison

SHAPE = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 16, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(comparison, "start_up", lambda: {"import resformer": 0.1})


@pytest.mark.parametrize("name", comparison.OTHERS)
def test_models_of_other_packages_are_of_equal_size_and_learn(name):
    if name == "x-transformers":
        pytest.importorskip("x_transformers")
    ours = comparison._ours("pre", SHAPE)()
    theirs = comparison._THEIRS[name](SHAPE)()
    sizes = [sum(p.numel() for p in model.parameters() if p.ndim > 1) for model in (ours, theirs)]
    positions = SHAPE["max_position_embeddings"] * SHAPE["hidden_size"] if name == "gpt2" else 0
    assert sizes[1] - positions == sizes[0]
    tokens = torch.arange(16)[None]
    step = comparison.bare_step(theirs, tokens)
    before = theirs(input_ids=tokens, labels=tokens, use_cache=False).loss
    for _ in range(20):
        step()
    assert theirs(input_ids=tokens, labels=tokens, use_cache=False).loss < before


def test_every_model_has_a_row_and_pre_is_always_there(quick):
    found = comparison.compare(["hyper"], SHAPE, 2, 2, ["llama"], ["eager"], new_tokens=4)
    assert list(found.table.model) == ["pre", "hyper", "llama"]
    rows = found.table.set_index("model")
    assert rows.to_pre["pre"] == 1
    assert rows.peak_bytes["hyper"] > rows.peak_bytes["pre"] > 4 * rows.parameters["pre"]
    assert set(found.generation) == {"pre", "llama"}
    assert min(found.ceiling.values()) > 0
    json.dumps(found.as_dict())
    for format in ("text", "markdown"):
        text = comparison.rendered(found, format)
        assert "hyper" in text and str(found.about["commit"]) in text
    assert comparison.rendered(found, "markdown").splitlines()[1].startswith("| ---")


def test_memory_grows_as_one_knows(quick):
    """Weights and moments of two thirds of a model are its embedding: bytes grow with the vocabulary, not faster."""
    table = comparison.grow(["pre"], SHAPE, 1, 1, "vocab_size", [10_000, 20_000, 40_000])
    assert list(table["size"]) == [10_000, 20_000, 40_000]
    assert table.bytes_exponent[0] == pytest.approx(1, abs=0.1)
    with pytest.raises(ValueError, match="num_hidden_layers"):
        comparison.grow(["pre"], SHAPE, 1, 1, "depth", [1, 2])


def test_the_program_prints_what_can_be_read_again(quick, capsys):
    small = "--hidden_size 64 --num_hidden_layers 2 --sequence_length 16 --batch_size 2 --steps 1"
    assert main(f"{small} --loop false --others none --format json".split()) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)["table"]] == ["pre"]
    assert main(f"{small} --growth num_hidden_layers=1,2 --format json".split()) == 0
    assert {row["size"] for row in json.loads(capsys.readouterr().out)} == {1, 2}


@pytest.mark.parametrize("words", ["--others lama", "--ways slow", "--growth depth", "--growth depth=1,2"])
def test_what_cannot_be_timed_is_one_line(words):
    with pytest.raises(ValueError) as error:
        main(words.split())
    assert "\n" not in str(error.value)
