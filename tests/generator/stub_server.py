"""A verifier server of the tests' own, on a real socket, that has bad days."""

import json
import socket
import threading
from collections.abc import Callable, Sequence
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from src.data.audio import Clip, decode_wav
from src.protocol import TEXTS_PATH, Checkpoint, Limits, Score, VerifierInfo, VerifierList
from src.verifier import HttpVerifier, ScoreInput, ServerClient

GENERATOR = Checkpoint(name="builtin", sha256="11" * 32)
TAGS = Checkpoint(name="MTT_musicnn", sha256="22" * 32)
WORDS_READ = 3

Answer = tuple[int, Any, dict[str, str]]


class StubServer:
    """An HTTP server whose answers a test writes: `answers` are used up first, then it scores.

    The score of a clip is its first sample, so that order can be checked. Of a prompt three words
    are read.
    """

    def __init__(self) -> None:
        self.answers: list[Answer | Callable[[], Answer | None]] = []
        self.uploads: list[dict[str, Any]] = []
        self.limits = Limits()
        self.token = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                info = VerifierInfo(
                    name="tags", state="ready", checkpoint=TAGS, sample_rate=16_000, needs_text=True
                )
                listing = VerifierList(verifiers=[info], limits=outer.limits)
                self.answer(200, listing.model_dump(), {})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.token = self.headers.get("Authorization", "")
                if self.path == TEXTS_PATH:
                    asked, files = json.loads(body), []
                    usual = outer.counted(asked)
                else:
                    asked, files = outer.read(self.headers["Content-Type"], body)
                    usual = outer.scored(asked, files)
                outer.uploads.append({"asked": asked, "files": files, "bytes": len(body)})
                answer = outer.answers.pop(0) if outer.answers else usual
                if callable(answer):
                    answer = answer()
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

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    @staticmethod
    def read(content_type: str, body: bytes) -> tuple[dict[str, Any], list[bytes]]:
        message = BytesParser().parsebytes(
            b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
        )
        parts = [part.get_payload(decode=True) for part in message.get_payload()]  # type: ignore[union-attr]
        return json.loads(parts[0]), parts[1:]  # type: ignore[arg-type, return-value]

    @staticmethod
    def scored(asked: dict[str, Any], files: list[bytes]) -> Answer:
        firsts = [float(decode_wav(data).samples[0, 0]) for data in files]
        return 200, answer_of(dict.fromkeys(asked["verifiers"], firsts)), {}

    @staticmethod
    def counted(asked: dict[str, Any]) -> Answer:
        words = [max(0, len(prompt.split()) - WORDS_READ) for prompt in asked["prompts"]]
        return 200, {"unread": dict.fromkeys(asked["verifiers"], words)}, {}


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


def tags(client: ServerClient) -> HttpVerifier:
    return HttpVerifier(client, "tags", TAGS)


def found(scores: Sequence[Score]) -> list[float]:
    return [score.value for score in scores]
