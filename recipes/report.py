"""Write the page of a sweep (verdicts, figures, tables) or of a run, finished or not, and its figures for print.

python recipes/report.py SWEEP_DIR|RUN_DIR [...]
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.report.run_page import write_run_page
from resformer.report.sweep_page import write_page
from resformer.training.config import one_line
from resformer.training.launch import run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="report.py", description="Write the page of a sweep or of a run.", exit_on_error=False)
    parser.add_argument("folders", nargs="+", type=str, metavar="DIR", help="folder of a sweep or of a run")
    try:
        folders = parser.parse_args(arguments).folders
    except Exception as error:
        raise ValueError(one_line(error, parser)) from error
    for folder in folders:
        is_run = (Path(folder) / "layers.parquet").exists()
        print(write_run_page(Path(folder), static=True) if is_run else write_page(Path(folder)))
    return 0


if __name__ == "__main__":
    run_program(main)
