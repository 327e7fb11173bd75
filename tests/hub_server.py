"""A server that answers as the hub does, and as a plain web server does, with faults on demand."""

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.local_http import Handler, serving


@dataclass
class HubServer:
    """Files by path. `owner/name/file` is a hub's, what has no slash lies at a plain URL.

    Hub files of over a kilobyte are as those in its large storage: the first answer has their
    sha256 and redirects to another host; smaller ones have git's hash. The hub's API knows the
    repositories, of models or data sets, that have a file.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    commit: str = "a" * 40
    # Faults, by path.
    cut: dict[str, list[int]] = field(default_factory=dict)  # bytes sent before a cut; last stays
    swapped: dict[str, bytes] = field(default_factory=dict)  # sent in the place of the file
    refused: dict[str, int] = field(default_factory=dict)  # status; its body is `swapped`
    stalled: set[str] = field(default_factory=set)  # half of it is sent, the rest never
    no_ranges: bool = False
    requests: list[str] = field(default_factory=list)  # paths asked for
    sent: list[tuple[str, int]] = field(default_factory=list)  # file, and the first byte asked for

    def downloads(self, name: str) -> list[int]:
        """The first byte that each download of the file asked for."""
        return [start for sent, start in self.sent if sent == name]


@contextmanager
def hub_server() -> Iterator[HubServer]:
    hub, released = HubServer(), threading.Event()

    class Answers(Handler):
        def answer(self) -> None:
            path = self.path.partition("?")[0].lstrip("/")
            large, name = path.startswith("large/"), path.removeprefix("large/")
            name = re.sub("/resolve/[^/]+/", "/", name.removeprefix("datasets/"))
            hub.requests.append(path)
            if path.startswith("api/") and path not in hub.refused:
                repository = path.split("/", 2)[2] + "/"
                known = any(file.startswith(repository) for file in hub.files)
                return self.head(200 if known else 404, {})
            if name not in hub.files or name in hub.refused:
                self.head(hub.refused.get(name, 404), {"X-Repo-Commit": hub.commit})
                self.wfile.write(hub.swapped.get(name, b""))
                return None
            data = hub.files[name]
            etag = hashlib.sha256(data).hexdigest()
            first = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-")
            outdated = self.headers.get("If-Range", f'"{etag}"') != f'"{etag}"'
            start = 0 if hub.no_ranges or outdated else int(first)
            facts = {"ETag": f'"{etag}"', "Content-Length": str(len(data))}
            if "/" in name and not large:
                facts["X-Repo-Commit"] = hub.commit
                if len(data) > 1000:
                    facts |= {"X-Linked-Etag": f'"{etag}"', "X-Linked-Size": str(len(data))}
                    facts |= {"Content-Length": "0", "X-Xet-Hash": "f" * 64}
                    facts["X-Xet-Refresh-Route"] = "/no/such/thing"
                    facts["Location"] = f"{hub.url.replace('127.0.0.1', 'localhost')}/large/{name}"
                    return self.head(302, facts)
                facts["ETag"] = f'"{git_blob(data)}"'
            if self.command == "HEAD":
                return self.head(200, facts)
            hub.sent.append((name, int(first)))
            return self.send(name, hub.swapped.get(name, data), start, facts)

        def send(self, name: str, data: bytes, start: int, facts: dict[str, str]) -> None:
            if start >= len(data):
                return self.head(416, {"Content-Range": f"bytes */{len(data)}"})
            facts["Content-Length"] = str(len(data) - start)
            if start:
                facts["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.head(206 if start else 200, facts)
            end = len(data)
            if cuts := hub.cut.get(name):
                end = start + (cuts.pop(0) if len(cuts) > 1 else cuts[0])
            if name in hub.stalled:
                end = len(data) // 2
            self.wfile.write(data[start:end])
            self.wfile.flush()
            if name in hub.stalled:
                released.wait(60)
            self.close_connection = True
            return None

    with serving(Answers) as hub.url:
        try:
            yield hub
        finally:
            released.set()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
