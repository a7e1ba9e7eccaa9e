"""Print the table of all residual connections: formula, cost, paper, and what each is held against.

python recipes/variants.py [--format text|markdown|json]
"""

from typing import Literal

import resformer
from resformer.programs import arguments_of, run_program


def table(format: Literal["text", "markdown", "json"] = "text") -> str:
    """The table of all residual connections.

    Args:
        format: text, markdown or json.
    """
    from resformer.catalogue import markdown, text  # help does not wait for it

    found = resformer.variants()
    if format == "json":
        return str(found.to_json(orient="records", indent=2, double_precision=15))
    return markdown(found) if format == "markdown" else text(found)


def main(arguments: list[str] | None = None) -> int:
    print(table(**arguments_of(table, arguments)))
    return 0


if __name__ == "__main__":
    run_program(main)
