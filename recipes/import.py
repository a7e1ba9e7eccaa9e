"""Turn a pretrained model into a resformer one with equal logits, wire it otherwise, or turn one back.

python recipes/import.py MODEL OUT [--residual hyper] [--to hf]
"""

from typing import Any

from jsonargparse import ArgumentParser

from resformer.programs import read_arguments, run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="import.py", description="A pretrained model as a resformer one.", exit_on_error=False)
    add = parser.add_argument
    add("model", type=str, metavar="MODEL", help="folder or hub name of a pretrained or resformer model, or a run")
    add("out", type=str, metavar="OUT", help="folder that is made")
    add("--residual", type=Any, default=None, help="another wiring, for example hyper or 'post*1,pre*rest'")
    add("--to", type=str | None, default=None, help="write it as this model_type of transformers; hf: any that can")
    add("--dtype", type=str, default="auto", help="of the weights: auto (the checkpoint's), float32, bfloat16, float16")
    add("--seed", type=int, default=0, help="of weights that another wiring brings along")
    options = read_arguments(parser, arguments)
    from resformer.importing import import_model  # help does not wait for it

    for line in import_model(**options):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    run_program(main)
