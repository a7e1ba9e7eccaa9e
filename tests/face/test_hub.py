"""A run on the hub: what is pushed, what its card says, and that a stranger without resformer loads it from there."""

import os
import re
import subprocess
import sys

import pytest
from hub_stand_in import hub
from huggingface_hub import ModelCard

import resformer
from resformer.markup import markdown


@pytest.fixture(scope="module")
def pushed(run):
    """The address, the repository's files, and what pushing answered."""
    with hub() as (address, repositories):
        script = (
            f"import resformer; print(resformer.open_run({str(run.folder)!r}).push_to_hub('me/mixed', token='hf_a'))"
        )
        environment = os.environ | {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        yield address, repositories["me/mixed"], done.stdout.strip()


def test_all_that_a_model_needs_is_pushed(pushed, run):
    address, files, answer = pushed
    assert answer == f"{address}/me/mixed"
    assert {"README.md", "stream.png", "config.json", "model.safetensors", "tokenizer_config.json"} <= set(files)
    assert {"modeling_resformer.py", "residual_placement.py"} <= set(files)
    assert files["model.safetensors"] == (run.folder / "model" / "model.safetensors").read_bytes()


def test_its_card_says_what_a_stranger_asks(pushed, run):
    _, files, _ = pushed
    text = files["README.md"].decode()
    card = ModelCard(text)
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "text-generation")
    values = {one.metric_type: one.metric_value for one in card.data.eval_results}
    assert values["val_bits_per_byte"] == run.summary["val_bits_per_byte"]
    assert "| 0 | attention and mlp | `post` | norm(h + f(h)); the last one is the final norm | Vaswani" in text
    assert "| 1 | attention and mlp | `pre` | h + f(norm(h)) | Baevski" in text
    assert 'from_pretrained("me/mixed", trust_remote_code=True)' in text
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert files[picture].startswith(b"\x89PNG")
    assert str(run.folder.parent) not in text and str(run.config.data.source) not in text


def test_a_stranger_loads_it_by_the_lines_of_its_card(pushed, tmp_path):
    address, files, _ = pushed
    (code,) = re.findall(r"```python\n(.*?)```", files["README.md"].decode(), re.S)
    own = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | own
    code += "\nimport sys; assert 'resformer' not in sys.modules; print(type(model).__name__)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("The ") and done.stdout.endswith("ResformerForCausalLM\n")


def test_a_trial_says_what_its_sweep_said(sweep):
    row = sweep.verdicts.set_index("arm").loc["post"]
    folder = sweep.runs[sweep.runs.arm == "post"].folder.iloc[0]
    text = resformer.open_run(sweep.folder / folder).card().read_text()
    assert markdown(f'"post", of which this is a run: {row.verdict} ({row.reason})') in text


@pytest.mark.parametrize("reason", ["offline", "refused", "nobody there", "no name"])
def test_a_push_that_fails_is_one_line_and_loses_nothing(run, reason):
    def files():
        return {path.name: path.read_bytes() for path in (run.folder / "model").iterdir() if path.is_file()}

    before = files() | {"README.md": None}
    name = "a name!" if reason == "no name" else "me/mixed"
    script = (
        "import resformer; from resformer.programs import run_program\n"
        f"run_program(lambda: resformer.open_run({str(run.folder)!r}).push_to_hub({name!r}, token='hf_a'))"
    )
    with hub(refuses=reason == "refused") as (address, _):
        environment = os.environ | {
            "HF_ENDPOINT": "http://127.0.0.1:9" if reason == "nobody there" else address,
            "HF_HUB_OFFLINE": str(int(reason == "offline")), "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }  # fmt: skip
        done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: cannot push to ") and line.endswith("is whole; put that right and call it again")
    assert {"refused": "403", "offline": "offline", "no name": "'a name!'"}.get(reason, "") in line
    assert files() | {"README.md": None} == before


def test_a_run_that_has_not_ended_has_no_card(run, tmp_path):
    (tmp_path / "config.yaml").write_bytes((run.folder / "config.yaml").read_bytes())
    with pytest.raises(ValueError, match="no final model"):
        resformer.open_run(tmp_path).push_to_hub("me/none")
