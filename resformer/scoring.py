"""Bits per byte of any causal language models on one text, cut into the same windows for all, so that they compare."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .data import DataConfig, load_corpus
from .data.sources import open_source
from .probing import opened_target
from .programs import is_watched
from .run import Run
from .stability.metrics import metric
from .training import read_config
from .training.evaluation import compressors_bits_per_byte

BATCH = 8
"""Windows of one forward pass."""


def evaluate(
    *targets: Run | PreTrainedModel | str | Path, source: str | None = None, window: int = 1000, most: int = 1_000_000
) -> pd.DataFrame:
    """How many bits each model needs for a byte of text.

    Every document is cut into windows of so many characters, whatever the tokenizer. A window is read from the model's
    token of beginning (or, without one, of end), so that every byte is paid for, and nothing before it is seen.

    Args:
        targets: runs, checkpoints of any Hugging Face causal language model, or such models (a tokenizer beside them).
        source: of text, as ``data.source``: a file, a folder; by default the held-out text of the first run.
        window: characters.
        most: characters of the text that are read at the most.

    Returns:
        One row a model, and one for each general compressor: ``model``, ``bits_per_byte``, ``nats_per_token``,
        ``tokens``, ``bytes``, ``unknown_tokens`` (above 0 the model was not asked for all of the text).

    Raises:
        ValueError: one line, for what cannot be loaded, a model without a tokenizer or a token to begin with, or
            windows longer than a model's positions.
    """
    if not targets:
        raise ValueError("there is no model to evaluate; give runs or checkpoints")
    windows = list(_windows(_documents(targets, source), window, most))
    if not windows:
        raise ValueError("there is no text to evaluate on; give another source")
    text = "".join(windows).encode()
    rows = [_row(target, windows, len(text)) for target in targets]
    for name, bits in compressors_bits_per_byte(text).items():
        rows.append({"model": metric(name).title, "bits_per_byte": bits, "bytes": len(text)})
    return pd.DataFrame(rows).astype({"tokens": "Int64", "unknown_tokens": "Int64"})


def _documents(targets: Sequence[Any], source: str | None) -> Iterator[str]:
    if source is not None:
        yield from open_source(DataConfig(source=source)).documents()
        return
    folders = [target.folder if isinstance(target, Run) else target for target in targets]
    run = next((Path(f) for f in folders if isinstance(f, str | Path) and (Path(f) / "config.yaml").exists()), None)
    if run is None:
        raise ValueError("none of these is a run, so no text is known; give a source of text")
    yield load_corpus(read_config(run / "config.yaml").data).validation_text.decode()


def _windows(documents: Iterable[str], window: int, most: int) -> Iterator[str]:
    if window < 1 or most < 1:
        raise ValueError(f"window {window} and most {most} must be at least 1")
    for document in documents:
        for start in range(0, min(len(document), most), window):
            yield document[start : min(start + window, most)]
        most -= len(document)
        if most <= 0:
            return


@torch.no_grad()
def _row(target: Any, windows: Sequence[str], size: int) -> dict[str, Any]:
    opened = opened_target(target)
    if opened.tokenizer is None:
        raise ValueError(f"{opened.name} has no tokenizer beside it; save its own there with save_pretrained")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(opened.tokenizer)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise ValueError(f"{opened.name}: its tokenizer has no token of beginning or end for a window to begin with")
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    model: Any = opened.model
    model.to(device)
    nats, tokens, unknown = 0.0, 0, 0
    parts = [windows[i : i + BATCH] for i in range(0, len(windows), BATCH)]
    for part in tqdm(parts, desc=opened.name, disable=not is_watched(), leave=False):
        ids = [[begin, *tokenizer(one, add_special_tokens=False).input_ids] for one in part]
        longest = max(map(len, ids))
        if longest - 1 > getattr(model.config, "max_position_embeddings", math.inf):
            raise ValueError(
                f"{opened.name}: a window of {len(part[0])} characters has {longest - 1} tokens, and the model "
                f"{model.config.max_position_embeddings} positions; give a smaller window, for example "
                f"{max(1, len(part[0]) * (model.config.max_position_embeddings - 1) // longest)}"
            )
        padded = torch.tensor([one + [-100] * (longest - len(one)) for one in ids], device=device)
        inputs, labels = padded[:, :-1].clamp(min=0), padded[:, 1:]
        mask = (padded[:, :-1] >= 0).long()
        logits = model(input_ids=inputs, attention_mask=mask, use_cache=False).logits.float()
        nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
        tokens += sum(len(one) - 1 for one in ids)
        if tokenizer.unk_token_id is not None:
            unknown += sum(one[1:].count(tokenizer.unk_token_id) for one in ids)
    return {
        "model": opened.name,
        "bits_per_byte": nats / math.log(2) / size,
        "nats_per_token": nats / max(1, tokens),
        "tokens": tokens,
        "bytes": size,
        "unknown_tokens": unknown,
    }
