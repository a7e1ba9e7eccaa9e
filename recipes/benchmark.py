"""How long whole training steps take, beside other packages' models and beside what the device can do.

    python recipes/benchmark.py [--residual pre,hyper,...|all] [--ways eager,compiled] [--format text|markdown|json]
    python recipes/benchmark.py --growth num_hidden_layers=2,4,8,16 --residual pre,hyper,attn_res

All models take their steps in turn, and medians of the rounds are what to quote. The last lines say what the device
reached at the most in the same process, how long a start takes, and what the loop of recipes/train.py adds to a step.
"""

import json
from typing import Literal

from resformer.programs import arguments_of, run_program


def benchmark(
    residual: str = "pre",
    num_hidden_layers: int = 6,
    hidden_size: int = 384,
    sequence_length: int = 256,
    batch_size: int = 8,
    vocab_size: int = 257,
    steps: int = 15,
    others: str = "llama,gpt2",
    ways: str = "eager",
    new_tokens: int = 0,
    loop: bool = True,
    growth: str | None = None,
    format: Literal["text", "markdown", "json"] = "text",
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
        others: of llama, gpt2 and x-transformers, separated by commas, or none.
        ways: eager, compiled, or both, separated by commas.
        new_tokens: also generate so many tokens with a cache; 0 does not.
        loop: also time the loop of recipes/train.py.
        growth: time and memory as one of num_hidden_layers, hidden_size, max_position_embeddings or vocab_size grows,
            with the exponent fitted, instead of all else: KEY=SIZE,SIZE,...
        format: text, markdown or json.
    """
    from resformer.model.specification import KINDS  # help waits for none of these
    from resformer.training.benchmark import step_times
    from resformer.training.comparison import OTHERS, WAYS, compare, grow, rendered

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
    if growth is not None:
        axis, _, sizes = growth.partition("=")
        if not sizes or not all(size.isdecimal() for size in sizes.split(",")):
            raise ValueError(f"growth is {growth!r}; write for example num_hidden_layers=2,4,8")
        table = grow(kinds, shape, batch_size, steps, axis, [int(size) for size in sizes.split(",")])
        print(table.to_json(orient="records", indent=2) if format == "json" else table.to_string(index=False))
        return
    found = compare(
        kinds, shape, batch_size, steps, _listed("others", others, OTHERS), _listed("ways", ways, WAYS), new_tokens
    )
    if loop:
        times = step_times(["pre"], shape, batch_size, steps).set_index("model").to_pre
        found.about["loop"] = float(times["loop"])
    print(json.dumps(found.as_dict(), indent=2) if format == "json" else rendered(found, format))


def _listed(name: str, given: str, known: tuple[str, ...]) -> list[str]:
    listed = [] if given == "none" else given.split(",")
    for word in listed:
        if word not in known:
            raise ValueError(f"{name}: {word!r} is none of {', '.join(known)}")
    return listed


def main(arguments: list[str] | None = None) -> int:
    benchmark(**arguments_of(benchmark, arguments))
    return 0


if __name__ == "__main__":
    run_program(main)
