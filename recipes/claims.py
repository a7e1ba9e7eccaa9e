"""Check what textbooks and papers say of residual connections, each claim by one command.

python recipes/claims.py                      # the list, with minutes
python recipes/claims.py NAME [NAME ...]      # run some
python recipes/claims.py --all                # run all; the same command goes on after a kill

Ends in one page, runs/claims/index.html. What was run before is not run again.
"""

from pathlib import Path

from jsonargparse import ArgumentParser

from resformer.programs import read_arguments, run_program


def main(arguments: list[str] | None = None) -> int:
    parser = ArgumentParser(prog="claims.py", description="Check what is said of residuals.", exit_on_error=False)
    add = parser.add_argument
    add("names", nargs="*", type=str, metavar="NAME", help="claims to run; without one they are listed")
    add("--all", action="store_true", help="run all of them")
    add("--list", action="store_true", help="list them, and the minutes that each takes")
    add("--size", type=str, default="laptop", help="laptop, or gpu: the papers' questions at sizes for one GPU")
    add("--minutes", type=float | None, default=None, help="run nothing that would take longer than that")
    add("--out", type=str | None, default=None, help="folder of results and page; by default runs/claims")
    options = read_arguments(parser, arguments)
    from resformer.claims.program import chosen, listed, of_size, run_claims  # help does not wait for it

    size, minutes = options["size"], options["minutes"]
    claims = chosen(of_size(size) if options["all"] else options["names"], size)
    if options["list"] or not claims:
        print(listed(size))
        return 0
    out = options["out"] or ("runs/claims" if size == "laptop" else f"runs/claims-{size}")
    return run_claims(claims, Path(out), size, minutes)


if __name__ == "__main__":
    run_program(main)
