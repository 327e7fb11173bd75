"""How the tests ask a server: WAVs, whole and broken requests, what comes back."""

import io
import json
import socket
import time
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


def post(
    server: ServerProcess,
    wavs: list[bytes],
    prompts: list[str] | None = None,
    verifiers: tuple[str, ...] = ("fake",),
    **how: Any,
) -> requests.Response:
    asked = {
        "verifiers": list(verifiers),
        "prompts": ["any"] * len(wavs) if prompts is None else prompts,
    }
    files = [("files", (f"{i}.wav", data, "audio/wav")) for i, data in enumerate(wavs)]
    return requests.post(
        server.url + "/score",
        data={"request": json.dumps(asked)},
        files=files,
        timeout=20,
        **how,
    )


def post_texts(
    server: ServerProcess, prompts: list[str], verifiers: tuple[str, ...] = ("fake",), **how: Any
) -> requests.Response:
    asked = {"verifiers": list(verifiers), "prompts": prompts}
    return requests.post(server.url + "/texts", json=asked, timeout=20, **how)


def values(response: requests.Response, verifier: str = "fake") -> list[float]:
    assert response.status_code == 200, response.text
    return [score["value"] for score in response.json()["results"][verifier]["scores"]]


def address(server: ServerProcess) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def raw_post(wavs: list[bytes], headers: str = "") -> bytes:
    """The bytes of a whole POST /score."""
    asked = json.dumps({"verifiers": ["fake"], "prompts": ["any"] * len(wavs)})
    body = io.BytesIO()
    body.write(f'--x\r\nContent-Disposition: form-data; name="request"\r\n\r\n{asked}\r\n'.encode())
    for data in wavs:
        body.write(
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="x.wav"\r\n\r\n'
            + data
            + b"\r\n"
        )
    body.write(b"--x--\r\n")
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {body.tell()}\r\n"
        "Content-Type: multipart/form-data; boundary=x\r\n\r\n"
    )
    return head.encode() + body.getvalue()


def answer_to(connection: socket.socket) -> bytes:
    """What comes over a raw connection: head and body of one answer."""
    connection.settimeout(10)
    data = b""
    while b"\r\n\r\n" not in data:
        data += _received(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += _received(connection)
    return head + b"\r\n\r\n" + body


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(65536)
    assert data, "the server closed the connection before its answer was complete"
    return data
