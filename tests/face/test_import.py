"""A pretrained model through the program: imported, wired otherwise, trained on, probed, compared, and written back."""

import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from face_helpers import tiny, tiny_sweep
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

import resformer
from resformer.__main__ import programs
from resformer.data.tokenizing import byte_tokenizer
from resformer.importing import difference
from resformer.programs import BAD_INPUT
from resformer.sweeping import as_sweep_config
from resformer.sweeps.plan import corpora, make_plan
from resformer.sweeps.trials import Sweep
from resformer.training.config import parse_arguments
from resformer.training.provenance import weights_hash

ROOT = Path(__file__).parents[2]
PROGRAM = str(ROOT / "recipes" / "import.py")


def program(capsys, *arguments) -> tuple[int, str, str]:
    before, sys.argv = sys.argv, [PROGRAM, *map(str, arguments)]
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(PROGRAM, run_name="__main__")
    finally:
        sys.argv = before
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A GPT-2 with more tokens than its tokenizer has, as released ones are padded to."""
    folder = tmp_path_factory.mktemp("models") / "gpt2"
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=264, n_embd=32, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0,
                                       embd_pdrop=0, attn_pdrop=0, bos_token_id=256, eos_token_id=256))  # fmt: skip
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.02)
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def imported(gpt2, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "ours"
    found = resformer.from_pretrained(gpt2)
    found.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def continuing(text, imported, folder, **more):
    """The keys of a run that starts from a model, which says what the model is like."""
    told = {key: value for key, value in tiny(text).items() if key not in ("num_hidden_layers", "hidden_size",
            "num_attention_heads", "tokenizer")}  # fmt: skip
    return told | {"init_from": str(imported), "run_dir": str(folder), "draw": False} | more


def test_the_program_imports_wires_otherwise_and_writes_back(gpt2, tmp_path, capsys):
    theirs = AutoModelForCausalLM.from_pretrained(gpt2)
    code, said, _ = program(capsys, gpt2, tmp_path / "ours")
    assert code == 0
    assert "of gpt2, torch.float32" in said
    assert "import     logits" in said
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "ours")
    assert type(ours).__name__ == "ResformerForCausalLM"
    assert difference(theirs, ours).largest < 1e-5
    assert (tmp_path / "ours" / "modeling_resformer.py").exists()
    words = "a few words"
    assert AutoTokenizer.from_pretrained(tmp_path / "ours")(words).input_ids == list(words.encode())
    code, said, _ = program(capsys, tmp_path / "ours", tmp_path / "hyper", "--residual", "hyper(n=2)")
    assert code == 0
    assert "residual   'hyper(n=2)': logits bit-equal to before" in said
    assert difference(ours, AutoModelForCausalLM.from_pretrained(tmp_path / "hyper")) == (0, 0)
    code, said, _ = program(capsys, gpt2, tmp_path / "post", "--residual", "{attention: post, mlp: pre}")
    assert code == 0
    assert "KL" in said
    code, said, _ = program(capsys, tmp_path / "ours", tmp_path / "back", "--to", "hf")
    assert code == 0
    assert "export     gpt2" in said
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "back")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    assert (tmp_path / "back" / "tokenizer.json").exists()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("{gpt2}", "{gpt2}"), "is there already"),
        (("{tmp}/none", "{tmp}/out"), "is no folder"),
        (("{gpt2}", "{tmp}/out", "--residual", "hypr"), "did you mean 'hyper'"),
        (("{gpt2}", "{tmp}/out", "--residual", "hyper", "--to", "gpt2"), "residual 'hyper', only 'pre'"),
        (("{gpt2}", "{tmp}/out", "--to", "llama"), "llama cannot have"),
        (("{gpt2}", "{tmp}/out", "--to", "bert"), "no architecture known here"),
        (("{gpt2}",), "out"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_leaves_nothing(arguments, named, gpt2, tmp_path, capsys):
    code, _, said = program(capsys, *(word.format(gpt2=gpt2, tmp=tmp_path) for word in arguments))
    assert code == BAD_INPUT
    assert named in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_its_help_loads_no_tensor_library():
    script = f"""
import runpy, sys
sys.argv = ["import.py", "--help"]
try:
    runpy.run_path({PROGRAM!r}, run_name="__main__")
finally:
    heavy = ["torch", "transformers", "accelerate", "datasets", "pandas", "altair"]
    assert not (loaded := [name for name in heavy if name in sys.modules]), loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout


@pytest.fixture(scope="module")
def begun(text, imported, tmp_path_factory):
    """A run that starts from the model, as another kind."""
    folder = tmp_path_factory.mktemp("runs") / "hyper"
    return resformer.train(**continuing(text, imported, folder, residual="hyper", learning_rate=1e-3))


