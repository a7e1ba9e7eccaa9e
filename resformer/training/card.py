"""The card of a trained model: what a stranger needs to load it, to know how it is wired, and what it is worth."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from huggingface_hub.repocard_data import EvalResult

from ..keys import flat
from ..markup import code, markdown
from ..model import ResformerConfig
from .config import RunConfig

_SAID = {
    "val_loss": "held-out loss, nats per token", "val_bits_per_byte": "held-out text, bits per byte",
    "lzma_bits_per_byte": "the same text by lzma, bits per byte", "zlib_bits_per_byte": "by zlib -9",
    "unigram_entropy": "loss of who knows each token's frequency alone", "end_state": "end state",
    "step": "optimiser steps",
    "tokens": "tokens trained on", "parameters": "parameters", "floating_point_operations": "floating point operations",
    "wall_seconds": "seconds", "processes": "processes", "device": "device", "precision": "precision",
    "data_source": "text", "data_fingerprint": "its fingerprint", "git_commit": "commit of resformer",
}  # fmt: skip
_TOLD = (
    "data.tokenizer", "data.sequence_length", "train.batch_size", "optimizer.name", "optimizer.learning_rate",
    "optimizer.weight_decay", "schedule.name", "schedule.warmup_steps", "init_seed", "data_seed",
)  # fmt: skip


def card(
    summary: dict[str, Any],
    run: RunConfig,
    model: ResformerConfig,
    name: str | None = None,
    picture: str | None = None,
    verdicts: Sequence[str] = (),
) -> str:
    """README.md of a model's folder, with the metadata that the hub reads.

    Args:
        summary: contents of the run's summary.json.
        name: ``OWNER/NAME`` on the hub, where it has one.
        picture: file beside the card that shows the stream by depth over time.
        verdicts: of the sweep that the run took part in, a sentence each, plain text.
    """
    summary = summary | {"data_source": _without_folder(run.data.source)}
    about = ModelCardData(
        library_name="transformers", pipeline_tag="text-generation", tags=["resformer", "residual-connections"],
        model_name=name or str(run.run_dir).rstrip("/").rpartition("/")[2], eval_results=_results(summary),
    )  # fmt: skip
    named = code(summary["residual"]) if isinstance(summary["residual"], str) else "mixed"
    shape = f"{model.num_hidden_layers} blocks, {model.hidden_size} wide, {model.num_attention_heads} heads"
    parts = [
        f"---\n{about.to_yaml()}\n---",
        f"# A language model with {named} residual connections",
        f"A GPT-style decoder of {summary['parameters']:,} parameters ({shape}), trained with resformer, a laboratory "
        "for residual connections. It writes what its text taught it, to compare wirings by: do not rely on it.",
        "## Load it\n\nThe folder carries its own code; where resformer is installed, `import resformer` does instead\n"
        f"of `trust_remote_code`.\n\n{_LOADING.replace('NAME', name or '.')}",
        "## Wiring\n\n`h` is the stream, `f` the branch (attention or MLP), `l` the block from 0.\n\n" + _wiring(model),
        "## Figures\n\n"
        + _table((_SAID[key], _written(summary[key])) for key in _SAID if summary.get(key) is not None),
    ]
    if picture is not None:
        parts.append(f"## The stream by depth over time\n\n![The residual stream by depth over time]({picture})")
    if verdicts:
        parts.append("## Verdicts\n\n" + "\n".join(f"- {markdown(sentence)}" for sentence in verdicts))
    told = flat(run.as_dict())
    told["data.tokenizer"] = _without_folder(told["data.tokenizer"])
    parts.append("## Training\n\n" + _table((f"`{key}`", code(str(told[key]))) for key in _TOLD))
    return "\n\n".join(parts) + "\n"


_LOADING = """```python
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

model = AutoModelForCausalLM.from_pretrained("NAME", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("NAME", trust_remote_code=True)
print(pipeline("text-generation", model=model, tokenizer=tokenizer)("The ", max_new_tokens=50)[0]["generated_text"])
```"""


def _without_folder(name: str) -> str:
    """Not where a file lies on somebody's machine; names of the hub are as they are."""
    return Path(name).name if Path(name).is_absolute() else name


def _results(summary: dict[str, Any]) -> list[EvalResult] | None:
    """Held-out figures as the hub lists them."""
    kinds = {"val_loss": "nats per token", "val_bits_per_byte": "bits per byte"}
    where = f"held-out part of {summary['data_source']}"
    found = [
        EvalResult("text-generation", "text", where, key, summary[key], metric_name=name)
        for key, name in kinds.items()
        if summary.get(key) is not None
    ]
    return found or None


def _wiring(model: ResformerConfig) -> str:
    """One row for each stretch of blocks whose branch has the same connection."""
    from ..model.catalogue import formula_and_paper

    lines = ["| blocks | branch | connection | computes | published |", "| --- | --- | --- | --- | --- |"]
    layers = model.connections()
    for _, stretch in itertools.groupby(range(len(layers)), key=lambda layer: layers[layer]):
        first, *_, last = *(found := list(stretch)), found[-1]
        blocks = f"{first}" if first == last else f"{first} to {last}"
        by_connection: dict[str, list[str]] = {}
        for sublayer in model.sublayers:
            connection = layers[first][sublayer]
            options = ", ".join(f"{name}={value}" for name, value in connection.options.items())
            written = code(f"{connection.kind}({options})" if options else connection.kind)
            formula, paper = formula_and_paper(connection.residual_class)
            by_connection.setdefault(
                " | ".join([written, formula.replace("|", "\\|"), paper.replace("|", "\\|")]), []
            ).append(sublayer)
        lines += [f"| {blocks} | {' and '.join(names)} | {cells} |" for cells, names in by_connection.items()]
    return "\n".join(lines)


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return "| | |\n| --- | --- |\n" + "\n".join(f"| {name} | {value} |" for name, value in rows)


def _written(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else markdown(str(value))
