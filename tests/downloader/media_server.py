"""A host of audio that yt-dlp's generic extractor reads, with ranges, and faults on demand."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from tests.local_http import Handler, serving

TYPES = {".webm": "audio/webm", ".m4a": "audio/mp4", ".wav": "audio/wav", ".bin": "audio/webm"}


@dataclass
class MediaServer:
    """Files by name. Faults, by name of the file."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    status: dict[str, list[int]] = field(default_factory=dict)  # answered in turn; the last stays
    media_status: dict[str, int] = field(default_factory=dict)  # to ffmpeg, not to yt-dlp
    retry_after: dict[str, int] = field(default_factory=dict)  # seconds
    patchy: set[str] = field(default_factory=set)  # each connection breaks after 60 kB
    cut: dict[str, int] = field(default_factory=dict)  # every connection breaks at this byte
    slow: dict[str, float] = field(default_factory=dict)  # seconds before each answer
    paced: float = 0.0  # seconds between chunks of 32 kB
    begun: Counter[str] = field(default_factory=Counter)  # times that ffmpeg began to read
    bytes_sent: Counter[str] = field(default_factory=Counter)
    requests: list[tuple[float, str]] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)


@contextmanager
def media_server() -> Iterator[MediaServer]:
    media = MediaServer()

    class Answers(Handler):
        def answer(self) -> None:
            name = self.path.lstrip("/")
            # yt-dlp asks without a range, or for the first bytes; ffmpeg from a byte on
            asked = self.headers.get("Range", "")
            by_ffmpeg = asked.startswith("bytes=") and asked.endswith("-")
            media.requests.append((time.monotonic(), name))
            media.cookies.append(self.headers.get("Cookie", ""))
            if by_ffmpeg:
                media.begun[name] += asked == "bytes=0-"
            time.sleep(media.slow.get(name, 0))
            if turns := media.status.get(name):
                status = turns.pop(0) if len(turns) > 1 else turns[0]
                if status != 200:
                    return self.refuse(status, name)
            if by_ffmpeg and name in media.media_status:
                return self.refuse(media.media_status[name], name)
            if name not in media.files:
                return self.refuse(404, name)
            return self.send(name, asked)

        def refuse(self, status: int, name: str) -> None:
            after = {"Retry-After": media.retry_after[name]} if name in media.retry_after else {}
            self.head(status, {"Content-Length": 0, **after})

        def send(self, name: str, asked: str) -> None:
            data = media.files[name]
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start, end = int(first or 0), min(int(last or len(data) - 1) + 1, len(data))
            kind = {"Content-Type": TYPES[PurePosixPath(name).suffix], "Accept-Ranges": "bytes"}
            part = {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"} if asked else {}
            self.head(206 if asked else 200, {**kind, **part, "Content-Length": end - start})
            if self.command == "HEAD":
                return
            end = min(end, start + 60000) if name in media.patchy else end
            end = min(end, media.cut.get(name, end))
            self.close_connection = name in media.patchy or name in media.cut
            for at in range(start, end, 1 << 15):
                chunk = data[at : min(at + (1 << 15), end)]
                self.wfile.write(chunk)
                media.bytes_sent[name] += len(chunk)
                time.sleep(media.paced)

    with serving(Answers) as media.url:
        yield media
