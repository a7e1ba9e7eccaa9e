"""Write the page of a sweep (verdicts, figures, tables) or of a run, finished or not, and its figures for print.

python recipes/report.py SWEEP_DIR|RUN_DIR [...]
python recipes/report.py RUN_DIR RUN_DIR [...] --pooled DIR    # seeds of one run as one page: medians, range as a band
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.programs import one_line, run_program
from resformer.report.run_page import write_pooled_page, write_run_page
from resformer.report.sweep_page import write_page


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="report.py", description="Write the page of a sweep or of a run.", exit_on_error=False)
    parser.add_argument("folders", nargs="+", type=str, metavar="DIR", help="folder of a sweep or of a run")
    parser.add_argument("--pooled", type=str | None, default=None, metavar="DIR",
                        help="write one page there of all runs, which differ in their seeds alone")  # fmt: skip
    try:
        options = parser.parse_args(arguments)
    except Exception as error:
        raise ValueError(one_line(error, parser)) from error
    if options.pooled is not None:
        print(write_pooled_page([Path(folder) for folder in options.folders], Path(options.pooled)))
        return 0
    for folder in options.folders:
        is_run = (Path(folder) / "layers.parquet").exists()
        print(write_run_page(Path(folder), static=True) if is_run else write_page(Path(folder)))
    return 0


if __name__ == "__main__":
    run_program(main)
