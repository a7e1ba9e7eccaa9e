"""The other words of the face: probe, sweep, variants, and the programs of the package."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from face_helpers import tiny, tiny_sweep

import resformer
from resformer import programs
from resformer.model.specification import KINDS
from resformer.sweeping import as_sweep_config

ROOT = Path(__file__).parents[2]


def test_importing_loads_no_trainer_and_no_figures():
    heavy = [
        "torch",
        "transformers",
        "pandas",
        "altair",
        "datasets",
        "jsonargparse",
        "pyarrow",
        "rich",
        "resformer.training",
    ]
    script = f"import sys, resformer; print([name for name in {heavy!r} if name in sys.modules]); resformer.Run"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(resformer.__all__) <= set(dir(resformer))
    with pytest.raises(AttributeError, match="trian"):
        _ = resformer.trian


def test_what_is_to_be_typed_is_there(monkeypatch):
    assert programs.command_of("report") == "python recipes/report.py"
    monkeypatch.setattr(programs, "RECIPES", Path(programs.__file__).parent / "recipes")
    assert programs.command_of("report") == "python -m resformer report"


def test_all_kinds_are_in_the_table():
    table = resformer.variants()
    assert set(KINDS) <= {kind for kinds in table.kind for kind in kinds.split(", ")}
    assert table.set_index("kind").parameters["pre"] == 0


class Halved(resformer.Residual):
    """``h + f(h) / 2``."""

    def forward(self, h, f):
        return h + f(h) / 2


def test_a_persons_own_class_can_be_checked():
    assert "boundary" in repr(resformer.check(Halved, only=["boundary", "causality"]))


def test_a_run_its_model_and_its_folder_give_one_answer(run, text):
    by_run = resformer.probe(run, "lesion", sequences=2)
    assert "lesion_increase" in set(by_run.table.metric)
    by_folder = resformer.probe(run.folder, "lesion", sequences=2)
    by_model = resformer.probe(
        run.model(dtype=torch.float32), "lesion", source=str(text), sequence_length=16, sequences=2
    )
    assert by_folder.table.equals(by_run.table)
    assert by_model.table.equals(by_run.table)
    shown = by_run._repr_html_()
    assert "<svg" in shown and "<table" in shown
    assert "lesion_increase" in repr(by_run)


def test_a_probe_saves_table_and_figure(run, tmp_path):
    out = resformer.probe(run, "lens", sequences=2).save(tmp_path / "out")
    assert {file.suffix for file in out.rglob("lens.*")} >= {".parquet", ".html", ".svg", ".png", ".pdf"}


def test_a_configuration_is_probed_before_training():
    config = resformer.ResformerConfig(vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    found = resformer.probe(config, "init", depths=[2, 3], width=16)
    assert set(found.table.depth) == {2, 3}
    drawn = torch.get_rng_state()
    again = resformer.probe(resformer.RunConfig(), "init", depths=[2], width=16)
    assert set(again.table.depth) == {2}
    assert torch.equal(torch.get_rng_state(), drawn)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("lesoin", {}, "did you mean 'lesion'"),
        ("lens", {"sequence": 2}, "did you mean 'sequences'"),
        ("lens", {"sequences": 0}, "at least 1"),
        ("landscape", {"points": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_probed_is_one_line(run, name, options, named):
    with pytest.raises(ValueError, match=named) as error:
        resformer.probe(run, name, **options)
    assert "\n" not in str(error.value)


def test_a_sweep_gives_its_verdicts(sweep):
    assert set(sweep.verdicts.arm) == {"pre", "post"}
    assert len(sweep.runs) >= 6
    assert resformer.open_run(sweep.folder / sweep.runs.folder[0]).summary["status"] == "completed"
    assert "trials finished" in repr(sweep)
    assert "<table" in sweep._repr_html_()
    assert "<svg" in sweep.figures()._repr_html_()
    again = resformer.open_sweep(sweep.folder)
    assert again.verdicts.equals(sweep.verdicts)


def test_the_notebook_runs_from_its_first_cell_to_its_last(run, sweep, text):
    """With a run and a sweep that are there already, which the same calls open again."""
    cells = json.loads((ROOT / "recipes" / "first_steps.ipynb").read_text())["cells"]
    first, *others = ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    told = tiny_sweep(text, sweep.folder)
    namespace = {
        "residual": "post*1,pre*rest",
        "settings": tiny(text) | {"run_dir": str(run.folder)},
        "few": told["base"],
        "sweep_settings": {"sweep_dir": told["sweep_dir"], "executor": told["executor"]},
    }
    exec(first, names := {})
    assert set(namespace) <= set(names)
    exec(first.splitlines()[0], namespace)
    for source in others:
        exec(source, namespace)
    assert namespace["run"].summary == run.summary
    assert namespace["sweep"].verdicts.equals(sweep.verdicts)


def test_sweeps_are_said_in_dictionaries_and_keywords(text, tmp_path):
    told = tiny_sweep(text, tmp_path / "sweep")
    config = as_sweep_config(told, {"workers": 2, "base": {"train.max_steps": 9}, "statistics": {"margin": 0.5}})
    assert (config.executor.workers, config.base["train.max_steps"], config.base["model.hidden_size"]) == (2, 9, 32)
    assert config.statistics.margin == 0.5
    assert as_sweep_config(config, {"workers": 3}).arms == told["arms"]
    for wrong, named in (({"wrkers": 2}, "workers"), ({"arms": {}}, "arms"), ({"executor": 3}, "group")):
        with pytest.raises(ValueError, match=named) as error:
            as_sweep_config(told, wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"no sweep\.yaml"):
        resformer.open_sweep(tmp_path)


def module(*arguments):
    return subprocess.run([sys.executable, "-m", "resformer", *arguments], capture_output=True, text=True, check=False)


def test_the_package_runs_the_programs():
    listed = module()
    assert listed.returncode == 0
    for name in ("train", "sweep", "probe", "report", "variants", "benchmark"):
        assert f"\n{name} " in listed.stdout
    assert module("--help").stdout == listed.stdout
    kinds = module("variants", "--format", "json")
    assert {row["kind"] for row in json.loads(kinds.stdout)} >= {"pre", "hyper"}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(("trian",), "did you mean 'train'"), (("train", "--train.max_stps", "3"), "train.max_steps")],
)
def test_a_wrong_word_is_one_line_and_exit_code_2(arguments, named):
    refused = module(*arguments)
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert named in refused.stderr
    assert refused.stderr.count("\n") == 1


ORDERS = [
    "from resformer import ResformerConfig",
    "from resformer.model.configuration_resformer import ResformerConfig",
    "from transformers import AutoModelForCausalLM",
    "from transformers import pipeline",
    "from transformers import Trainer",
    "from transformers import AutoTokenizer; import resformer",
]


@pytest.mark.parametrize("first", ORDERS)
def test_the_auto_classes_know_ours_whichever_is_loaded_first(first):
    """Both import each other: what is loaded first must not find the other half made."""
    script = f"""
import {"sys" if "; import" in first else "resformer"}
{first}
from transformers import AutoConfig, AutoModelForCausalLM
config = AutoConfig.for_model("resformer", hidden_size=8, num_attention_heads=1, num_hidden_layers=1)
print(type(AutoModelForCausalLM.from_config(config)).__name__)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "ResformerForCausalLM\n"


@pytest.mark.parametrize("name", ["train", "sweep", "report", "claims", "variants", "evaluate", "benchmark"])
def test_help_loads_no_tensor_library(name):
    script = f"""
import runpy, sys
sys.argv = ["{name}.py", "--help"]
try:
    runpy.run_path("recipes/{name}.py", run_name="__main__")
finally:
    heavy = ["torch", "transformers", "accelerate", "datasets", "pandas", "altair"]
    assert not (loaded := [name for name in heavy if name in sys.modules]), loaded
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
