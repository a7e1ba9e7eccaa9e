"""What the READMEs print is what the code does: commands parse (and, slow, run), tables and links hold."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from resformer.sweeps.config import parse_sweep
from resformer.training import parse_arguments

ROOT = Path(__file__).parents[2]
READMES = sorted([ROOT / "README.md", ROOT / "recipes" / "README.md", *ROOT.glob("resformer/**/*.md")])
FENCE = re.compile(r"```(\w+)\n(.*?)```", re.S)


def blocks(language: str) -> list[tuple[Path, str]]:
    return [(file, code) for file in READMES for kind, code in FENCE.findall(file.read_text()) if kind == language]


def commands() -> list[list[str]]:
    lines = [line for _, code in blocks("bash") for line in code.replace("\\\n", " ").splitlines()]
    return [shlex.split(part, comments=True) for line in lines for part in line.split("&&") if part.strip()]


def of_program(name: str) -> list[list[str]]:
    """The arguments given to ``recipes/NAME``, wherever it is called."""
    calls = [words for words in commands() if f"recipes/{name}" in words]
    return [words[words.index(f"recipes/{name}") + 1 :] for words in calls]


@pytest.mark.parametrize("arguments", of_program("train.py"), ids=" ".join)
def test_a_printed_training_command_is_one(arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    (tmp_path / "my_residuals.py").write_text(blocks("python")[0][1])
    monkeypatch.syspath_prepend(tmp_path)
    parse_arguments(arguments)


@pytest.mark.parametrize("arguments", of_program("sweep.py"), ids=" ".join)
def test_a_printed_sweep_is_one(arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    if "..." not in arguments:
        parse_sweep(arguments)


def test_all_that_is_called_is_there():
    for words in commands():
        for word in words:
            if word.startswith(("recipes/", "tests/")) and "=" not in word:
                assert (ROOT / word).exists(), word


@pytest.mark.parametrize("file", READMES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(file):
    for target in re.findall(r"\]\(([^)#\s]+)\)", file.read_text()):
        if "://" not in target:
            assert (file.parent / target).exists(), f"{file}: {target}"


def test_the_readme_is_what_a_stranger_needs():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 210


@pytest.mark.parametrize("name", ["HalfStep", "TwoStreams"])
def test_a_class_of_the_readmes(name, tmp_path, monkeypatch):
    """The person's classes hold what the READMEs say of them."""
    import resformer
    from resformer.checks import check

    (code,) = (code for _, code in blocks("python") if f"class {name}(" in code)
    (tmp_path / f"my_{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    check(getattr(importlib.import_module(f"my_{name}"), name), only=("causality", "save_and_load", "gradients"))
    assert resformer.check is check


@pytest.mark.slow
def test_the_programs_run_as_printed(tmp_path):
    """Train, go on from Python, load, probe: shortened, in the order of the README."""
    short = ["--train.max_steps", "6", "--train.batch_size", "4", "--model.hidden_size", "32", "--data.tokenizer",
             "bytes", "--data.sequence_length", "64", "--train.eval_sequences", "8"]  # fmt: skip
    run = tmp_path / "run"
    for arguments in (
        ["recipes/train.py", *short, "--run_dir", str(run), "--model.residual", "post*1,highway*1,pre*rest"],
        ["recipes/probe.py", str(run), "--probes", "lesion", "lens"],
        ["recipes/report.py", str(run)],
        ["recipes/variants.py", "--format", "markdown"],
    ):
        subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True, capture_output=True, timeout=300)
    code = [code for file, code in blocks("python") if file == ROOT / "README.md" and "runs/default" in code]
    loading = code[0].replace("runs/default", str(run))
    subprocess.run([sys.executable, "-c", loading], cwd=ROOT, check=True, capture_output=True, timeout=300)


def test_shipped_configurations_are_runs():
    for file in (ROOT / "recipes" / "configs").glob("*.yaml"):
        assert isinstance(yaml.safe_load(file.read_text()), dict)
        parse_arguments(["--config", str(file)])
