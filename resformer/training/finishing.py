"""What a run leaves behind: the final model with its card, a sample, and summary.json."""

import json
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from ..data import Corpus
from ..files import null_where_not_finite, whole_folder, write_json
from ..programs import is_notebook
from ..stability.endstate import StabilityWatch
from .card import card
from .checkpoints import Progress, cannot_save, save_model
from .config import RunConfig
from .evaluation import bits_per_byte, compressors_bits_per_byte
from .provenance import device_name, git_commit, source_hash, versions

SAMPLE_TOKENS = 120
MIXED = "post*1,highway*1,pre*rest"


def is_complete(folder: Path, progress: Progress) -> bool:
    """Whether all that ``finish`` leaves is there, of this very step."""
    if not (folder / "summary.json").is_file():
        return False
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(summary, dict):
        return False
    return (folder / "model").exists() and (summary.get("status"), summary.get("step")) == ("completed", progress.step)


def greet(config: RunConfig, model, corpus: Corpus, accelerator: Accelerator, resumed: Path | None) -> None:
    """Say what is about to be trained, on what."""
    empty = f" ({corpus.num_empty_documents:,} empty ones left out)" if corpus.num_empty_documents else ""
    accelerator.print(
        f"model      {model.num_parameters():,} parameters, residual {config.model.residual!r}\n"  # type: ignore[attr-defined]
        f"data       {config.data.source}: {corpus.num_documents:,} documents{empty}, "
        f"{corpus.num_train_tokens:,} training tokens of {config.data.tokenizer}\n"
        f"device     {accelerator.device} x {accelerator.num_processes}, precision {accelerator.mixed_precision}\n"
        f"run        {config.run_dir}, seed {config.seed}"
        + (f", weights of {config.init_from}" if config.init_from else "")
        + (f", going on from {resumed}" if resumed else ""),
        flush=True,
    )


def finish(summary: dict[str, Any], *, config: RunConfig, model, corpus: Corpus, accelerator: Accelerator) -> None:
    """Write the run's results and say them."""
    folder, status = Path(config.run_dir), summary["status"]
    if status != "completed":
        write_results(folder, null_where_not_finite(summary))
        again = "the same command goes on from there"
        if status == "diverged":
            again = "try a lower learning rate, or --train.on_nonfinite rollback"
        print(f"{status} at step {summary['step']}; everything up to there is in {folder}; {again}")
        return
    write_results(folder, summary, config, model, corpus)
    text = sample(model, corpus, accelerator, config.seed)
    residual, name = ("pre", "pre") if config.model.residual == MIXED else (MIXED, "mixed")  # type: ignore[attr-defined]
    on_the_command_line = f"--model.residual '{residual}' --run_dir runs/{name}"
    in_a_notebook = f'resformer.train(residual="{residual}")'
    print(
        f"\n--- a sample ---\n{text}\n---\n\n"
        f"held-out text, bits per byte    resformer {summary['val_bits_per_byte']:.3f}    "
        f"lzma {summary['lzma_bits_per_byte']:.3f}    zlib -9 {summary['zlib_bits_per_byte']:.3f}\n"
        f"held-out loss                   {summary['val_loss']:.4f} nats per token\n"
        f"end state                       {summary['end_state']}, {len(summary['spikes']['loss'])} spikes of the loss\n"
        f"trained                         {summary['tokens']:,} tokens in {summary['wall_seconds']:.0f} s\n"
        f"model, any Hugging Face tool    {folder / 'model'}\n"
        f"figures                         {folder / 'summary.json'}, {folder / 'metrics.jsonl'}\n"
        f"try next                        {in_a_notebook if is_notebook() else on_the_command_line}"
    )


def summarise(
    status: str,
    *,
    config: RunConfig,
    model,
    corpus: Corpus,
    progress: Progress,
    accelerator: Accelerator,
    val_loss: float | None,
    watch: StabilityWatch,
) -> dict[str, Any]:
    """The contents of summary.json. Losses in nats per token; ``*_bits_per_byte`` compare between tokenizers."""
    tokens = progress.step * config.train.batch_size * config.data.sequence_length
    return {
        "status": status,
        "step": progress.step,
        "loss": progress.loss,
        "val_loss": val_loss,
        "val_bits_per_byte": None if val_loss is None else bits_per_byte(val_loss, corpus),
        **compressors_bits_per_byte(corpus.validation_text),
        "unigram_entropy": corpus.unigram_entropy,
        "skipped_updates": progress.skipped_updates,
        "rollbacks": progress.rollbacks,
        "residual": config.model.residual,  # type: ignore[attr-defined]
        "parameters": model.num_parameters(),
        "tokens": tokens,
        "floating_point_operations": tokens * model.floating_point_operations_per_token(config.data.sequence_length),
        "wall_seconds": progress.seconds,
        "tokens_per_second": tokens / progress.seconds if progress.seconds else None,
        "processes": accelerator.num_processes,
        "device": device_name(),
        "precision": str(accelerator.mixed_precision),
        "versions": versions(),
        "code": source_hash(),
        "git_commit": git_commit(),
        "data_source": config.data.source,
        "data_fingerprint": corpus.fingerprint,
        "init_from": config.init_from,
        "init_from_hash": progress.init_from_hash,
        "seeds": {"init": config.init_seed, "data": config.data_seed, "dropout": config.dropout_seed},
        **watch.summary(val_loss, corpus.unigram_entropy),
    }


def sample(model, corpus: Corpus, accelerator: Accelerator, seed: int) -> str:
    """What the model writes after the first line of the held-out text, drawn at temperature 0.8."""
    start = corpus.validation_text[:200].decode("utf-8", errors="ignore").split("\n")[0] + "\n"
    inputs = corpus.tokenizer(start, return_tensors="pt", return_token_type_ids=False).to(model.device)
    room = model.config.max_position_embeddings - inputs["input_ids"].shape[1]
    model.eval()
    torch.manual_seed(seed)
    # Generating is too short to earn back compiling, which each block would need for its place in the cache.
    with accelerator.autocast(), torch.compiler.set_stance("force_eager"):
        tokens = model.generate(
            **inputs, max_new_tokens=max(1, min(SAMPLE_TOKENS, room)), do_sample=True, temperature=0.8, top_p=0.95
        )
    model.train()
    return str(corpus.tokenizer.decode(tokens[0], skip_special_tokens=True))


def write_results(
    folder: Path, summary: dict[str, Any], config: RunConfig | None = None, model=None, corpus: Corpus | None = None
) -> None:
    """summary.json, and ``model/`` with its card where a finished model is given."""
    if config is not None and corpus is not None:
        try:
            with whole_folder(folder / "model") as temporary:
                save_model(temporary, model, corpus)
                (temporary / "README.md").write_text(card(summary, config, model.config), encoding="utf-8")
        except Exception as error:
            raise OSError(cannot_save(folder / "model", error)) from error
    write_json(folder / "summary.json", summary)
