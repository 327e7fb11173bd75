"""What the tests send to a server and what they read of its answers."""

import json
import socket
from http.client import HTTPMessage, HTTPResponse
from typing import Any

import numpy as np
import requests

from src.data.audio import Clip, encode_wav


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
