"""How the tests ask a server: WAVs, whole and broken requests, what comes back."""

import json
import socket
import time
from http.client import HTTPMessage, HTTPResponse
from typing import Any

import numpy as np
import requests

from src.data.audio import Clip, encode_wav
from tests.verifier.server_process import ServerProcess

BEARER = {"Authorization": "Bearer hunter2"}


def wait_until_ready(server: ServerProcess) -> None:
    while not requests.get(server.url + "/ready", timeout=5).json()["ready"]:
        time.sleep(0.05)


def wav(level: float = 0.1, seconds: float = 0.2, rate: int = 16_000) -> bytes:
    samples = np.full((1, round(seconds * rate)), level, np.float32)
    return encode_wav(Clip(samples, rate))


def form(wavs: list[bytes], prompts: list[str] | None, verifiers: tuple[str, ...]) -> dict:
    """The form of POST /score, as requests takes it."""
    prompts = ["any"] * len(wavs) if prompts is None else prompts
    return {
        "data": {"request": json.dumps({"verifiers": list(verifiers), "prompts": prompts})},
        "files": [("files", (f"{i}.wav", data, "audio/wav")) for i, data in enumerate(wavs)],
    }


def post(
    server: ServerProcess,
    wavs: list[bytes],
    prompts: list[str] | None = None,
    verifiers: tuple[str, ...] = ("fake",),
    **how: Any,
) -> requests.Response:
    asked = form(wavs, prompts, verifiers)
    return requests.post(server.url + "/score", timeout=20, **asked, **how)


def post_texts(
    server: ServerProcess, prompts: list[str], verifiers: tuple[str, ...] = ("fake",), **how: Any
) -> requests.Response:
    asked = {"verifiers": list(verifiers), "prompts": prompts}
    return requests.post(server.url + "/texts", json=asked, timeout=20, **how)


def values(response: requests.Response, verifier: str = "fake") -> list[float]:
    assert response.status_code == 200, response.text
    return [score["value"] for score in response.json()["results"][verifier]["scores"]]


def connect(server: ServerProcess, data: bytes = b"") -> socket.socket:
    """A raw connection over which `data` has been sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def raw_post(wavs: list[bytes], headers: str = "") -> bytes:
    """The bytes of a whole POST /score."""
    asked = requests.Request("POST", "http://x", **form(wavs, None, ("fake",))).prepare()
    assert isinstance(asked.body, bytes)
    kind = asked.headers["Content-Type"]
    return raw("/score", kind, len(asked.body), headers) + asked.body


def raw(path: str, content_type: str, length: int, headers: str = "") -> bytes:
    """The head of a POST whose body has `length` bytes."""
    return (
        f"POST {path} HTTP/1.1\r\nHost: x\r\n{headers}"
        f"Content-Type: {content_type}\r\nContent-Length: {length}\r\n\r\n"
    ).encode()


def answer_to(connection: socket.socket) -> tuple[int, dict[str, Any], HTTPMessage]:
    """What comes over a raw connection: status, JSON and headers of one answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read()), answer.headers
