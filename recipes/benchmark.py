"""How long a whole training step takes, as a ratio to transformers' Llama of equal parameters.

    python recipes/benchmark.py [--residual pre,post,...] [--steps 15]

Steps are interleaved (Llama, A, B, Llama, A, B, ...), and each ratio is taken within one round, so that a machine
whose speed drifts does not favour anyone. The median over the rounds is what to quote. The last line is the loop of
recipes/train.py with the model `pre`: the same step, and everything around it.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.data import PackedTokens, training_batches
from resformer.model.specification import KINDS
from resformer.programs import arguments_of, run_program
from resformer.training.config import OptimizerConfig, ScheduleConfig
from resformer.training.launch import default_precision, make_accelerator
from resformer.training.metrics_log import MetricsLog
from resformer.training.optimizers import build_optimizers, lr_factor, set_learning_rate
from resformer.training.step import train_step


def bare_step(model, tokens: torch.Tensor) -> Callable[[], None]:
    """A training step as one writes it by hand: autocast, backward, clip, fused AdamW."""
    optimizer = torch.optim.AdamW(model.to(tokens.device).train().parameters(), lr=1e-3, fused=True)

    def step() -> None:
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=default_precision() == "bf16"):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def whole_loop(model, tokens: torch.Tensor, steps: int, folder: Path) -> Callable[[], None]:
    """One turn of recipes/train.py's loop: order of the data, schedule, seeds, step, a line of metrics.jsonl."""
    accelerator, config, schedule = make_accelerator(str(folder), []), OptimizerConfig(name="adamw"), ScheduleConfig()
    batch_size, sequence_length = tokens.shape
    np.random.default_rng(0).integers(0, 257, 64 * tokens.numel(), np.uint16).tofile(folder / "tokens")
    packed = PackedTokens(folder / "tokens", "uint16", sequence_length, end_of_text=256)
    batches = training_batches(packed, seed=0, batch_size=batch_size, micro_batch_size=batch_size, max_steps=steps)
    log = MetricsLog(folder / "metrics.jsonl", accelerator, step=0, max_steps=steps, tokens_per_step=tokens.numel())
    wrapped, *optimizers = accelerator.prepare(model.train(), *build_optimizers(model, config))
    done = 0

    def turn() -> None:
        nonlocal done
        factor = lr_factor(done, steps, schedule)
        set_learning_rate(optimizers, factor)
        loss, grad_norm, _ = train_step(
            wrapped,
            optimizers,
            batches,
            accumulation=1,
            config=config,
            accelerator=accelerator,
            dropout_key=f"0|{done}",
        )
        done += 1
        log.write(done, loss=loss, learning_rate=factor, grad_norm=grad_norm)

    return turn


def benchmark(
    residual: str = "pre",
    num_hidden_layers: int = 6,
    hidden_size: int = 384,
    sequence_length: int = 256,
    batch_size: int = 8,
    vocab_size: int = 257,
    steps: int = 15,
) -> None:
    """Time whole training steps.

    Args:
        residual: kinds to time, separated by commas, or all.
        num_hidden_layers: number of blocks.
        hidden_size: width of the stream.
        sequence_length: in tokens.
        batch_size: in sequences.
        vocab_size: number of tokens, at least 257.
        steps: timed rounds, after two that are not.
    """
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": round(hidden_size * 8 / 3),
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": hidden_size // 64,
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": True,
    }
    models = {"llama": LlamaForCausalLM(LlamaConfig(**shape))}
    for kind in sorted(set(KINDS) - {"two_norms"}) if residual == "all" else residual.split(","):
        models[kind] = ResformerForCausalLM(ResformerConfig(**shape, residual=kind))
    models["loop"] = ResformerForCausalLM(ResformerConfig(**shape, residual="pre"))
    tokens = torch.randint(vocab_size, (batch_size, sequence_length), device=device)

    def timed(step: Callable[[], None]) -> float:
        start = time.perf_counter()
        step()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    with tempfile.TemporaryDirectory() as folder:
        arms = {name: bare_step(model, tokens) for name, model in models.items() if name != "loop"}
        arms["loop"] = whole_loop(models["loop"], tokens, steps + 2, Path(folder))
        rounds = [{name: timed(arm) for name, arm in arms.items()} for _ in tqdm(range(steps + 2), disable=None)][2:]
    print(f"{'model':<14}{'parameters':>12}{'ms a step':>12}{'/ llama':>10}{'/ pre':>10}   (medians of {steps} rounds)")
    for name, model in models.items():
        milliseconds = 1e3 * statistics.median(r[name] for r in rounds)
        ratios = [statistics.median(r[name] / r[b] for r in rounds) if b in rounds[0] else float("nan") for b in
                  ("llama", "pre")]  # fmt: skip
        print(f"{name:<14}{model.num_parameters():>12,}{milliseconds:>12.1f}{ratios[0]:>10.3f}{ratios[1]:>10.3f}")


def main(arguments: list[str] | None = None) -> int:
    benchmark(**arguments_of(benchmark, arguments))
    return 0


if __name__ == "__main__":
    run_program(main)
