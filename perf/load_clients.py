"""The clients of perf/server_load.py: good, malformed, slow, cut off, gone before the answer.

Each one thread with a connection of its own. What comes back is held against what should.
"""

from __future__ import annotations

import io
import json
import math
import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import requests
import soundfile

from src.data.audio import Clip, encode_wav

MODELS = ("tags", "tags_msd", "tags_vgg")
PROMPTS = ("fast guitar rock", "ambient electronic dance", "metal guitar", "country pop")
# Of 20 requests; the others are good ones.
MISCHIEF = ("bad file", "bad file", "bad form", "unknown model", "cut off", "hang up", "slow")
KINDS = (*MISCHIEF, *["good"] * (20 - len(MISCHIEF)))
KINDS_WITH_NEW = (*MISCHIEF, *["good"] * 6, *["new"] * 7)
# A batch's size decides how torch adds up; the tests hold the batch against one clip more closely.
TOLERANCE = 1e-3
Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Asked:
    """One good request, as it goes over the wire."""

    body: bytes
    content_type: str
    models: tuple[str, ...] = ()


def sounds(number: int, seed: int = 0) -> list[bytes]:
    """WAVs of decaying tones: 1 to 8 s, mono and stereo, 16 to 48 kHz, 16 bits and float."""
    rng, wavs = np.random.default_rng(seed), []
    for index in range(number):
        rate = (16_000, 32_000, 44_100, 48_000)[index % 4]
        seconds, channels = 1 + 7 * rng.random(), 1 + index % 2
        time_ = np.arange(round(seconds * rate)) / rate
        pitch = 110 * 2 ** rng.integers(0, 4) * np.arange(1, 5)[:, None]
        tones = np.sin(2 * np.pi * pitch * time_) * np.exp(-3 * (time_ % 0.5))
        samples = np.repeat(0.2 * tones.mean(0, keepdims=True), channels, 0).astype(np.float32)
        if index % 3:
            wavs.append(encode_wav(Clip(samples, rate)))
        else:
            file = io.BytesIO()
            soundfile.write(file, samples.T, rate, "PCM_16", format="WAV")
            wavs.append(file.getvalue())
    return wavs


@cache
def _recording() -> Clip:
    """A minute of tones at 32 kHz that never repeats: each note begins elsewhere and glides."""
    rate, seconds = 32_000, 60
    time_ = np.arange(seconds * rate) / rate
    pitch = 110 * 2 ** (2 + 1.5 * np.sin(0.37 * time_)) * np.arange(1, 5)[:, None]
    tones = np.sin(2 * np.pi * np.cumsum(pitch, 1) / rate).mean(0) * np.exp(-3 * (time_ % 0.53))
    return Clip(0.3 * tones[None].astype(np.float32), rate)


def new_clip(rng: random.Random, seconds: float = 5.0) -> Clip:
    """A clip that no server has heard: taggers remember what they have, by its bytes."""
    recording = _recording()
    start = rng.randrange(recording.samples.shape[1] - round(seconds * recording.rate))
    samples = recording.samples[:, start : start + round(seconds * recording.rate)]
    return Clip(np.float32(0.5 + rng.random() / 2) * samples, recording.rate)


def prepare(wavs: list[bytes], prompts: list[str], models: tuple[str, ...]) -> Asked:
    request = requests.Request(
        "POST",
        "http://server/score",
        data={"request": json.dumps({"verifiers": list(models), "prompts": prompts})},
        files=[("files", (f"{i}.wav", wav, "audio/wav")) for i, wav in enumerate(wavs)],
    ).prepare()
    assert isinstance(request.body, bytes)
    return Asked(request.body, request.headers["Content-Type"], models)


def good_requests(number: int, models: tuple[str, ...] = MODELS) -> list[Asked]:
    """Requests of one to four clips, for one model or several."""
    rng, wavs = random.Random(0), sounds(2 * number)
    asked = []
    for index in range(number):
        files = rng.sample(wavs, 1 + index % 4)
        chosen = models if index % 5 == 4 else (models[index % len(models)],)
        asked.append(prepare(files, [rng.choice(PROMPTS) for _ in files], chosen))
    return asked


def send(session: requests.Session, url: str, asked: Asked) -> requests.Response:
    headers = {"Content-Type": asked.content_type}
    return session.post(f"{url}/score", data=asked.body, headers=headers, timeout=120)


def scores(response: requests.Response) -> Scores:
    results: dict[str, Any] = response.json()["results"]
    return {name: [s["value"] for s in result["scores"]] for name, result in results.items()}


