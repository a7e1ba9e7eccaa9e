"""Everything that is asked of a GPU, measured in one go and kept in one file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..files import write_json
from .comparison import Comparison, compare, rendered, widths
from .launched import launched_run


@dataclass(frozen=True)
class Size:
    """A model of ``pre``, and how many tokens a second it is asked to train on one H100-class device."""

    num_hidden_layers: int
    hidden_size: int
    batch_size: int
    asked: float | None = None

    def shape(self, sequence_length: int, vocab_size: int) -> dict[str, Any]:
        return {
            "vocab_size": vocab_size,
            "num_hidden_layers": self.num_hidden_layers,
            "max_position_embeddings": sequence_length,
            "tie_word_embeddings": True,
            **widths(self.hidden_size),
        }


@dataclass(frozen=True)
class Preset:
    """``sizes``: of which the first also takes all ``kinds`` and ``others``, in batches of ``kinds_batch_size``."""

    sizes: dict[str, Size]
    kinds: tuple[str, ...]
    others: tuple[str, ...]
    kinds_batch_size: int
    sequence_length: int
    vocab_size: int
    steps: int
    needs_gpu: bool = False


PRESETS = {
    "gpu": Preset(
        sizes={"124M": Size(12, 768, 32, asked=400_000), "350M": Size(24, 1024, 16, asked=140_000)},
        kinds=("pre", "hyper", "mhc", "frac", "attn_res", "attn_res(block=4)", "highway", "denseformer"),
        others=("llama", "gpt2"),
        kinds_batch_size=8,
        sequence_length=1024,
        vocab_size=50_304,
        steps=20,
        needs_gpu=True,
    )
}


def run_preset(preset: Preset, output: Path) -> dict[str, Any]:
    """Compiled steps of ``pre`` in each size, of all kinds in the first, and a run with weights split over processes.

    What was measured is in ``output`` (JSON) after each part, so that a later part that fails loses nothing.

    Returns:
        As in the file: ``sizes`` by name, each a ``Comparison`` with ``asked`` and ``reached`` tokens a second;
        ``kinds``, a ``Comparison``; ``split``, how the run with FSDP2 ended.

    Raises:
        ValueError: without the GPU that it needs.
    """
    if preset.needs_gpu and not torch.accelerator.is_available():
        raise ValueError(
            "the preset needs a GPU, and torch finds none; start it on a machine with one, or leave out "
            "--preset and time what a CPU can"
        )
    found: dict[str, Any] = {"sizes": {}}

    def keep(text: str) -> None:
        write_json(output, found)
        print(text, end="\n\n", flush=True)

    for name, size in preset.sizes.items():
        measured = _compiled(preset, size, ["pre"], [], size.batch_size)
        reached = float(measured.table.tokens_per_second.iloc[0])
        found["sizes"][name] = measured.as_dict() | {"asked": size.asked, "reached": reached}
        asked = f", asked {size.asked:,.0f}" if size.asked else ""
        keep(f"## pre, {name}: {reached:,.0f} tokens/s{asked}\n\n{rendered(measured, 'markdown')}")
    first = next(iter(preset.sizes.values()))
    measured = _compiled(preset, first, list(preset.kinds), list(preset.others), preset.kinds_batch_size)
    found["kinds"] = measured.as_dict()
    keep(f"## What kinds cost\n\n{rendered(measured, 'markdown')}")
    found["split"] = split = run_split(preset)
    keep("## Weights split over processes (FSDP2)\n\n" + ", ".join(f"{name} {told}" for name, told in split.items()))
    return found


def _compiled(preset: Preset, size: Size, kinds: list[str], others: list[str], batch_size: int) -> Comparison:
    shape = size.shape(preset.sequence_length, preset.vocab_size)
    return compare(kinds, shape, batch_size, preset.steps, others, ["compiled"])


def run_split(preset: Preset) -> dict[str, Any]:
    """A short run of ``train.py`` under ``accelerate/fsdp2.yaml``: the first size over all GPUs where there are two
    or more, else a tiny one over two processes on CPUs.

    Returns:
        ``exit_code``, and of the run's summary ``device``, ``processes``, ``tokens_per_second``, ``val_loss``; or
        ``error``, the end of what it said.
    """
    devices, length = torch.cuda.device_count(), preset.sequence_length
    size, processes = next(iter(preset.sizes.values())), devices
    if devices < 2:
        size, processes, length = Size(2, 32, 1), 2, 32
    batch = 8 * processes
    told = {
        "model.num_hidden_layers": size.num_hidden_layers, "model.hidden_size": size.hidden_size,
        "model.num_attention_heads": max(1, size.hidden_size // 64), "data.sequence_length": length,
        "train.batch_size": batch, "train.max_steps": 20, "train.eval_sequences": batch,
    }  # fmt: skip
    summary = launched_run("fsdp2", processes, told, cpu=devices < 2)
    kept = ("exit_code", "error", "device", "processes", "tokens_per_second", "val_loss")
    return {name: summary[name] for name in kept if name in summary}
