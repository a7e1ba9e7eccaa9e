"""Pages that are hard to lay out: many layers, many arms, failures; and one that follows what is under way."""

import http.client
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from report_helpers import must_be_readable, opened
from test_run_pages import PROGRAM, write_run

from resformer.files import locked
from resformer.report import runs
from resformer.report.screenshot import HEIGHT, WIDTH, screenshot
from resformer.report.study import compared
from resformer.report.watch import watch

DEEP = [(-1, "embedding"), *((layer, sublayer) for layer in range(48) for sublayer in ("attention", "mlp"))]


@pytest.fixture(scope="module")
def hard(tmp_path_factory) -> Path:
    """A run of 48 layers, and thirty arms, one of which failed."""
    folder = tmp_path_factory.mktemp("hard")
    runs.write_page([write_run(folder / "deep", sites=DEEP)])
    arms = [write_run(folder / f"arm-{i}", residual=f"kind_{i}") for i in range(29)]
    arms.append(write_run(folder / "arm-29", residual="kind_29", broken=True, end_state="diverged"))
    runs.write_page(arms, folder / "all")
    return folder


ONE, ALL = "deep/report.html", "all/index.html"


@pytest.mark.parametrize(
    ("page", "width", "scheme"),
    [
        (ONE, 360, "light"),
        (ONE, 1280, "dark"),
        (ALL, 1280, "dark"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in ((ONE, 2560, "dark"), (ALL, 360, "light"), (ALL, 2560, "dark"))
        ),
    ],
)
def test_many_layers_and_many_arms_can_be_read(browser, hard, page, width, scheme):
    must_be_readable(browser, hard / page, width, scheme)


def test_the_stream_plays_over_the_steps(browser, hard):
    view, problems = opened(browser, hard / ONE)
    shown = "[...views].find(([chart]) => chart.dataset.spec === 'playing')[1].signal('look')"
    assert view.inner_text("#playing output") == "150" and view.evaluate(shown) == 150
    view.locator("#playing input").fill("0")
    assert view.inner_text("#playing output") == "0" and view.evaluate(shown) == 0
    view.click("#playing button")
    view.wait_for_function(f"{shown} > 0")
    view.click("#playing button")
    assert problems == []


def test_a_page_has_its_picture(browser, hard, tmp_path):
    program = "import sys; from pathlib import Path; from resformer.report.screenshot import screenshot as s"
    picture = tmp_path / "pictures" / "page.png"
    # Playwright runs once in a process.
    subprocess.run([sys.executable, "-c", f"{program}; s(*map(Path, sys.argv[1:]))", hard / ONE, picture], check=True)
    with Image.open(picture) as seen:
        assert seen.size == (WIDTH, HEIGHT)
        assert len(seen.convert("RGB").getcolors(1 << 24)) > 100  # something is drawn


@pytest.mark.parametrize(("page", "picture"), [("page.html", "page.gif"), ("none.html", "page.png")])
def test_a_picture_that_cannot_be_made_is_one_line(tmp_path, page, picture):
    (tmp_path / "page.html").write_text("<main></main>")
    with pytest.raises(ValueError, match="--screenshot"):
        screenshot(tmp_path / page, tmp_path / picture)


def test_what_is_under_way_is_followed_on_this_machine_alone(tmp_path):
    folder = write_run(tmp_path / "run")
    (folder / "summary.json").unlink()
    holder = subprocess.Popen(
        [sys.executable, "-c", "import sys, pathlib; from resformer.files import locked\n"
         "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()", str(folder / ".lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    port = _free_port()
    thread = threading.Thread(
        daemon=True, target=watch, args=(folder, lambda: runs.page_of(compared([folder])), port, 0.2)
    )
    thread.start()
    page = _read(port)
    assert "has not ended" in page and 'http-equiv="refresh"' in page
    stranger = http.client.HTTPConnection("127.0.0.1", port)
    stranger.request("GET", "/", headers={"Host": "elsewhere.example"})
    assert stranger.getresponse().status == 403
    holder.communicate("")
    thread.join(timeout=60)
    assert not thread.is_alive()
    with pytest.raises(OSError):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)


def test_what_nobody_works_on_is_not_watched(tmp_path):
    folder = write_run(tmp_path / "run")
    with locked(folder / ".lock"):
        pass
    found = subprocess.run([sys.executable, PROGRAM, str(folder), "--watch"], capture_output=True, text=True)
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1 and "nobody works on" in found.stderr


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _read(port: int) -> str:
    for _ in range(600):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5) as answer:
                text = answer.read().decode()
            if 'http-equiv="refresh"' in text:
                return text
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("no page is served")
