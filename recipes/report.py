"""Write the page of a sweep or of a run, finished or not, with its figures and tables for print; or compare runs.

python recipes/report.py SWEEP_DIR|RUN_DIR
python recipes/report.py RUN_DIR RUN_DIR [...] [--out DIR]    # side by side; seeds of one run are one arm with a band
python recipes/report.py SWEEP_DIR --trials                   # and a page for each of its trials
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.programs import read_arguments, run_program
from resformer.report import runs, sweeps


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="report.py", description="Write the page of a sweep or of runs.", exit_on_error=False)
    add = parser.add_argument
    add(
        "folders", nargs="+", type=str, metavar="DIR", help="folder of a sweep, of a run, or of several runs to compare"
    )
    add("--out", type=str | None, default=None, metavar="DIR", help="where the page of several runs goes")
    add("--trials", action="store_true", help="also write a page for each trial of the sweep")
    options = read_arguments(parser, arguments)
    folders = [Path(folder) for folder in options["folders"]]
    of_sweeps = [folder for folder in folders if (folder / "sweep.yaml").exists()]
    if of_sweeps and len(folders) > 1:
        raise ValueError(f"{of_sweeps[0]} is a sweep; give one sweep, or runs to compare (its trials/* are runs)")
    if of_sweeps and options["trials"]:
        for trial in sorted((folders[0] / "trials").glob("*/config.yaml")):
            say(*runs.write_page([trial.parent]))
    out = None if options["out"] is None else Path(options["out"])
    say(*(sweeps.write_page(folders[0]) if of_sweeps else runs.write_page(folders, out, static=True)))
    return 0


def say(page: Path, trouble: str | None) -> None:
    print(page)
    if trouble is not None:
        print(f"warning: {page}: {trouble}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
