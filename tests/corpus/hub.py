"""A hub of this machine with one dataset, as far as `huggingface_hub` asks it: for tests of `hf://` paths."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

_ASKED = re.compile(r"/(?:api/)?datasets/someone/speech(?:/(revision|tree|resolve)/[^/]+/?(.*))?")
_REVISION = "a" * 40


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as the dataset someone/speech. `sent` counts the bytes of each file that were."""

    def __init__(self, folder: Path):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.sent: dict[str, int] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        asked = _ASKED.fullmatch(unquote(urlparse(self.path).path))
        kind, path = asked.groups() if asked else ("", "")
        place = self.server.folder / (path or "")
        if asked and kind in (None, "revision"):
            self._answer({"id": "someone/speech", "sha": _REVISION, "siblings": [], "tags": [], "private": False})
        elif kind == "tree" and place.is_dir():
            found = place.rglob("*") if "recursive=true" in self.path.lower() else place.iterdir()
            self._answer([self._entry(path) for path in sorted(found)])
        elif kind == "resolve" and place.is_file():
            self._file(path, place.read_bytes())
        else:
            self._send(404, b"{}", {"X-Error-Code": "EntryNotFound" if asked else "RepoNotFound"})

    def _entry(self, path: Path) -> dict[str, object]:
        name = str(path.relative_to(self.server.folder))
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        oid = hashlib.sha1(path.read_bytes()).hexdigest()
        return {"type": "file", "oid": oid, "size": path.stat().st_size, "path": name}

    def _file(self, path: str, data: bytes) -> None:
        about = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": _REVISION}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(wanted[1]), int(wanted[2] or len(data) - 1)
            about["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data = data[first : last + 1]
        if self.command == "GET":
            self.server.sent[path] = self.server.sent.get(path, 0) + len(data)
        self._send(206 if wanted else 200, data, about)

    def _answer(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
