"""What a newcomer gets who installs the wheel and has no clone."""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
import yaml
from face_helpers import TEXT, tiny, tiny_sweep

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Built from a copy: what an earlier build left in the clone would be in it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    for name in ("resformer", "recipes"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--no-deps",
        "--no-build-isolation",
        "-q",
        "-w",
        str(out),
        str(source),
    ]
    subprocess.run(build, check=True, capture_output=True, text=True)
    return next(out.glob("resformer-*.whl"))


def test_it_carries_the_package_the_programs_and_their_configurations(wheel):
    carried = set(zipfile.ZipFile(wheel).namelist())
    files = {path.relative_to(ROOT).as_posix() for path in (ROOT / "resformer").rglob("*.py")}
    files |= {f"resformer/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*.py")}
    files |= {f"resformer/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "recipes").rglob("*.[jy]*[ln]")}
    files |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "resformer" / "report").glob("*.[hcj]*[ls]")}
    assert files - carried == set()
    assert "resformer/py.typed" in carried
    assert not [name for name in carried if name.startswith(("tests", "recipes"))]
    assert not [name for name in carried if name.endswith((".png", ".svg"))]


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """A fresh environment: the wheel, and the packages that it depends on."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=False)
    packages = next((folder / "lib").glob("python*")) / "site-packages"
    # A path that a .pth file names is searched, but its own .pth files (this clone's, if it is installed) are not read.
    (packages / "dependencies.pth").write_text("\n".join(path for path in sys.path if "packages" in path))
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "-q", "--target", str(packages), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, text=True)
    return folder / "bin" / "python"


def call(python, folder, *words):
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return subprocess.run(
        [str(python), *words], cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=1200
    )


@pytest.mark.slow
def test_a_newcomer_does_it_all_from_the_wheel(python, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text(TEXT)
    script = f"""
import resformer
assert "site-packages" in resformer.__file__, resformer.__file__
run = resformer.train(residual="post*1,pre*rest", **{tiny(text)!r})
print(run, len(run.metrics), len(run.layers), run.summary["end_state"])
print(run.model().config.residual, run.tokenizer().decode(run.tokenizer()("abc").input_ids))
print(list(run.figures()), resformer.open_run(run.folder))
print(resformer.probe(run, "lesion", sequences=2))
sweep = resformer.sweep({tiny_sweep(text, tmp_path / "sweep")!r})
print(sweep.verdicts[["arm", "verdict"]], resformer.open_sweep(sweep.folder))
print(len(resformer.variants()))
print(run.folder, file=open("folder", "w"))
"""
    (tmp_path / "notebook.py").write_text(script)
    done = call(python, tmp_path, "notebook.py")
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    folder = (tmp_path / "folder").read_text().strip()
    flags = [f"--{group}.{key}={tiny(text)[key]}" for group, keys in (
        ("data", ("source", "tokenizer", "sequence_length", "cache_dir")),
        ("model", ("num_hidden_layers", "hidden_size", "num_attention_heads")),
        ("train", ("max_steps", "batch_size")),
    ) for key in keys]  # fmt: skip
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(tiny_sweep(text, tmp_path / "planned")))
    small = "--steps 1 --hidden_size 64 --num_hidden_layers 2 --sequence_length 16 --batch_size 2"
    programs = {
        "train": [*flags, "--run_dir", "again"],
        "probe": [folder, "--probes", "lens", "--sequences", "2"],
        "report": [folder],
        "variants": ["--format", "markdown"],
        "benchmark": small.split(),
        "sweep": ["--dry_run", "--config", "sweep.yaml"],
    }
    for name, words in programs.items():
        done = call(python, tmp_path, "-m", "resformer", name, *words)
        print(f"$ python -m resformer {name} ...\n{done.stdout[-600:]}")
        assert done.returncode == 0, (name, done.stderr)
    assert (tmp_path / "again" / "model" / "config.json").exists()
    assert "did you mean" in call(python, tmp_path, "-m", "resformer", "bench").stderr
