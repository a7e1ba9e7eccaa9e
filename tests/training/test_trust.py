"""What a file names is imported only where the person named it too."""

import json
import os
import sys

import pytest
import yaml
from transformers import AutoConfig

from resformer.model import ResformerConfig, trust
from resformer.model.specification import ResidualError
from resformer.sweeping import as_sweep_config
from resformer.sweeps import parse_sweep
from resformer.sweeps.program import find_program
from resformer.sweeps.trials import Sweep
from resformer.training import parse_arguments, run_config
from resformer.training.config import read_config

CODE = """
from pathlib import Path
Path(__file__).with_name("ran").write_text("")
from resformer.model.residual_placement import KINDS
from resformer.training import Trainer
class Mine(KINDS["pre"]):
    pass
class Program(Trainer):
    pass
"""
KIND = "strange_code:Mine"


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A folder with a module, and whether it ran."""
    (tmp_path / "strange_code.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trust, "_named", set())
    monkeypatch.setenv(trust.TRUST, "")
    yield tmp_path
    sys.modules.pop("strange_code", None)


def checkpoint(folder):
    """What a stranger may send: only its configuration names a class."""
    ResformerConfig(hidden_size=8, num_attention_heads=1).save_pretrained(folder)
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"residual": KIND}))
    return folder


def configuration(folder, **keys):
    file = folder / "told.yaml"
    file.write_text(yaml.safe_dump({"model": {"residual": KIND}} | keys))
    return file


def sweep(folder, **keys):
    file = folder / "sweep.yaml"
    arms = {"pre": {"model.residual": "pre"}, "theirs": {"model.residual": {"attention": KIND, "mlp": "pre"}}}
    told = {"arms": arms, "controls": {"baseline": "pre"}, "sweep_dir": str(folder / "sweep")} | keys
    file.write_text(yaml.safe_dump(told))
    return file


FILES = {
    "a checkpoint": lambda folder: AutoConfig.from_pretrained(checkpoint(folder)),
    "init_from": lambda folder: parse_arguments(["--init_from", str(checkpoint(folder))]),
    "--config": lambda folder: parse_arguments(["--config", str(configuration(folder))]),
    "a run's configuration": lambda folder: read_config(configuration(folder)),
    "an arm": lambda folder: Sweep(parse_sweep(["--config", str(sweep(folder))])).runs,
    "a sweep in Python": lambda folder: Sweep(as_sweep_config(sweep(folder), {})).runs,
}


@pytest.mark.parametrize("read", FILES.values(), ids=FILES.keys())
def test_what_only_a_file_names_is_not_imported(stranger, read):
    with pytest.raises(ValueError, match="stands in a file, and importing it would run 'strange_code'") as error:
        read(stranger)
    assert not (stranger / "ran").exists()
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("read", FILES.values(), ids=FILES.keys())
def test_what_the_environment_names_is(stranger, monkeypatch, read):
    monkeypatch.setenv(trust.TRUST, "another,strange_code")
    read(stranger)
    assert (stranger / "ran").exists()


def test_what_is_imported_already_may_be_named_and_so_may_it_by_what_is_started_here(stranger):
    __import__("strange_code")
    assert AutoConfig.from_pretrained(checkpoint(stranger)).residual == KIND
    assert os.environ[trust.TRUST] == "strange_code"


def test_what_a_person_names_is_imported_from_files_too(stranger):
    config = parse_arguments(["--model.residual", f"{KIND}*1,pre*rest"])
    assert config.model_config(vocab_size=1).connections()[0]["mlp"].kind == KIND
    assert os.environ[trust.TRUST] == "strange_code"
    assert read_config(configuration(stranger)).model.residual == KIND


def test_python_names_what_it_says(stranger):
    assert ResformerConfig(residual=KIND).residual == KIND
    assert run_config({"model.residual": KIND}).model.residual == KIND
    told = yaml.safe_load(sweep(stranger).read_text())
    assert Sweep(as_sweep_config(told, {})).runs
    assert os.environ[trust.TRUST] == "strange_code"


def test_a_part_of_a_name_is_no_name(stranger):
    trust.name_code(["--data.source", "hub:owner/name", "strange_code:Min"])
    with pytest.raises(ResidualError, match="stands in a file"):
        AutoConfig.from_pretrained(checkpoint(stranger))


def test_the_program_of_a_sweep_is_code_too(stranger):
    with pytest.raises(ValueError, match="program: 'strange_code:Program' stands in a file"):
        find_program("strange_code:Program")
    trust.name_code(["--program", "strange_code:Program"])
    assert find_program("strange_code:Program").__name__ == "Program"
    assert find_program("resformer.training:Trainer")


@pytest.mark.parametrize("kind", ["..x:y", ":X", "a b:X", "strange_code: Mine"])
def test_a_path_that_leads_nowhere_is_one_line(stranger, kind):
    with pytest.raises(ValueError, match="residual") as error:
        ResformerConfig(residual={"kind": kind})
    assert len(str(error.value).splitlines()) == 1
