"""Bits per byte: the same text in the same windows, whatever the model and its tokenizer."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from face_helpers import TEXT
from transformers import LlamaConfig, LlamaForCausalLM

import resformer

PROGRAM = str(Path(__file__).parents[2] / "recipes" / "evaluate.py")


@pytest.fixture
def llama(run, tmp_path):
    """Another class, with the run's tokenizer beside it."""
    torch.manual_seed(0)
    tokenizer = run.tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                    num_attention_heads=1, max_position_embeddings=64)
    )  # fmt: skip
    model.save_pretrained(tmp_path / "llama")
    tokenizer.save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_it_is_the_mean_of_what_each_window_costs(run, llama, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT[:95] + "é")
    found = resformer.evaluate(run, str(llama), source=str(text), window=10).set_index("model")
    assert list(found.index[2:]) == ["zlib -9", "lzma"]
    for model, row in zip(
        (run.model(dtype=torch.float32), LlamaForCausalLM.from_pretrained(llama)), found.iloc, strict=False
    ):
        tokenizer, nats = run.tokenizer(), 0.0
        for start in range(0, 96, 10):
            ids = [tokenizer.eos_token_id, *tokenizer(text.read_text()[start : start + 10]).input_ids]
            logits = model(input_ids=torch.tensor([ids[:-1]])).logits
            nats += torch.nn.functional.cross_entropy(logits[0], torch.tensor(ids[1:]), reduction="sum").item()
        assert row.bits_per_byte == pytest.approx(nats / math.log(2) / 97, rel=1e-5)
        assert (row.tokens, row.bytes, row.unknown_tokens) == (97, 97, 0)


def test_without_a_source_it_is_the_held_out_text_of_the_run(run):
    found = resformer.evaluate(run.folder, window=16).set_index("model")
    assert found.bits_per_byte.iloc[0] == pytest.approx(run.summary["val_bits_per_byte"], rel=0.1)
    assert found.bits_per_byte["lzma"] == pytest.approx(run.summary["lzma_bits_per_byte"], rel=1e-6)


def test_by_default_the_windows_are_as_long_as_the_shortest_context_holds(run, llama, text):
    found = resformer.evaluate(run, str(llama), source=str(text))
    shortest = run.model().config.max_position_embeddings
    assert shortest < 64  # which the other model holds
    assert (found.window == shortest).all() and found.tokens[0] == found.tokens[1]


@pytest.mark.parametrize(
    ("options", "says"),
    [({}, "no text is known"), ({"source": "none.txt"}, "none.txt"), ({"source": True, "window": 100}, "64 positions"),
     ({"source": True, "window": 0}, "at least 1")],
)  # fmt: skip
def test_what_cannot_be_evaluated_is_one_line(llama, text, options, says):
    if options.get("source") is True:
        options = options | {"source": str(text)}
    with pytest.raises(ValueError, match=says) as error:
        resformer.evaluate(str(llama), **options)
    assert "\n" not in str(error.value)


def test_the_program_prints_the_table(run, text):
    line = [sys.executable, PROGRAM, str(run.folder), "--source", str(text), "--most", "500", "--window", "10"]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert str(run.folder) in done.stdout and "lzma" in done.stdout
