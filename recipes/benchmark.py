"""How long whole training steps take, beside other packages' models and beside what the device can do.

    python recipes/benchmark.py [--residual pre,hyper,...|all] [--ways eager,compiled] [--format text|markdown|json]
    python recipes/benchmark.py --growth 'num_hidden_layers=2,4,8 vocab_size=1000,32000' --output growth.svg
    python recipes/benchmark.py --preset gpu --output gpu.json

All models take their steps in turn, and medians of the rounds are what to quote. The last lines say what the device
reached at the most in the same process, how long a start takes, and what the loop of recipes/train.py adds to a step.
"""

import json
import os
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from resformer.files import write_atomically
from resformer.programs import arguments_of, first_line, is_out_of_memory, run_program

FIGURES = (".svg", ".png")


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
    clock: Literal["wall", "cpu"] = "wall",
    format: Literal["text", "markdown", "json"] = "text",
    preset: Literal["gpu"] | None = None,
    output: str | None = None,
) -> None:
    """Time whole training steps.

    Args:
        residual: kinds to time, separated by commas, or all.
        num_hidden_layers: number of blocks.
        hidden_size: width of the stream.
        sequence_length: in tokens.
        batch_size: in sequences.
        vocab_size: number of tokens; the loop's text has 257.
        steps: timed rounds, after two that are not; of growth of processes at least 100, whose mean counts them all.
        others: of llama, gpt2 and x-transformers, separated by commas, or none.
        ways: eager, compiled, or both, separated by commas.
        new_tokens: also generate so many tokens with a cache; 0 does not.
        loop: also time the loop of recipes/train.py.
        growth: time and memory as one of num_hidden_layers, hidden_size, max_position_embeddings, vocab_size or
            processes grows, with the exponent fitted, instead of all else: KEY=SIZE,SIZE,... once or several times.
        clock: wall, or cpu: the time that the process itself had on a CPU, with one thread, for machines that do other
            things too.
        format: text, markdown or json.
        preset: gpu measures instead everything that is asked of one, compiled, at 124 and 350 million parameters and
            1,024 tokens: pre, what kinds cost, a run with weights split; the keys above are not read.
        output: a file for what is printed; of growth, a figure (.svg or .png); of a preset, the file (JSON) that keeps
            what it finds, by default benchmark-PRESET.json.
    """
    import pandas as pd  # help waits for none of these

    from resformer.model.specification import KINDS, split_outside_brackets
    from resformer.report.growth import growth_chart
    from resformer.training.benchmark import loop_ratio
    from resformer.training.comparison import OTHERS, WAYS, clock_and_device, compare, rendered, widths
    from resformer.training.growth import axes_of, exponents, grow, refuse_ungrowable
    from resformer.training.preset import PRESETS, run_preset

    if preset is not None:
        output = output or f"benchmark-{preset}.json"
    if output is not None:
        _refuse_unwritable(Path(output), FIGURES if growth is not None and preset is None else None)
    if preset is not None:
        run_preset(PRESETS[preset], Path(str(output)))
        return
    shape = {
        "vocab_size": vocab_size,
        "num_hidden_layers": num_hidden_layers,
        "max_position_embeddings": sequence_length,
        "tie_word_embeddings": True,
        **widths(hidden_size),
    }
    kinds = sorted(set(KINDS) - {"two_norms"}) if residual == "all" else split_outside_brackets(residual)
    if growth is not None:
        axes = axes_of(growth).items()
        for axis, sizes in axes:
            refuse_ungrowable(kinds, shape, batch_size, steps, axis, sizes)
        table = pd.concat([grow(kinds, shape, batch_size, steps, axis, sizes, clock) for axis, sizes in axes])
        if format == "json":
            print(table.to_json(orient="records", indent=2), flush=True)
        else:
            print(table.to_string(index=False), exponents(table).round(2).to_string(), sep="\n\n", flush=True)
        if output is not None:
            growth_chart(table).save(output)
        return
    theirs = [] if others == "none" else _listed("others", others, OTHERS)
    asked = _listed("ways", ways, WAYS)
    found = compare(kinds, shape, batch_size, steps, theirs, asked, new_tokens, clock)
    if loop:
        found.about["loop"] = loop_ratio(shape, batch_size, steps, clock_and_device(clock)[1])
    text = json.dumps(found.as_dict(), indent=2) if format == "json" else rendered(found, format)
    print(text, flush=True)
    if output is not None:
        write_atomically(Path(output), text + "\n")


def _refuse_unwritable(file: Path, endings: tuple[str, ...] | None) -> None:
    """Raises ValueError or OSError, one line, before anything is measured that could not be kept."""
    if endings and file.suffix not in endings:
        raise ValueError(f"output is {file}; a figure ends in {' or '.join(endings)}")
    if file.is_dir():
        raise ValueError(f"output is {file}, which is a folder; name a file in it")
    if file.exists() and not os.access(file, os.W_OK):
        raise ValueError(f"output is {file}, which is not to be written to; name another file")
    try:
        TemporaryFile(dir=file.parent).close()
    except OSError as error:
        raise OSError(error.errno, f"output: {error.strerror}", str(file)) from error


def _listed(name: str, given: str, known: tuple[str, ...]) -> list[str]:
    listed = given.split(",")
    for word in listed:
        if word not in known:
            raise ValueError(f"{name}: {word!r} is none of {', '.join(known)}")
    return listed


def main(arguments: list[str] | None = None) -> int:
    asked = arguments_of(benchmark, arguments)
    try:
        benchmark(**asked)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        smaller = "a device with more, for sizes are the preset's" if asked["preset"] else "a smaller --batch_size"
        raise ValueError(f"out of memory ({first_line(error)}); try {smaller}") from error
    return 0


if __name__ == "__main__":
    run_program(main)
