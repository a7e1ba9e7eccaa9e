"""The first screen of a page as a picture, for a README or a slide."""

from __future__ import annotations

import shutil
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 1280, 1500
PATIENCE = 120_000
"""Milliseconds that figures in sight may take."""
_DRAWN = """() => [...document.querySelectorAll(".chart")].every(
    (chart) => chart.getBoundingClientRect().top > innerHeight || views.get(chart))"""


def screenshot(page: Path, file: Path) -> None:
    """Save what a browser shows of ``page`` before anyone scrolls, as a PNG of 1,280 by 1,500 pixels.

    Raises:
        ValueError: one line, if there is no Playwright or no Chromium.
    """
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
            view.goto(page.resolve().as_uri())
            view.wait_for_function(_DRAWN, timeout=PATIENCE)
            file.parent.mkdir(parents=True, exist_ok=True)
            view.screenshot(path=file)
            browser.close()
    except Error as error:
        raise ValueError(f"--screenshot: no picture of {page} ({str(error).splitlines()[0]})") from error