def test_a_run_starts_from_it_and_is_one_of_its_kind(begun, text, imported, tmp_path):
    run, config = begun, begun.config
    assert (config.model.hidden_size, config.model.norm, config.model.gated_mlp) == (32, "layernorm", False)
    assert config.data.tokenizer == str(imported)
    assert run.model().config.vocab_size == 264
    summary = run.summary
    assert (summary["init_from"], summary["init_from_hash"]) == (str(imported), weights_hash(imported))
    assert summary["end_state"] != "diverged"
    first = run.metrics.loss.dropna().iloc[0]
    again = resformer.train(**continuing(text, imported, tmp_path / "pre", learning_rate=1e-3))
    assert again.metrics.loss.dropna().iloc[0] == first  # hyper-connections begin bit-equal to the model
    drawn = {key: value for key, value in continuing(text, imported, tmp_path / "drawn").items() if key != "init_from"}
    other = resformer.train(num_hidden_layers=2, hidden_size=32, tokenizer="bytes", residual="hyper", **drawn)
    assert other.metrics.loss.dropna().iloc[0] != first
    found = resformer.probe(run, "lens")
    assert {"lens_loss", "lens_kl"} <= set(found.table.metric)


def test_a_run_of_before_goes_on_as_another_kind(begun, text, tmp_path):
    """Half-way: a checkpoint of a run is a model like any other."""
    half = sorted((begun.folder / "checkpoints").glob("step-*"))[0]
    there = AutoModelForCausalLM.from_pretrained(half)
    still = {"max_steps": 1, "learning_rate": 1e-12}
    other = resformer.train(**continuing(text, half, tmp_path / "run", residual="pre", **still))
    assert other.config.model.residual == "pre"
    trained = other.model()
    assert torch.allclose(trained.model.embed_tokens.weight, there.model.embed_tokens.weight, atol=1e-6)


@pytest.mark.slow
def test_it_goes_on_exactly_where_it_was_stopped_and_only_from_the_same_model(text, imported, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(imported, copied)
    constant = {"residual": "hyper", "schedule": {"name": "constant"}, "learning_rate": 1e-3, "record_every": 0}
    straight = resformer.train(**continuing(text, copied, tmp_path / "straight", max_steps=4, **constant))
    parts = continuing(text, copied, tmp_path / "parts", **constant)
    resformer.train(**parts | {"max_steps": 2})
    resumed = resformer.train(**parts | {"max_steps": 4})
    one, two = straight.model().state_dict(), resumed.model().state_dict()
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert resumed.summary["init_from_hash"] == straight.summary["init_from_hash"]
    resformer.from_pretrained(copied, "denseformer").save_pretrained(copied)
    with pytest.raises(ValueError, match="has changed since"):
        resformer.train(**parts | {"max_steps": 5})


def test_what_no_run_can_start_from_is_one_line(text, imported, gpt2, tmp_path):
    folder = tmp_path / "run"
    for more, named in [
        ({"init_from": str(tmp_path)}, "holds no model"),
        ({"init_from": str(gpt2)}, "holds a gpt2 model"),
        ({"intermediate_size": 48}, "only the wiring may differ"),
        ({"num_hidden_layers": 3}, "is not there"),
        ({"tokenizer": "bpe:300"}, "a vocabulary of 264"),
        ({"sequence_length": 65}, "above model.max_position_embeddings 64"),
    ]:
        with pytest.raises(ValueError, match=named) as refused:
            resformer.train(**continuing(text, imported, folder, **more))
        assert "\n" not in str(refused.value)
    assert not folder.exists()


def test_flags_win_over_what_the_model_says(imported):
    words = ["--init_from", str(imported), "--model.residual", "denseformer", "--model.hidden_dropout", "0.1"]
    config = parse_arguments([*words, "--data.sequence_length", "64"])
    assert (config.model.residual, config.model.hidden_dropout) == ("denseformer", 0.1)
    assert (config.model.norm, config.model.num_hidden_layers) == ("layernorm", 2)


def test_printed_keys_are_those_that_the_run_has(imported, tmp_path, capsys):
    words = ["--init_from", str(imported), "--data.sequence_length", "64"]
    with pytest.raises(SystemExit) as ended:
        parse_arguments([*words, "--print_config"])
    assert ended.value.code == 0
    (tmp_path / "run.yaml").write_text(capsys.readouterr().out)
    assert parse_arguments(["--config", str(tmp_path / "run.yaml")]) == parse_arguments(words)


def with_b2t(told):
    """A kind that draws its branches otherwise than the baseline."""
    return told | {"arms": told["arms"] | {"b2t": {"model.residual": "b2t"}}}


def test_the_arms_of_a_sweep_start_from_it(text, imported, tmp_path):
    told = with_b2t(tiny_sweep(text, tmp_path / "sweep"))
    told["base"] = {key: value for key, value in told["base"].items() if not key.startswith("model.")}
    del told["base"]["data.tokenizer"]
    told["base"]["init_from"] = str(imported)
    sweep = Sweep(as_sweep_config(told, {}))
    runs = sweep.runs
    assert {run.model.residual for run in runs.values()} == {"pre", "post", "b2t"}
    assert {run.model.norm for run in runs.values()} == {"layernorm"}
    assert not any("initial" in line for line in make_plan(sweep, corpora(sweep)).differences["b2t"])


def test_a_start_of_its_own_is_a_difference_where_weights_are_drawn(text, tmp_path):
    sweep = Sweep(as_sweep_config(with_b2t(tiny_sweep(text, tmp_path)), {}))
    assert any("initial RMS" in line for line in make_plan(sweep, corpora(sweep)).differences["b2t"])


def test_the_program_is_listed():
    assert programs()["import"].startswith("Turn a pretrained model")
