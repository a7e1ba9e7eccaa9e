"""The first screen of a page as a small picture, for a README or a slide."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 1100
PATIENCE = 120_000
"""Milliseconds that figures in sight may take."""
_DRAWN = """() => [...document.querySelectorAll(".chart")].every(
    (chart) => chart.getBoundingClientRect().top > innerHeight || views.get(chart))"""


def screenshot(page: Path, file: Path) -> None:
    """Save what a browser shows of ``page`` before anyone scrolls: 1,280 by 1,100 pixels, or less where it is shorter.

    Args:
        file: PNG, of 256 colours, or WebP, by its ending.

    Raises:
        ValueError: one line, if there is no such page, no Playwright or no Chromium, or for another ending.
    """
    if file.suffix.lower() not in (".png", ".webp"):
        raise ValueError(f"--screenshot {file}: pictures are PNG or WebP; end its name in .png or .webp")
    if not page.is_file():
        raise ValueError(f"--screenshot: there is no page {page}")
    try:
        from playwright.sync_api import Error, sync_playwright
    except ImportError as error:
        raise ValueError("--screenshot needs a browser: pip install playwright, and Chromium") from error
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
            context = browser.new_context(offline=True, viewport={"width": WIDTH, "height": HEIGHT})
            view = context.new_page()
            view.goto(page.resolve().as_uri(), timeout=PATIENCE)
            view.wait_for_function(_DRAWN, timeout=PATIENCE)
            tall = min(
                HEIGHT, view.evaluate("Math.ceil(document.querySelector('main').getBoundingClientRect().bottom)")
            )
            seen = view.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": tall})
            browser.close()
    except Error as error:
        raise ValueError(f"--screenshot: no picture of {page} ({str(error).splitlines()[0]})") from error
    picture = Image.open(io.BytesIO(seen)).convert("RGB")
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix.lower() == ".webp":
        picture.save(file, quality=85, method=6)
    else:
        picture.quantize(256, dither=Image.Dither.NONE).save(file, optimize=True)
