"""Write the page of a sweep, finished or not: verdicts, figures, tables.

python recipes/report.py SWEEP_DIR [SWEEP_DIR ...]
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.report.sweep_page import write_page
from resformer.training.config import one_line
from resformer.training.launch import run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="report.py", description="Write the page of a sweep.", exit_on_error=False)
    parser.add_argument("folders", nargs="+", type=str, metavar="SWEEP_DIR", help="folder of a sweep")
    try:
        folders = parser.parse_args(arguments).folders
    except Exception as error:
        raise ValueError(one_line(error, parser)) from error
    for folder in folders:
        print(write_page(Path(folder)))
    return 0


if __name__ == "__main__":
    run_program(main)
