"""A server that answers as the hub does for one data set of one CSV file."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.local_http import serving

COMMIT = "c" * 40


@dataclass
class DatasetHub:
    """name: of the data set. silent: answers nothing. status: of every answer, unless 200."""

    name: str
    files: dict[str, bytes]
    url: str = ""
    silent: bool = False
    status: int = 200
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def entry(self, path: str) -> dict[str, object]:
        data = self.files[path]
        return {"type": "file", "path": path, "size": len(data), "oid": git_blob(data)}

    def info(self) -> dict[str, object]:
        return {
            "id": self.name,
            "sha": COMMIT,
            "private": False,
            "gated": False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2023-01-01T00:00:00.000Z",
            "createdAt": "2023-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": name} for name in self.files],
        }


@contextmanager
def dataset_hub(name: str, files: dict[str, bytes]) -> Iterator[DatasetHub]:
    hub = DatasetHub(name, files)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            parts, api = urlsplit(self.path), f"/api/datasets/{hub.name}"
            hub.requests.append(f"{self.command} {self.path}")
            if hub.silent:
                hub.released.wait(60)
            if hub.status != 200:
                return self.json({"error": "no"}, hub.status)
            resolved = f"/datasets/{hub.name}/resolve/"
            path = parts.path
            if path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
                return self.json(hub.info())
            if path.startswith(f"{api}/tree/"):
                return self.json([hub.entry(name) for name in hub.files])
            if path.startswith(f"{api}/paths-info/"):
                wanted = asked_paths(body, self.headers.get("Content-Type", ""))
                return self.json([hub.entry(name) for name in wanted if name in hub.files])
            if path.startswith(resolved):
                name = path.removeprefix(resolved).partition("/")[2]
                if name in hub.files:
                    return self.file(hub.files[name])
            return self.json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})

        def json(
            self, value: object, status: int = 200, more: dict[str, str] | None = None
        ) -> None:
            self.send(
                json.dumps(value).encode(),
                status,
                {"Content-Type": "application/json"} | (more or {}),
            )

        def file(self, data: bytes) -> None:
            self.send(data, 200, {"ETag": f'"{git_blob(data)}"'})

        def send(self, data: bytes, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"X-Repo-Commit": COMMIT, **headers}.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *args: object) -> None:
            pass

    with serving(Handler) as hub.url:
        try:
            yield hub
        finally:
            hub.released.set()


def asked_paths(body: bytes, kind: str) -> list[str]:
    if "json" in kind:
        paths = json.loads(body)["paths"]
        return paths if isinstance(paths, list) else [paths]
    return parse_qs(body.decode()).get("paths", [])


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
