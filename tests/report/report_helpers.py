"""A page as a person meets it: in a browser without a network, at any width, by a screen reader too."""

from pathlib import Path

from axe_playwright_python.sync_playwright import Axe

DRAWN = """[...waiting].every((chart) => !chart.checkVisibility()) && [...views.values()].every((view) => view)"""
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]


def opened(browser, file: Path, **options):
    """The page of ``file``, drawn, and the list that everything goes wrong on is written to."""
    view, problems = browser.new_context(offline=True, **options).new_page(), []
    # Vega warns of the empty extents of a panel that a filter has emptied.
    view.on("console", lambda said: None if said.text.startswith("WARN") else problems.append(said.text))
    view.on("pageerror", lambda error: problems.append(str(error)))
    ours = (file.name, "vega.js", "data:")
    view.on("request", lambda asked: None if any(o in asked.url for o in ours) else problems.append(asked.url))
    view.goto(f"file://{file.resolve()}")
    view.wait_for_function(DRAWN)
    return view, problems


def must_be_readable(browser, file: Path, width: int, scheme: str) -> None:
    """No sideways scrolling, no error, no violation that axe knows of, up to level AA."""
    view, problems = opened(browser, file, color_scheme=scheme, viewport={"width": width, "height": 900})
    assert view.evaluate("document.documentElement.scrollWidth <= innerWidth")
    found = Axe().run(view, options={"runOnly": {"type": "tag", "values": LEVELS}})
    assert found.violations_count == 0, found.generate_report()
    assert problems == []
    view.context.close()
