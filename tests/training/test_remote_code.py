"""Checkpoints carry their own code: they load where resformer, and a person's own class, are not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.model.specification import KINDS, find_class

HALF_STEP = '''
from resformer.model.initialization import parameter
from resformer.model.normalization import make_norm
from resformer.model.residual import Residual


class HalfStep(Residual):
    """``h + s f(norm(h))``, s learned."""

    def __init__(self, config, site, *, start: float = 0.5):
        super().__init__(config, site)
        self.norm, self.s = make_norm(config), parameter(1, start=start)

    def forward(self, h, f):
        return h + self.s * f(self.norm(h))
'''

# Runs in a process in which importing resformer, or the person's module, fails as if it were not installed.
ELSEWHERE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("resformer", "my_residuals"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())

from pathlib import Path
import torch
from transformers import AutoConfig, AutoModelForCausalLM

for folder in map(Path, sys.argv[1:]):
    expected = torch.load(folder / "expected.pt", weights_only=True)
    ids = torch.arange(20)[None]
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    assert torch.equal(model(ids).logits, expected), folder
    model.generate(ids, max_new_tokens=3, do_sample=False)
    model.save_pretrained(folder / "again")
    again = AutoModelForCausalLM.from_pretrained(folder / "again", trust_remote_code=True).eval()
    assert torch.equal(again(ids).logits, expected), f"{folder}, saved again"
    if (folder / "fresh.pt").exists():
        torch.manual_seed(7)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        fresh = AutoModelForCausalLM.from_config(config, trust_remote_code=True).eval()
        assert torch.equal(fresh(ids).logits, torch.load(folder / "fresh.pt", weights_only=True)), folder
print("loaded", len(sys.argv) - 1)
"""


def load_elsewhere(home: Path, folders: list[Path]) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE, *map(str, folders)]
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=home, env=environment, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr[-2000:]
    assert f"loaded {len(folders)}" in result.stdout


def save(folder: Path, residual, **options) -> Path:
    shape = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    config = ResformerConfig(**shape | options, residual=residual)
    torch.manual_seed(7)
    fresh = ResformerForCausalLM(config).eval()
    ids = torch.arange(20)[None]
    folder.mkdir()
    torch.save(fresh(ids).logits, folder / "fresh.pt")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    fresh.save_pretrained(folder)
    torch.save(fresh(ids).logits, folder / "expected.pt")
    return folder


@pytest.fixture
def own_class(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "my_residuals.py").write_text(HALF_STEP)
    monkeypatch.syspath_prepend(tmp_path / "mine")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "mine"), os.environ.get("PYTHONPATH", "")]))
    yield "my_residuals:HalfStep"
    sys.modules.pop("my_residuals", None)


@pytest.mark.slow
def test_every_kind_loads_where_resformer_is_not_installed(tmp_path):
    kinds = [kind for kind in KINDS if kind != "two_norms"]
    folders = [save(tmp_path / f"kind-{i}", kind) for i, kind in enumerate(kinds)]
    folders.append(save(tmp_path / "parallel", "two_norms", parallel_block=True, value_residual="learned"))
    mixed = "hyper*1,projection*1,attn_res*1"
    folders.append(save(tmp_path / "mixed", mixed, hidden_size="32,48*2", tie_word_embeddings=False))
    load_elsewhere(tmp_path, folders)


def test_a_class_of_ones_own_loads_where_it_is_not_installed(tmp_path, own_class):
    pattern = f"{own_class}(start=0.3)*1,post*1,{own_class}*1"
    load_elsewhere(tmp_path, [save(tmp_path / "own", pattern)])


@pytest.mark.slow
def test_a_class_of_ones_own_trains_resumes_and_travels(train, own_class, tmp_path):
    flags = ["--model.residual", f"{own_class}(start=0.3)*1,pre*rest"]
    whole = train("own", *flags)
    assert whole.returncode == 0, whole.stderr
    folder = train.folder / "own" / "model"
    assert find_class(own_class).__doc__ in (folder / "my_residuals.py").read_text()
    model = ResformerForCausalLM.from_pretrained(folder).eval()
    assert model.model.layers[0].attention_residual.s.item() != pytest.approx(0.3, abs=1e-6)
    torch.save(model(torch.arange(20)[None]).logits, folder / "expected.pt")
    load_elsewhere(tmp_path, [folder])