def deviation(found: Scores, expected: Scores) -> float:
    """The greatest difference of a score; infinite when they are not of the same clips."""
    if {n: len(v) for n, v in found.items()} != {n: len(v) for n, v in expected.items()}:
        return math.inf
    return max(abs(a - b) for n in found for a, b in zip(found[n], expected[n], strict=True))


class Crowd:
    """Many clients for a while. `run` returns; `answers`, `wrong` and `deviation` tell the rest."""

    def __init__(self, url: str, asked: list[Asked], expected: list[Scores]) -> None:
        self.url, self.asked, self.expected = url, asked, expected
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.seconds: list[float] = []  # of requests of one new clip each
        self.deviation = 0.0
        self._lock = threading.Lock()
        host, port = url.removeprefix("http://").split(":")
        self._address = host, int(port)

    def run(self, clients: int, seconds: float, kinds: tuple[str, ...] = KINDS) -> None:
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self._client, args=(seed, end, kinds))
            for seed in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _client(self, seed: int, end: float, kinds: tuple[str, ...]) -> None:
        rng = random.Random(seed)
        with requests.Session() as session:
            while time.monotonic() < end:
                kind, index = rng.choice(kinds), rng.randrange(len(self.asked))
                try:
                    self._do(kind, index, session, rng)
                except (requests.RequestException, OSError, ValueError, KeyError) as error:
                    self._note(f"{kind}: {type(error).__name__}: {error}", ok=False)

    def _do(self, kind: str, index: int, session: requests.Session, rng: random.Random) -> None:
        asked = self.asked[index]
        if kind == "good":  # what was asked before, so that a tagger may remember it
            self._good(kind, send(session, self.url, asked), index, None)
        elif kind == "new":
            new = prepare([encode_wav(new_clip(rng))], [rng.choice(PROMPTS)], asked.models)
            begin = time.monotonic()
            response = send(session, self.url, new)
            self._good(kind, response, None, time.monotonic() - begin)
        elif kind == "slow":  # the body in pieces, over a second
            size = len(asked.body) // 8 + 1
            pieces = [asked.body[at : at + size] for at in range(0, len(asked.body), size)]

            def dripping() -> Any:
                for piece in pieces:
                    time.sleep(0.12)
                    yield piece

            headers = {"Content-Type": asked.content_type}
            response = session.post(
                f"{self.url}/score", data=dripping(), headers=headers, timeout=120
            )
            self._good(kind, response, index, None)
        elif kind in ("cut off", "hang up"):
            self._leave(asked, rng.random() if kind == "cut off" else 1.0, rng.random() / 4)
            self._note(f"{kind}: no answer wanted", ok=True)
        else:
            wav = sounds(1)[0]
            bad, status = {
                "bad file": (prepare([wav[: len(wav) // 2]], ["metal"], MODELS[:1]), 422),
                "bad form": (Asked(asked.body[:-40], asked.content_type), 400),
                "unknown model": (prepare([wav], ["metal"], ("no such model",)), 404),
            }[kind]
            response = send(session, self.url, bad)
            self._note(f"{kind}: {response.status_code}", ok=response.status_code == status)

    def _leave(self, asked: Asked, share: float, wait: float) -> None:
        head = f"POST /score HTTP/1.1\r\nHost: localhost\r\nContent-Type: {asked.content_type}\r\n"
        data = f"{head}Content-Length: {len(asked.body)}\r\n\r\n".encode() + asked.body
        with socket.create_connection(self._address, timeout=60) as connection:
            connection.sendall(data[: max(1, round(share * len(data)))])
            time.sleep(wait)

    def _good(
        self, kind: str, response: requests.Response, index: int | None, seconds: float | None
    ) -> None:
        """index: of the request whose scores are known."""
        if response.status_code == 503 and "Retry-After" in response.headers:
            self._note(f"{kind}: 503, come back later", ok=True)
            time.sleep(0.2)
            return
        if response.status_code != 200:
            self._note(f"{kind}: {response.status_code} {response.text[:200]}", ok=False)
            return
        found = scores(response)
        far = 0.0 if index is None else deviation(found, self.expected[index])
        self._note(f"{kind}: 200", ok=far <= TOLERANCE)
        with self._lock:
            self.deviation = max(self.deviation, far)
            if seconds is not None:
                self.seconds.append(seconds)

    def _note(self, answer: str, ok: bool) -> None:
        with self._lock:
            self.answers[answer] += 1
            if not ok:
                self.wrong.append(answer)
