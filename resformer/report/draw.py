"""Run by ``drawing`` as a process of its own: the picture library's engine aborts where memory is limited.

Reads a job from standard input: ``library``, a file that takes the script of the pages or none, and ``charts``, each
``spec``, ``file`` (without an ending), ``formats``, and ``looks``: steps at which it is drawn for a moving picture.
"""

import io
import json
import sys
from pathlib import Path
from typing import Any

import vl_convert
from PIL import Image

MILLISECONDS = 150
"""That each frame of a moving picture stands; the last stands ten times as long."""

# A chart is laid out once, which takes the time; the others are made of its SVG.
DRAW = {
    "svg": lambda svg: svg.encode(),
    "png": lambda svg: vl_convert.svg_to_png(svg, scale=2.0),
    "pdf": lambda svg: vl_convert.svg_to_pdf(svg),
}


def frame(spec: dict[str, Any], look: int) -> Image.Image:
    parameters = [p | {"value": look} if p["name"] == "look" else p for p in spec["params"]]
    titled = spec["title"] | {"subtitle": f"step {look:,}"}
    picture = vl_convert.vegalite_to_png(spec | {"params": parameters, "title": titled})  # type: ignore[call-arg]
    return Image.open(io.BytesIO(picture)).convert("P", palette=Image.Palette.ADAPTIVE)


def main() -> None:
    job = json.load(sys.stdin)
    if job["library"]:
        Path(job["library"]).write_text(vl_convert.javascript_bundle(), encoding="utf-8")  # type: ignore[call-arg]
    for chart in job["charts"]:
        file = Path(chart["file"])
        file.parent.mkdir(parents=True, exist_ok=True)
        if chart["formats"]:
            svg = vl_convert.vegalite_to_svg(chart["spec"])  # type: ignore[call-arg]
        for ending in chart["formats"]:
            file.with_name(f"{file.name}.{ending}").write_bytes(DRAW[ending](svg))
        if len(chart["looks"]) > 1:
            first, *others = [frame(chart["spec"], look) for look in chart["looks"]]
            durations = [MILLISECONDS] * len(others) + [10 * MILLISECONDS]
            moving = file.with_name(f"{file.name}.gif")
            first.save(moving, save_all=True, append_images=others, duration=durations, loop=0)


if __name__ == "__main__":
    main()
