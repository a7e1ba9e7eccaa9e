"""As much of the Hugging Face hub's HTTP interface as pushing a model and loading it again takes, on this machine."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


class Hub(BaseHTTPRequestHandler):
    """Repositories of one revision each, whose files are kept in memory."""

    repositories: dict[str, dict[str, bytes]]
    refuses: bool

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.refuses:
            self.send_error(403)
        elif self.path == "/api/repos/create":
            told = json.loads(body)
            name = f"{told['organization']}/{told['name']}" if told.get("organization") else told["name"]
            self.repositories.setdefault(name, {})
            self.answer({"url": f"{self.here}/{name}", "name": name})
        elif self.path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/main", self.path):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer({"files": files})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", self.path):
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.repositories[found[1]][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{self.here}/{found[1]}/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self.send_error(404)

    def do_GET(self):
        path = self.path.split("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/[^/]+)?", path):
            files = self.repositories.get(found[1], {})
            about = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files]}
            self.answer(about if found[1] in self.repositories else None)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/[^/]+(?:/(.*))?", path):
            files = self.repositories.get(found[1], {})
            rows = [
                {"type": "file", "oid": _etag(data), "size": len(data), "path": name} for name, data in files.items()
            ]
            self.answer([row for row in rows if row["path"].startswith(found[2] or "")])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path):
            self.file(self.repositories.get(found[1], {}).get(found[2]))
        else:
            self.send_error(404)

    do_HEAD = do_GET

    @property
    def here(self) -> str:
        return f"http://{self.headers['Host']}"

    def answer(self, value) -> None:
        if value is None:
            self.send_error(404)
        else:
            self.respond(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def file(self, data: bytes | None) -> None:
        if data is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
        else:
            self.respond(data, {"ETag": f'"{_etag(data)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"})

    def respond(self, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *words):
        pass


COMMIT = "c" * 40


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@contextmanager
def hub(refuses: bool = False) -> Iterator[tuple[str, dict[str, dict[str, bytes]]]]:
    """Its address, and the files of its repositories; one that refuses lets nobody write."""
    own = type("Own", (Hub,), {"repositories": {}, "refuses": refuses})
    server = ThreadingHTTPServer(("127.0.0.1", 0), own)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", own.repositories
    finally:
        server.shutdown()
        server.server_close()
