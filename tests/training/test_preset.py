"""The measurements of a GPU in one go, at a size for a CPU: every part is there, and what was measured is kept."""

import json

import pytest
import torch
from resformer.recipes.benchmark import main
from torch import nn

from resformer.training import comparison, launched, preset

TINY = preset.Preset(
    sizes={"small": preset.Size(1, 16, 2, asked=1e12), "large": preset.Size(2, 32, 1)},
    kinds=("pre", "hyper"),
    others=("llama",),
    kinds_batch_size=2,
    sequence_length=16,
    vocab_size=32,
    steps=1,
)

REAL = preset.PRESETS["gpu"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    real = nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda module, **more: real(module, **more, backend="eager"))
    monkeypatch.setattr(comparison, "start_up", lambda: {"import resformer": 0.1})
    monkeypatch.setitem(preset.PRESETS, "gpu", TINY)


def test_one_command_measures_all_and_keeps_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(preset, "run_split", lambda asked: {"exit_code": 0})
    assert main(["--preset", "gpu", "--output", str(tmp_path / "gpu.json")]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert {name: size["asked"] for name, size in found["sizes"].items()} == {"small": 1e12, "large": None}
    for size in found["sizes"].values():
        (row,) = size["table"]
        assert (row["model"], row["way"]) == ("pre", "compiled")
        assert size["reached"] == row["tokens_per_second"] > 0
        assert row["utilisation"] > 0
    assert found["sizes"]["large"]["about"]["shape"]["hidden_size"] == 32
    assert [row["model"] for row in found["kinds"]["table"]] == ["pre", "hyper", "llama"]
    assert found["split"] == {"exit_code": 0}
    assert "asked 1,000,000,000,000" in capsys.readouterr().out


def test_without_a_gpu_nothing_is_begun(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setitem(preset.PRESETS, "gpu", REAL)
    monkeypatch.setattr(preset, "compare", None)
    with pytest.raises(ValueError, match="needs a GPU"):
        main(["--preset", "gpu", "--output", str(tmp_path / "gpu.json")])


def test_what_was_measured_before_a_part_fails_is_kept(monkeypatch, tmp_path):
    def fails(asked):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(preset, "run_split", fails)
    with pytest.raises(RuntimeError):
        preset.run_preset(TINY, tmp_path / "gpu.json")
    assert set(json.loads((tmp_path / "gpu.json").read_text())) == {"sizes", "kinds"}


@pytest.mark.slow
def test_weights_are_split_over_processes():
    found = preset.run_split(TINY)
    assert found["exit_code"] == 0, found
    assert found["processes"] == 2
    assert found["val_loss"] > 0


def test_a_launch_that_fails_says_why(monkeypatch):
    monkeypatch.setattr(launched, "RECIPES", launched.RECIPES / "nowhere")
    found = preset.run_split(TINY)
    assert found["exit_code"] != 0
    assert "nowhere" in found["error"]
