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


def wait_until_ready(server: ServerProcess) -> None:
    while not server.get("/ready").json()["ready"]:
        time.sleep(0.05)


def wait_for(server: ServerProcess, metric: str, value: float) -> None:
    deadline = time.monotonic() + 5
    while server.metric(metric) != value:
        assert time.monotonic() < deadline, f"{metric} is {server.metric(metric)}, not {value}"
        time.sleep(0.02)


def wav(level: float = 0.1, seconds: float = 0.2, rate: int = 16_000) -> bytes:
    samples = np.full((1, round(seconds * rate)), level, np.float32)
    return encode_wav(Clip(samples, rate))


def post_to(server: ServerProcess, path: str, **how: Any) -> requests.Response:
    how["headers"] = {**server.headers, **how.get("headers", {})}
    return requests.post(server.url + path, timeout=20, **how)


def form(
    wavs: list[bytes], prompts: list[str] | None = None, verifiers: tuple[str, ...] = ("fake",)
) -> dict[str, Any]:
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
    return post_to(server, "/score", **form(wavs, prompts, verifiers), **how)


def post_texts(
    server: ServerProcess, prompts: list[str], verifiers: tuple[str, ...] = ("fake",), **how: Any
) -> requests.Response:
    asked = {"verifiers": list(verifiers), "prompts": prompts}
    return post_to(server, "/texts", json=asked, **how)


def values(response: requests.Response, verifier: str = "fake") -> list[float]:
    assert response.status_code == 200, response.text
    return [score["value"] for score in response.json()["results"][verifier]["scores"]]


def refusal(response: requests.Response) -> tuple[int, str]:
    """Status and `error` of an answer that is an ErrorBody."""
    body = response.json()
    assert body["request_id"] == response.headers["X-Request-ID"]
    return response.status_code, body["error"]


def connect(server: ServerProcess, data: bytes) -> socket.socket:
    """A raw connection over which `data` has been sent."""
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=10)
    connection.sendall(data)
    return connection


def raw_post(server: ServerProcess, wavs: list[bytes]) -> bytes:
    """The bytes of a whole POST /score."""
    asked = requests.Request("POST", "http://x", **form(wavs)).prepare()
    assert isinstance(asked.body, bytes)
    return raw(server, "/score", asked.headers["Content-Type"], len(asked.body)) + asked.body


def raw(server: ServerProcess, path: str, content_type: str, length: int) -> bytes:
    """The head of a POST whose body has `length` bytes."""
    headers = {**server.headers, "Content-Type": content_type, "Content-Length": length}
    lines = [f"POST {path} HTTP/1.1", "Host: x", *(f"{k}: {v}" for k, v in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def answer_to(connection: socket.socket) -> tuple[int, dict[str, Any], HTTPMessage]:
    """What comes over a raw connection: status, JSON and headers of one answer."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer.status, json.loads(answer.read()), answer.headers
