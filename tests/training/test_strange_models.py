"""Folders that say they hold a model, and wirings that say they are one: one line for whatever is wrong with them."""

import json
import shutil

import pytest
import torch

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.data.tokenizing import byte_tokenizer
from resformer.scoring import evaluate
from resformer.training import parse_arguments
from resformer.training.probing import open_target

TEXT = "To be, or not to be, that is the question.\n" * 20


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer()
    torch.manual_seed(0)
    ResformerForCausalLM(
        ResformerConfig(vocab_size=len(tokenizer), hidden_size=16, num_attention_heads=2, num_hidden_layers=1)
    ).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


def one_line(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    said = str(error.value)
    assert len(said.splitlines()) == 1 and all(word in said for word in words), said


def told(folder, **keys):
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


WRONG = {
    "num_hidden_layers": "four", "hidden_size": [], "num_attention_heads": "x", "vocab_size": "x", "head_dim": [1],
    "norm_eps": "x", "hidden_act": 3, "rope_parameters": 3, "sliding_window": "x", "tie_word_embeddings": "maybe",
    "dtype": "evil", "id2label": "x",
}  # fmt: skip


@pytest.mark.parametrize(("key", "value"), [*WRONG.items(), ("dtype", []), ("rope_parameters", {"rope_theta": "abc"})])
def test_a_wrong_type_in_a_configuration(model, key, value):
    told(model, **{key: value})
    one_line(lambda: open_target(model), str(model))
    one_line(lambda: parse_arguments(["--init_from", str(model)]), "init_from")


@pytest.mark.parametrize("text", ["[]", "3", '"x"', "null", "", "[" * 100_000, "\xff"])
def test_a_configuration_that_is_none(model, text):
    (model / "config.json").write_text(text, encoding="latin-1")
    one_line(lambda: open_target(model), "config.json")
    one_line(lambda: parse_arguments(["--init_from", str(model)]), "config.json")


@pytest.mark.parametrize(
    ("name", "text"), [("tokenizer_config.json", "[]"), ("tokenizer.json", "{}"), ("tokenizer.json", "no")]
)
def test_a_tokenizer_that_cannot_be_read_is_not_called_missing(model, name, text):
    (model / name).write_text(text)
    one_line(lambda: open_target(model), "its tokenizer cannot be read", name)


def test_a_generation_configuration_that_is_none(model):
    (model / "generation_config.json").write_text("[]")
    one_line(lambda: open_target(model), "cannot be loaded")


def test_another_model_s_tokenizer(model, tmp_path):
    file = model / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[next(word for word in vocabulary if word == "T")] = 5000
    file.write_text(json.dumps(tokenizer))
    (tmp_path / "text.txt").write_text(TEXT)
    one_line(lambda: evaluate(model, source=tmp_path / "text.txt"), "token 5000", "another model's tokenizer")


ROPE = [
    {"rope_theta": [1]}, {"partial_rotary_factor": "x"}, {"rope_type": "nonsense"}, {"rope_type": []},
    {"rope_type": "yarn"}, {"rope_type": "dynamic"}, {"rope_type": "linear", "factor": -1}, {"rope_thetta": 3},
    {"rope_type": "linear", "factor": float("nan")},
    {"rope_type": "longrope", "short_factor": ["x"], "long_factor": [1]},
]  # fmt: skip


@pytest.mark.parametrize("rope", ROPE, ids=str)
def test_rope_parameters_that_are_none(rope):
    one_line(lambda: ResformerConfig(rope_parameters=rope), "rope_parameters")


def test_rope_parameters_of_known_kinds():
    for rope in ({"rope_type": "yarn", "factor": 4.0}, {"rope_theta": 5e5, "attention_factor": None}):
        assert ResformerConfig(rope_parameters=rope).rope_parameters["rope_theta"]


def bomb(levels):
    text = "&a0 {attention: pre, mlp: pre}"
    for level in range(1, levels):
        text = f"&a{level} {{attention: {text}, mlp: *a{level - 1}}}"
    return text


@pytest.mark.parametrize(
    "residual",
    [bomb(25), f"[{bomb(25)}]", "&a {attention: *a, mlp: pre}", f"layerscale(init=1{'0' * 400})",
     f"layerscale(init={'-' * 5000}1)"],
    ids=["bomb", "listed", "itself", "too large", "too deep"],
)  # fmt: skip
def test_a_wiring_that_would_not_end(residual):
    one_line(lambda: ResformerConfig(residual=residual), "residual")
    one_line(lambda: parse_arguments(["--model.residual", residual]), "residual")
