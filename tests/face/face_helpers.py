"""A text, and the keys of a run that takes seconds."""

from pathlib import Path
from typing import Any

TEXT = "".join(f"line {i * i % 97} of some {i % 7} words\n" for i in range(3000))


def tiny(text: Path) -> dict[str, Any]:
    return {
        "source": str(text), "tokenizer": "bytes", "sequence_length": 16, "cache_dir": str(text.parent / "cache"),
        "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2,
        "max_steps": 4, "batch_size": 4, "record_every": 2, "log_every": 1, "eval_sequences": 4,
    }  # fmt: skip


def tiny_sweep(text: Path, folder: Path) -> dict[str, Any]:
    run = {"model": ("num_hidden_layers", "hidden_size", "num_attention_heads"),
           "data": ("source", "tokenizer", "sequence_length", "cache_dir"),
           "train": ("max_steps", "batch_size", "record_every", "eval_sequences")}  # fmt: skip
    told = tiny(text)
    return {
        "sweep_dir": str(folder),
        "base": {f"{group}.{key}": told[key] for group, keys in run.items() for key in keys},
        "arms": {"pre": {"model.residual": "pre"}, "post": {"model.residual": "post"}},
        "learning_rates": {"grid": [1e-3, 1e-2], "extend_by": 0},
        "seeds": {"tuning": [1000], "reporting": [0]},
        "executor": {"workers": 1},
    }
