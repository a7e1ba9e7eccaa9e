"""What the recorder costs: a step of the default job plain, watched, and watched with a look at the stream, in turn.

python recipes/benchmark_recorder.py [--residual pre] [--rounds 15]
"""

import statistics
import time
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm import tqdm

from resformer import ResformerConfig, ResformerForCausalLM
from resformer.programs import arguments_of, run_program
from resformer.stability.endstate import StabilityWatch
from resformer.stability.instruments import Instruments
from resformer.training.config import RunConfig
from resformer.training.launch import default_precision
from resformer.training.optimizers import Float32, build_optimizers

VOCABULARY = 2048


def benchmark(residual: str = "pre", rounds: int = 15) -> None:
    """Time the default job's step on random tokens.

    Args:
        residual: as in ``model.residual``.
        rounds: timed rounds, after two that are not.
    """
    config = RunConfig()
    device, precision = torch.accelerator.current_accelerator() or torch.device("cpu"), default_precision()
    length, every = config.data.sequence_length, config.train.record_every
    options = vars(config.model) | {"residual": residual, "max_position_embeddings": length, "vocab_size": VOCABULARY}
    model = ResformerForCausalLM(ResformerConfig(**options)).to(device)
    tokens = torch.randint(VOCABULARY, (config.train.batch_size, length), device=device)
    batch = {"input_ids": tokens, "shift_labels": tokens}
    probe = {name: tensor[: config.train.record_sequences] for name, tensor in batch.items()}
    optimizers = build_optimizers(model, config.optimizer)

    def step(number: int) -> float:
        start = time.perf_counter()
        with instruments.around(number, 1e-3) if number else nullcontext():
            model.train()
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                loss = model(**batch, use_cache=False).loss
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
            with nullcontext() if precision == "bf16" else Float32():
                for optimizer in optimizers:
                    optimizer.step()
                    optimizer.zero_grad()
        value = float(loss.detach())
        if number:
            instruments.take(number, value, norm)
        return time.perf_counter() - start

    with TemporaryDirectory() as folder:
        watch = StabilityWatch(1.0)
        instruments = Instruments(Path(folder, "layers.parquet"), model, probe, optimizers, every=4, watch=watch)
        instruments.begin(0)
        timed = [
            (step(0), step(4 * i + 1), step(4 * i + 3), step(4 * i + 4)) for i in tqdm(range(rounds + 2), disable=None)
        ][2:]
    watched = statistics.median(watch / plain - 1 for plain, watch, *_ in timed)
    look = statistics.median((before + look) / watch - 2 for _, watch, before, look in timed)  # two steps take part
    parts = f"watch {100 * watched:.1f} %, a look {look:.2f} steps every {every} steps"
    print(
        f"{residual}: recorder {100 * (watched + look / every):.1f} % of a step: {parts} (medians of {rounds} rounds)"
    )


def main(arguments: list[str] | None = None) -> int:
    benchmark(**arguments_of(benchmark, arguments))
    return 0


if __name__ == "__main__":
    run_program(main)
