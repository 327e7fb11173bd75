"""A verifier server whose answers a test writes, on a real socket: for what a client meets.

The real server with fake models is tests/verifier/fake_models.py.
"""

import json
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np

from src.client import ServerClient
from src.data.audio import Clip
from src.protocol import TEXTS_PATH, Checkpoint, Limits, Score, VerifierInfo, VerifierList
from src.scoring import ScoreInput
from src.server.wav import decode_wav
from src.verifier import SearchVerifier
from tests.local_http import serving

GENERATOR = Checkpoint(name="builtin", sha256="11" * 32)
TAGS = Checkpoint(name="MTT_musicnn", sha256="22" * 32)
WORDS_READ = 3

Answer = tuple[int, Any, dict[str, str]]


class StubServer:
    """`answers` are used up first, then it scores; `client` talks to it.

    The score of a clip is its first sample, so that order can be checked. Of a prompt three words
    are read.
    """

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[], Answer | None]] = []
        self.uploads: list[dict[str, Any]] = []
        self.limits = Limits()
        self.hosted = {"tags": TAGS}
        self.token = ""
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                usual = {"state": "ready", "sample_rate": 16_000, "needs_text": True}
                infos = [
                    VerifierInfo(name=name, checkpoint=checkpoint, **usual)
                    for name, checkpoint in stub.hosted.items()
                ]
                listing = VerifierList(verifiers=infos, limits=stub.limits)
                self.answer(200, listing.model_dump(), {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                stub.token = self.headers.get("Authorization", "")
                answer = stub.answer_to(self.path, self.headers["Content-Type"], body)
                if answer is None:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self.answer(*answer)

            def answer(self, status: int, body: Any, headers: dict[str, str]) -> None:
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

        self._serving = ExitStack()
        self.url = self._serving.enter_context(serving(Handler))
        self.client = ServerClient(self.url, total_seconds=5)

    def stop(self) -> None:
        self._serving.close()

    def answer_to(self, path: str, content_type: str, body: bytes) -> Answer | None:
        """The answer to a POST; None: the connection is cut."""
        if path == TEXTS_PATH:
            asked, files = json.loads(body), []
            unread = [max(0, len(prompt.split()) - WORDS_READ) for prompt in asked["prompts"]]
            usual = {"unread": dict.fromkeys(asked["verifiers"], unread)}
        else:
            head = f"Content-Type: {content_type}\r\n\r\n".encode()
            parts: Any = BytesParser().parsebytes(head + body).get_payload()
            first, *files = (part.get_payload(decode=True) for part in parts)
            asked = json.loads(first)
            levels = [float(decode_wav(data).samples[0, 0]) for data in files]
            usual = answer_of(dict.fromkeys(asked["verifiers"], levels))
        self.uploads.append({"asked": asked, "files": files, "bytes": len(body)})
        answer = self.answers.pop(0) if self.answers else (200, usual, {})
        return answer() if callable(answer) else answer


def answer_of(values: dict[str, list[float]], checkpoint: Checkpoint = TAGS) -> dict[str, Any]:
    results = {
        name: {
            "checkpoint": checkpoint.model_dump(),
            "scores": [{"value": value} for value in scores],
            "queue_seconds": 0.01,
            "compute_seconds": 0.02,
        }
        for name, scores in values.items()
    }
    return {"request_id": "r", "results": results}


def problem(status: int, error: str, headers: dict[str, str] | None = None, **more: Any) -> Answer:
    return status, {"request_id": "r", "error": error, "message": "why", **more}, headers or {}


def clip(first: float = 0.5, samples: int = 100) -> Clip:
    return Clip(np.full((1, samples), first, np.float32), 16_000)


def inputs(count: int = 3) -> list[ScoreInput]:
    return [ScoreInput(f"prompt {i}", clip(i / 8), -1.0 - i) for i in range(count)]


def tags(client: ServerClient) -> SearchVerifier:
    return SearchVerifier("tags", {"tags": TAGS}, client)


def found(scores: Sequence[Score]) -> list[float]:
    return [score.value for score in scores]
