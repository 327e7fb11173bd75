"""A server of the tests' own as a real process on a free port: how tests ask it, and read it."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from http.client import HTTPMessage, HTTPResponse
from pathlib import Path
from typing import Any

import numpy as np
import requests

from src.data.audio import Clip, encode_wav

ROOT = Path(__file__).resolve().parents[2]
FAKE_MODELS = ("-m", "tests.verifier.fake_models")
REAL_MODELS = ("verifier_server.py",)


class ServerProcess:
    """A server with a log file, of fake models by default; use as a context manager.

    headers: with its token, if it has one.
    """

    def __init__(
        self, log: Path, *options: str, token: str = "", server: tuple[str, ...] = FAKE_MODELS
    ) -> None:
        self.log = log
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        command = [sys.executable, *server, "--host", "127.0.0.1", "--port", "0", *options]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "CURATOR_TOKEN": token},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "ServerProcess":
        deadline = time.monotonic() + 120
        while not (running := re.search(r"Uvicorn running on (\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = running[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def get(self, path: str, **how: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=5, **{"headers": self.headers, **how})

    def metric(self, line: str) -> float:
        """The value of a metric, 0 when it was never counted."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def wait_until_ready(self) -> None:
        while not self.get("/ready").json()["ready"]:
            time.sleep(0.05)

    def wait_for_log(self, text: str) -> None:
        deadline = time.monotonic() + 5
        while text not in (log := self.log.read_text()):
            assert time.monotonic() < deadline, f"{text} is not in {log}"
            time.sleep(0.02)

    def wait_for(self, metric: str, value: float) -> None:
        deadline = time.monotonic() + 5
        while self.metric(metric) != value:
            assert time.monotonic() < deadline, f"{metric} is {self.metric(metric)}, not {value}"
            time.sleep(0.02)

    def post_to(self, path: str, **how: Any) -> requests.Response:
        how["headers"] = {**self.headers, **how.get("headers", {})}
        return requests.post(self.url + path, timeout=20, **how)

    def post(
        self,
        wavs: list[bytes],
        prompts: list[str] | None = None,
        verifiers: tuple[str, ...] = ("fake",),
        **how: Any,
    ) -> requests.Response:
        return self.post_to("/score", **form(wavs, prompts, verifiers), **how)

    def post_texts(
        self, prompts: list[str], verifiers: tuple[str, ...] = ("fake",), **how: Any
    ) -> requests.Response:
        asked = {"verifiers": list(verifiers), "prompts": prompts}
        return self.post_to("/texts", json=asked, **how)

    def connect(self, data: bytes) -> socket.socket:
        """A raw connection over which `data` has been sent."""
        host, port = self.url.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(data)
        return connection

    def raw_post(self, wavs: list[bytes], prompts: list[str] | None = None) -> bytes:
        """The bytes of a whole POST /score."""
        asked = requests.Request("POST", "http://x", **form(wavs, prompts)).prepare()
        assert isinstance(asked.body, bytes)
        return self.raw("/score", asked.headers["Content-Type"], len(asked.body)) + asked.body

    def raw(self, path: str, content_type: str, length: int) -> bytes:
        """The head of a POST whose body has `length` bytes."""
        headers = {**self.headers, "Content-Type": content_type, "Content-Length": length}
        lines = [
            f"POST {path} HTTP/1.1",
            "Host: localhost",
            *(f"{k}: {v}" for k, v in headers.items()),
        ]
        return "\r\n".join([*lines, "", ""]).encode()


def form(
    wavs: list[bytes], prompts: list[str] | None = None, verifiers: tuple[str, ...] = ("fake",)
) -> dict[str, Any]:
    """The form of POST /score, as requests takes it."""
    prompts = ["any"] * len(wavs) if prompts is None else prompts
    return {
        "data": {"request": json.dumps({"verifiers": list(verifiers), "prompts": prompts})},
        "files": [("files", (f"{i}.wav", data, "audio/wav")) for i, data in enumerate(wavs)],
    }


def wav(level: float = 0.1, seconds: float = 0.2, rate: int = 16_000) -> bytes:
    samples = np.full((1, round(seconds * rate)), level, np.float32)
    return encode_wav(Clip(samples, rate))


def values(response: requests.Response, verifier: str = "fake") -> list[float]:
    assert response.status_code == 200, response.text
    return [score["value"] for score in response.json()["results"][verifier]["scores"]]


def refusal(response: requests.Response) -> tuple[int, str]:
    """Status and `error` of an answer that is an ErrorBody."""
    body = response.json()
    assert body["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, body["error"]


def answer_to(connection: socket.socket) -> tuple[int, dict[str, Any], HTTPMessage]:
    """What comes over a raw connection: status, JSON and headers of one answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read()), answer.headers
