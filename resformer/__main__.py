"""``python -m resformer PROGRAM`` does from an installed package what ``recipes/PROGRAM.py`` does from a clone."""

import ast
import runpy
import sys

from .keys import did_you_mean
from .programs import RECIPES, run_program


def programs() -> dict[str, str]:
    """Each program, and what it does, in the first sentence of its file."""
    files = sorted(file for file in RECIPES.glob("*.py") if not file.name.startswith("_"))
    words = {file.stem: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: " ".join(text.split("\n\n")[0].split()) for name, text in words.items()}


def main(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print("python -m resformer PROGRAM [--help] ...\n")
        print("\n".join(f"{name:<20}{sentence}" for name, sentence in programs().items()))
        print(f"\nThe programs, to copy and to change, and their configurations: {RECIPES}")
        return 0
    name, *rest = arguments
    if name not in programs():
        raise ValueError(f"there is no program {name!r}{did_you_mean(name, programs())}; without one they are listed")
    sys.argv = [str(RECIPES / f"{name}.py"), *rest]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


if __name__ == "__main__":
    run_program(lambda: main(sys.argv[1:]))
