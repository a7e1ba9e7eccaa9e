"""How long a whole training step takes, as a ratio to transformers' Llama of equal parameters.

    python recipes/benchmark.py [--residual pre,post,...] [--steps 15]
    python recipes/benchmark.py --recorder [--residual pre] [--steps 15]    the recorder's share of the default job

Steps are interleaved (Llama, A, B, Llama, A, B, ...), and each ratio is taken within one round, so that a machine
whose speed drifts does not favour anyone. The median over the rounds is what to quote.
"""

import argparse
import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.model.specification import KINDS
from resformer.stability.endstate import StabilityWatch
from resformer.stability.recorder import Instruments
from resformer.training.config import RunConfig
from resformer.training.optimizers import build_optimizers


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--residual", default="pre", help="kinds to time, separated by commas, or 'all'")
    parser.add_argument("--num_hidden_layers", type=int, default=6)
    parser.add_argument("--hidden_size", type=int, default=384)
    parser.add_argument("--sequence_length", type=int, default=256, help="tokens")
    parser.add_argument("--batch_size", type=int, default=8, help="sequences")
    parser.add_argument("--vocab_size", type=int, default=257)
    parser.add_argument("--recorder", action="store_true", help="time the default job with and without its recorder")
    parser.add_argument("--steps", type=int, default=15, help="timed rounds, after two that are not")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.recorder:
        for kind in KINDS if arguments.residual == "all" else arguments.residual.split(","):
            time_recorder(kind, arguments.steps)
        return
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    shape = {
        "vocab_size": arguments.vocab_size,
        "hidden_size": arguments.hidden_size,
        "intermediate_size": round(arguments.hidden_size * 8 / 3),
        "num_hidden_layers": arguments.num_hidden_layers,
        "num_attention_heads": arguments.hidden_size // 64,
        "max_position_embeddings": arguments.sequence_length,
        "tie_word_embeddings": True,
    }
    models = {"llama": LlamaForCausalLM(LlamaConfig(**shape))}
    for kind in KINDS if arguments.residual == "all" else arguments.residual.split(","):
        models[kind] = ResformerForCausalLM(ResformerConfig(**shape, residual=kind))
    optimizers = {}
    for name, model in models.items():
        model.to(device).train()
        optimizers[name] = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = torch.randint(arguments.vocab_size, (arguments.batch_size, arguments.sequence_length), device=device)

    def step(name: str) -> float:
        model, optimizer = models[name], optimizers[name]
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    rounds = [{name: step(name) for name in models} for _ in tqdm(range(arguments.steps + 2), disable=None)][2:]
    print(f"{'model':<12}{'parameters':>12}{'ms a step':>12}{'/ llama':>10}   (medians of {arguments.steps} rounds)")
    for name, model in models.items():
        milliseconds = 1e3 * statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r["llama"] for r in rounds)
        print(f"{name:<12}{model.num_parameters():>12,}{milliseconds:>12.1f}{ratio:>10.3f}")


def time_recorder(kind: str, rounds: int) -> None:
    """The default job's steps on random tokens, in turn: a plain one, a watched one, a watched one with a look."""
    config = RunConfig()
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    options = vars(config.model) | {"residual": kind, "max_position_embeddings": config.data.sequence_length}
    model = ResformerForCausalLM(ResformerConfig(**options | {"vocab_size": 2048})).to(device)
    tokens = torch.randint(2048, (config.train.batch_size, config.data.sequence_length), device=device)
    batch = {"input_ids": tokens, "shift_labels": tokens}
    probe = {name: tensor[: config.train.record_sequences] for name, tensor in batch.items()}
    optimizers = build_optimizers(model, config.optimizer)

    def step(number: int) -> float:
        start = time.perf_counter()
        with instruments.around(number) if number else nullcontext():
            model.train()
            with torch.autocast(device.type, torch.bfloat16):
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        if number:
            instruments.take(number, float(loss.detach()), norm)
        return time.perf_counter() - start

    with TemporaryDirectory() as folder:
        instruments = Instruments(Path(folder, "layers.parquet"), model, probe, every=2, watch=StabilityWatch(1.0))
        instruments.begin(0)
        timed = [(step(0), step(2 * i + 1), step(2 * i + 2)) for i in tqdm(range(rounds + 2), disable=None)][2:]
    watched = statistics.median(watch / plain - 1 for plain, watch, _ in timed)
    look = statistics.median(look / watch - 1 for _, watch, look in timed)
    share = watched + look / config.train.record_every
    parts = f"watch {100 * watched:.1f} %, a look {look:.2f} steps every {config.train.record_every}"
    print(f"{kind:<12} recorder {100 * share:.1f} % of a step: {parts} (medians of {rounds} rounds)")


if __name__ == "__main__":
    main()
