"""Bits per byte of any causal language models on one text, cut into the same windows for all, so that they compare."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
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

WINDOW = 1000
"""Characters of a window where all models hold as many."""


def evaluate(
    *targets: Run | PreTrainedModel | str | Path,
    source: str | None = None,
    window: int | None = None,
    most: int = 1_000_000,
) -> pd.DataFrame:
    """How many bits each model needs for a byte of text.

    Every document is cut into windows of so many characters, whatever the tokenizer. A window is read from the model's
    token of beginning (or, without one, of end), so that every byte is paid for, and nothing before it is seen.

    Args:
        targets: runs, checkpoints of any Hugging Face causal language model, or such models (a tokenizer beside them).
        source: of text, as ``data.source``: a file, a folder; by default the held-out text of the first run.
        window: characters; by default 1,000, or as many as the shortest context of these models holds.
        most: characters of the text that are read at the most.

    Returns:
        One row a model, and one for each general compressor: ``model``, ``bits_per_byte``, ``nats_per_token``,
        ``tokens``, ``bytes``, ``window``, ``unknown_tokens`` (above 0 the model was not asked for all of the text).

    Raises:
        ValueError: one line, for what cannot be loaded, a model without a tokenizer or a token to begin with, or
            windows longer than a model's positions.
    """
    if not targets:
        raise ValueError("there is no model to evaluate; give runs or checkpoints")
    documents = list(_documents(targets, source))
    readers = [_reader(target) for target in targets]
    windows = list(_windows(documents, WINDOW if window is None else window, most))
    if window is None:
        size = WINDOW
        while (holds := min(reader.holds(windows, size) for reader in readers)) < size:
            windows, size = list(_windows(documents, holds, most)), holds
    if not windows:
        raise ValueError("there is no text to evaluate on; give another source")
    text = "".join(windows).encode()
    rows: list[dict[str, Any]] = [{"model": reader.name} | reader.read(windows, len(text)) for reader in readers]
    for name, bits in compressors_bits_per_byte(text).items():
        rows.append({"model": metric(name).title, "bits_per_byte": bits, "bytes": len(text)})
    found = pd.DataFrame(rows).assign(window=max(map(len, windows)))
    return found.astype({"tokens": "Int64", "unknown_tokens": "Int64"})


def _documents(targets: Sequence[Any], source: str | None) -> Iterator[str]:
    if source is not None:
        yield from open_source(DataConfig(source=str(source))).documents()
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


@dataclass(frozen=True)
class _Reader:
    """A model and how it reads a window."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    begin: int

    def ids(self, windows: Iterable[str]) -> list[list[int]]:
        """Token ids of each window, after the token that it is read from."""
        return [[self.begin, *self.tokenizer(one, add_special_tokens=False).input_ids] for one in windows]

    def holds(self, windows: Sequence[str], size: int) -> int:
        """How many characters a window of ``size`` may have for this model's positions, at most ``size``."""
        positions: int = getattr(self.model.config, "max_position_embeddings", sys.maxsize)
        longest = max((len(ids) - 1 for ids in self.ids(windows)), default=0)
        return size if longest <= positions else max(1, min(size - 1, size * positions // longest))

    @torch.no_grad()
    def read(self, windows: Sequence[str], size: int) -> dict[str, Any]:
        """What ``size`` bytes of text cost. Raises ValueError, one line, for a window that is too long."""
        holds = self.holds(windows, longest := max(map(len, windows)))
        if holds < longest:
            raise ValueError(
                f"{self.name}: a window of {longest} characters has more tokens than the model's "
                f"{self.model.config.max_position_embeddings} positions; give a smaller window, for example {holds}"
            )
        device = torch.accelerator.current_accelerator() or torch.device("cpu")
        self.model.to(device)
        nats, tokens, unknown = 0.0, 0, 0
        parts = [windows[i : i + BATCH] for i in range(0, len(windows), BATCH)]
        for part in tqdm(parts, desc=self.name, disable=not is_watched(), leave=False):
            ids = self.ids(part)
            known, largest = self.model.config.get_text_config().vocab_size, max(map(max, ids))
            if largest >= known:
                raise ValueError(
                    f"{self.name}: its tokenizer has token {largest}, its vocabulary is of {known}; it is "
                    "another model's tokenizer"
                )
            longest = max(map(len, ids))
            padded = torch.tensor([one + [-100] * (longest - len(one)) for one in ids], device=device)
            inputs, labels = padded[:, :-1].clamp(min=0), padded[:, 1:]
            mask = (padded[:, :-1] >= 0).long()
            logits = self.model(input_ids=inputs, attention_mask=mask, use_cache=False).logits.float()
            nats += torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum").item()
            tokens += sum(len(one) - 1 for one in ids)
            if self.tokenizer.unk_token_id is not None:
                unknown += sum(one[1:].count(self.tokenizer.unk_token_id) for one in ids)
        self.model.to("cpu")
        return {
            "bits_per_byte": nats / math.log(2) / size,
            "nats_per_token": nats / max(1, tokens),
            "tokens": tokens,
            "bytes": size,
            "unknown_tokens": unknown,
        }


def _reader(target: Any) -> _Reader:
    opened = opened_target(target)
    if opened.tokenizer is None:
        raise ValueError(f"{opened.name} has no tokenizer beside it; save its own there with save_pretrained")
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(opened.tokenizer)
    begin = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if begin is None:
        raise ValueError(f"{opened.name}: its tokenizer has no token of beginning or end for a window to begin with")
    return _Reader(opened.name, opened.model, tokenizer, begin)
