"""What a probe looks at: a run, a checkpoint, or a configuration before any training."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from ..data import Corpus, DataConfig
from ..files import CHECKSUMS, damage, read_yaml
from ..model import ResformerConfig, ResformerForCausalLM
from ..model.rewiring import CANNOT_LOAD
from ..stability.propagation import options_of
from .checkpoints import OPTIMIZERS
from .config import RunConfig, described, read_config
from .resuming import newest_whole
from .setup import model_config

_VOCABULARY = 256
"""Of an untrained model for the init probe, where no tokenizer says."""


@dataclass
class Target:
    """Attributes: what it is called in captions; the model in float32; where its results go; the folder with its
    tokenizer, if any; the ``data.*`` of its run, if any; the configuration that it is, if it has seen no training; the
    run it belongs to, if any; the checkpoint of these weights that holds its optimisers' states, if any."""

    name: str
    model: PreTrainedModel
    out: Path
    tokenizer: Path | None
    data: dict[str, Any] | None
    untrained: RunConfig | None = None
    run: Path | None = None
    checkpoint: Path | None = None

    def second_moments(self) -> torch.Tensor | None:
        """AdamW's own, corrected for their start at 0, of all parameters in their order, flat.

        None where no checkpoint holds them, or where another optimiser moves some of the weights.
        """
        if self.run is None or self.checkpoint is None or not isinstance(self.model, ResformerForCausalLM):
            return None
        config = read_config(self.run / "config.yaml").optimizer
        saved = load_file(self.checkpoint / OPTIMIZERS)
        found = []
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                if (moment := saved.get(f"AdamW/{name}/exp_avg_sq")) is None:
                    return None
                started = 1 - config.betas[1] ** float(saved[f"AdamW/{name}/step"])
                found.append(moment.float().reshape(-1) / started)
        return torch.cat(found)

    def fit(self, corpus: Corpus) -> None:
        """Give a model that has seen no training the vocabulary of the text.

        Raises:
            ValueError: if a trained model's vocabulary is smaller than the text's.
        """
        known = self.model.config.vocab_size
        if self.untrained is not None:
            self.model = ResformerForCausalLM(model_config(self.untrained, corpus)).eval()
        elif corpus.vocab_size > known:
            why = "its tokenizer is not beside its weights" if self.tokenizer is None else "its tokenizer is another's"
            raise ValueError(
                f"the text has tokens up to {corpus.vocab_size - 1} and the model a vocabulary of {known}: {why}; save "
                "its own there with save_pretrained"
            )

    def data_config(
        self, source: str | None = None, tokenizer: str | None = None, sequence_length: int | None = None
    ) -> DataConfig:
        """The text of the probe batch: the run's own, or ``source``.

        Raises:
            ValueError: if the target belongs to no run and no source was given.
        """
        known = {field.name for field in dataclasses.fields(DataConfig)}
        options = {name: value for name, value in (self.data or {}).items() if name in known}
        if source is None and not options:
            raise ValueError(f"{self.name} lies in no run, so its text is not known; give a source of text")
        if source is not None:
            options["source"] = source
        if tokenizer is not None or self.tokenizer is not None:
            options["tokenizer"] = tokenizer or str(self.tokenizer)
        if sequence_length is not None:
            options["sequence_length"] = sequence_length
        config = DataConfig(**options)
        longest = getattr(self.model.config, "max_position_embeddings", None)
        if longest is not None and config.sequence_length > longest:
            config.sequence_length = longest
        return config

    def init_config(self, width: int, initialization: str | None) -> ResformerConfig:
        """The target's configuration at another width; with ``xavier`` embeddings have unit variance, as in theory."""
        kept = options_of(self.model.config)
        heads = max(1, width // 64)
        kept |= {"hidden_size": width, "intermediate_size": None, "head_dim": None, "num_attention_heads": heads,
                 "num_key_value_heads": None, "vocab_size": _VOCABULARY}  # fmt: skip
        kept |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
        if initialization is not None:
            kept["initialization"] = initialization
        if initialization == "xavier":
            kept["embedding_initializer_range"] = 1.0
        return ResformerConfig(**kept)


def open_target(what: str | Path | PreTrainedModel | ResformerConfig | RunConfig, seed: int = 0) -> Target:
    """What there is to look at: a model, a configuration, or the folder or file of either.

    Args:
        seed: of the initial weights of a configuration.

    Raises:
        ValueError: one line, if ``what`` is neither a run, nor a checkpoint, nor a configuration.
    """
    if isinstance(what, PreTrainedModel):
        beside = Path(what.name_or_path or "") if what.name_or_path else None
        tokenizer = beside if beside is not None and beside.is_dir() and _has_tokenizer(beside) else None
        name = type(what).__name__
        return Target(name, what.float().eval(), Path("runs") / "probes" / name, tokenizer, None)
    if isinstance(what, ResformerConfig):
        torch.manual_seed(seed)
        name = f"{what.residual}"
        return Target(name, ResformerForCausalLM(what).eval(), Path("runs") / "probes" / "config", None, None)
    if isinstance(what, RunConfig):
        return _untrained(what, what.run_dir, Path(what.run_dir) / "probes", seed)
    if Path(what).suffix in (".yaml", ".yml"):
        return _untrained(read_config(Path(what)), str(what), Path("runs") / "probes" / Path(what).stem, seed)
    return _trained(Path(what))


def _trained(path: Path) -> Target:
    if not path.is_dir():
        raise ValueError(f"{path} is no folder; give a run, a checkpoint, or a configuration in YAML")
    run = next((folder for folder in (path, *path.resolve().parents[:2]) if (folder / "config.yaml").exists()), None)
    folder = path if (path / "config.json").exists() else _newest(path)
    if folder is None:
        raise ValueError(f"{path} is no checkpoint (no config.json), nor a run with one; give the folder of either")
    if (folder / CHECKSUMS).exists() and (wrong := damage(folder)):
        raise ValueError(f"{folder} is damaged: {wrong}; give another checkpoint")
    data = read_yaml(run / "config.yaml").get("data") if run else None
    try:
        described(folder)
        AutoConfig.from_pretrained(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    except CANNOT_LOAD as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{folder} cannot be loaded as a causal language model: {reason}") from error
    out = (run or folder.parent) / "probes" / folder.name
    checkpoint = newest_whole(run) if run and folder == run / "model" else folder
    if checkpoint is not None and not (checkpoint / OPTIMIZERS).exists():
        checkpoint = None
    tokenizer = folder if _has_tokenizer(folder) else None
    return Target(str(path), model, out, tokenizer, data, run=run, checkpoint=checkpoint)


def _has_tokenizer(folder: Path) -> bool:
    """Raises ValueError, one line, where there is one that cannot be read."""
    there = [name for name in ("tokenizer.json", "tokenizer_config.json") if (folder / name).exists()]
    try:
        return bool(AutoTokenizer.from_pretrained(folder))
    except Exception as error:  # its files may hold anything
        if there:
            reason = str(error).strip().split("\n")[0]
            raise ValueError(f"{folder}: its tokenizer cannot be read ({', '.join(there)}: {reason})") from error
        return False


def _newest(path: Path) -> Path | None:
    if (path / "model" / "config.json").exists():
        return path / "model"
    return newest_whole(path)


def _untrained(config: RunConfig, name: str, out: Path, seed: int) -> Target:
    torch.manual_seed(seed)
    model = ResformerForCausalLM(config.model_config(vocab_size=_VOCABULARY)).eval()
    return Target(name, model, out, None, dataclasses.asdict(config.data), untrained=config)
