"""Run by ``drawing`` as a process of its own: the picture library's engine aborts where memory is limited.

Reads a job from standard input: ``library``, a file that takes the script of the pages or none, and ``charts``, each
``spec``, ``file`` (without an ending) and ``formats``.
"""

import json
import sys
from pathlib import Path

import vl_convert

DRAW = {
    "svg": lambda spec: vl_convert.vegalite_to_svg(spec).encode(),
    "png": lambda spec: vl_convert.vegalite_to_png(spec, scale=2.0),  # type: ignore[call-arg]
    "pdf": lambda spec: vl_convert.vegalite_to_pdf(spec),  # type: ignore[call-arg]
}


def main() -> None:
    job = json.load(sys.stdin)
    if job["library"]:
        Path(job["library"]).write_text(vl_convert.javascript_bundle(), encoding="utf-8")  # type: ignore[call-arg]
    for chart in job["charts"]:
        file = Path(chart["file"])
        file.parent.mkdir(parents=True, exist_ok=True)
        for ending in chart["formats"]:
            file.with_name(f"{file.name}.{ending}").write_bytes(DRAW[ending](chart["spec"]))


if __name__ == "__main__":
    main()
