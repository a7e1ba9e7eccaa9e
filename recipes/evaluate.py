"""Bits per byte of any causal language models on one text, in the same windows for all.

python recipes/evaluate.py RUN_OR_CHECKPOINT [...] [--source text.txt] [--window 500]
"""

from jsonargparse import ArgumentParser

import resformer
from resformer.programs import read_arguments, run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="evaluate.py", description="Bits per byte on one text.", exit_on_error=False)
    add = parser.add_argument
    add("targets", nargs="+", type=str, metavar="RUN_OR_CHECKPOINT", help="runs, or any Hugging Face causal models")
    add("--source", type=str | None, default=None, help="text: a file or folder; by default the first run's held-out")
    add("--window", type=int | None, default=None, help="characters read at a time; by default 1,000, or what all hold")
    add("--most", type=int, default=1_000_000, help="characters of the text that are read at the most")
    options = read_arguments(parser, arguments)
    table = resformer.evaluate(
        *options["targets"], source=options["source"], window=options["window"], most=options["most"]
    )
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.4f}"))
    return 0


if __name__ == "__main__":
    run_program(main)
