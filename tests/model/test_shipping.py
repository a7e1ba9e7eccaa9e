"""A person's own package travels with the checkpoint, whatever its files are called and from where they import."""

import os
import subprocess
import sys

import pytest
import torch
from model_helpers import VOCABULARY, tokens

from resformer import ResformerConfig, ResformerForCausalLM

RESIDUAL = '''
"""Called like one of the package's own files."""
from resformer import Residual
from resformer.model import (
    make_norm as norm_of,
    parameter,
)
from .losses import HALF
from .initialization import scaled as times


class Mine(Residual):
    """``h + s f(norm(h))``."""

    def __init__(self, config, site):
        super().__init__(config, site)
        self.norm, self.s = norm_of(config), parameter(1, start=times(HALF))

    def forward(self, h, f):
        return h + self.s * f(self.norm(h))
'''
FILES = {
    "__init__.py": "",
    "residual.py": RESIDUAL,
    "losses.py": "HALF = 0.5  # größer als nichts\n",
    "initialization.py": "from resformer.model.residual import SUBLAYERS; import math\n\n\n"
    "def scaled(x):\n    return x * len(SUBLAYERS) * math.cos(0)\n",
    "other.py": "from resformer import Residual\n\n\nclass Mine(Residual):\n    def forward(self, h, f):\n"
    "        return h + f(h)\n",
}

ELSEWHERE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("resformer", "my_pkg"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import torch
from transformers import AutoModelForCausalLM
ids, expected = torch.load("expected.pt")
for source, target in (("saved", "again"), ("again", "a_third_time")):
    model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=True).eval()
    assert torch.equal(model(ids).logits, expected)
    model.save_pretrained(target)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    (tmp_path / "mine" / "my_pkg").mkdir(parents=True)
    for name, text in FILES.items():
        (tmp_path / "mine" / "my_pkg" / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path / "mine")
    yield tmp_path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_pkg"]:
        del sys.modules[name]


def config(residual) -> ResformerConfig:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return ResformerConfig(**shape, residual=residual)


def test_files_called_like_the_packages_own_and_imports_from_the_package(home):
    model, ids = ResformerForCausalLM(config("my_pkg.residual:Mine*1,my_pkg.other:Mine*1")).eval(), tokens()
    assert model.model.layers[0].mlp_residual.s.item() == 1.0
    model.save_pretrained(home / "saved")
    torch.save((ids, model(ids).logits), home / "expected.pt")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", ELSEWHERE]
    result = subprocess.run(command, capture_output=True, text=True, cwd=home, env=environment, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    own = {path.name for path in (home / "saved").glob("own_*.py")}
    assert own == {"own_residual.py", "own_losses.py", "own_initialization.py"}
    assert {p.name for p in (home / "a_third_time").glob("*.py")} == {p.name for p in (home / "saved").glob("*.py")}


def test_an_import_that_cannot_travel_is_named(home, caplog, monkeypatch):
    from transformers.utils import logging

    monkeypatch.setattr(logging.get_logger("resformer.model.shipping"), "propagate", True)
    (home / "mine" / "my_pkg" / "other.py").write_text("import resformer.model\n" + FILES["other.py"])
    ResformerForCausalLM(config("my_pkg.other:Mine")).save_pretrained(home / "saved")
    assert "other.py, line 1: 'import resformer.model' stays as it is" in caplog.text
