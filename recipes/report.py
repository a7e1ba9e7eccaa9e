"""Write the page of a sweep or of a run, finished or not, with its figures and tables for print; or compare runs.

python recipes/report.py SWEEP_DIR|RUN_DIR
python recipes/report.py RUN_DIR RUN_DIR [...] [--out DIR]    # side by side; seeds of one run are one arm with a band
python recipes/report.py SWEEP_DIR --trials                   # and a page for each of its trials
python recipes/report.py SWEEP_DIR|RUN_DIR --watch            # a page on this machine alone that follows it
python recipes/report.py PAGE.html --screenshot PNG|WEBP      # what a browser first shows of a page that is there
"""

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.programs import read_arguments, run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="report.py", description="Write the page of a sweep or of runs.", exit_on_error=False)
    add = parser.add_argument
    add(
        "folders", nargs="+", type=str, metavar="DIR", help="folder of a sweep, of a run, or of several runs to compare"
    )
    add("--out", type=str | None, default=None, metavar="DIR", help="where the page of several runs goes")
    add("--trials", action="store_true", help="also write a page for each trial of the sweep")
    add("--watch", action="store_true", help="serve the page on 127.0.0.1, drawn anew while the run or sweep goes on")
    add("--port", type=int, default=0, help="of --watch; by default a free one")
    add(
        "--screenshot",
        type=str | None,
        default=None,
        metavar="PNG",
        help="also what a browser first shows of the page, "
        "as PNG or WebP; with a page's file in the place of DIR, of that one",
    )
    options = read_arguments(parser, arguments)
    from resformer.report.screenshot import screenshot  # help waits for none of these

    folders = [Path(folder) for folder in options["folders"]]
    picture = None if options["screenshot"] is None else Path(options["screenshot"])
    if picture is not None and len(folders) == 1 and folders[0].suffix == ".html":
        screenshot(folders[0], picture)
        return 0
    from resformer.report import runs, sweep, sweeps
    from resformer.report.study import compared
    from resformer.report.watch import watch

    of_sweeps = [folder for folder in folders if (folder / "sweep.yaml").exists()]
    if of_sweeps and len(folders) > 1:
        raise ValueError(f"{of_sweeps[0]} is a sweep; give one sweep, or runs to compare (its trials/* are runs)")
    if options["watch"]:
        if len(folders) > 1:
            raise ValueError("--watch follows one run or one sweep; give one folder")
        if of_sweeps:
            watch(folders[0], lambda: sweeps.page_of(sweep.read_sweep(folders[0])), options["port"])
        else:
            watch(folders[0], lambda: runs.page_of(compared(folders)), options["port"])
        return 0
    if of_sweeps and options["trials"]:
        for trial in sorted((folders[0] / "trials").glob("*/config.yaml")):
            say(*runs.write_page([trial.parent]))
    out = None if options["out"] is None else Path(options["out"])
    page, trouble = sweeps.write_page(folders[0]) if of_sweeps else runs.write_page(folders, out, static=True)
    say(page, trouble)
    if picture is not None:
        screenshot(page, picture)
    return 0


def say(page: Path, trouble: str | None) -> None:
    print(page)
    if trouble is not None:
        print(f"warning: {page}: {trouble}", file=sys.stderr)


if __name__ == "__main__":
    run_program(main)
