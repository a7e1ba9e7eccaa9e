"""A page on this machine alone that follows a run or a sweep while it is under way."""

from __future__ import annotations

import functools
import http.server
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..files import is_held
from .page import Page

EVERY = 5.0
"""Seconds between two looks, or four times as long as drawing the page takes, if that is more."""


def watch(folder: Path, page_of: Callable[[], Page], port: int = 0, every: float = EVERY) -> None:
    """Serve the page of ``folder``, drawn anew at every look, until nobody works on it any more.

    Args:
        folder: of a run or a sweep, which is only read.
        page_of: draws its page.
        port: of 127.0.0.1; 0 takes a free one.

    Raises:
        ValueError: one line, if the folder is neither's, or nobody works on it.
        OSError: if the port is taken.
    """
    if not is_held(folder / ".lock"):
        raise ValueError(f"nobody works on {folder}, so there is nothing to watch; leave --watch out for its page")
    with tempfile.TemporaryDirectory() as place:
        _write(page_of(), Path(place), every)
        handler = functools.partial(_Quiet, directory=place)
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)
        except OSError as error:
            raise OSError(f"--port {port}: {error.strerror}; leave it out to take a free one") from error
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(
            f"http://127.0.0.1:{server.server_port}/ follows {folder} and ends with it; Ctrl-C ends it now", flush=True
        )
        try:
            under_way = True
            while under_way:
                under_way, began = is_held(folder / ".lock"), time.monotonic()
                _write(page_of(), Path(place), every if under_way else None)
                time.sleep(max(every, 4 * (time.monotonic() - began)) if under_way else 2 * every)  # for the last look
        except KeyboardInterrupt:
            print()
        finally:
            server.shutdown()


def _write(page: Page, place: Path, again: float | None) -> None:
    page.refresh = None if again is None else max(1, round(again))
    page.write(place / "index.html")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Says nothing of each request, and answers no page of another site that sends its reader here."""

    def do_GET(self) -> None:
        if self.headers.get("Host", "").partition(":")[0] in ("127.0.0.1", "localhost"):
            super().do_GET()
        else:
            self.send_error(403)

    def log_message(self, *_: Any) -> None:
        pass
