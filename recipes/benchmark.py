"""How long a whole training step takes, as a ratio to transformers' Llama of equal parameters.

    python recipes/benchmark.py [--residual pre,post,...] [--steps 15]

The median over the rounds is what to quote. The last line is the loop of recipes/train.py with the model `pre`: the
same step, and everything around it.
"""

from resformer.model.specification import KINDS
from resformer.programs import arguments_of, run_program
from resformer.training.benchmark import step_times


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
        vocab_size: number of tokens; the loop's text has 257.
        steps: timed rounds, after two that are not.
    """
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": round(hidden_size * 8 / 3),
        "num_hidden_layers": num_hidden_layers,
        "num_attention_heads": max(1, hidden_size // 64),
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": True,
    }
    kinds = sorted(set(KINDS) - {"two_norms"}) if residual == "all" else residual.split(",")
    table = step_times(kinds, shape, batch_size, steps)
    print(f"{'model':<14}{'parameters':>12}{'ms a step':>12}{'/ llama':>10}{'/ pre':>10}   (medians of {steps} rounds)")
    for row in table.itertuples():
        print(f"{row.model:<14}{row.parameters:>12,}{row.milliseconds:>12.1f}{row.to_llama:>10.3f}{row.to_pre:>10.3f}")


def main(arguments: list[str] | None = None) -> int:
    benchmark(**arguments_of(benchmark, arguments))
    return 0


if __name__ == "__main__":
    run_program(main)
