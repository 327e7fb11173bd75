"""The search's client and the real server, each in its own environment, with real weights."""

import io
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import torch

from src.client import ServerClient
from src.connection import ServerUnreachable
from src.data.audio import Clip, encode_wav, resample
from src.models.tagger import load_tagger
from src.protocol import Score
from src.runs.local_server import local_server
from src.scoring import ScoreInput
from src.verifier import build_verifier

ROOT = Path(__file__).resolve().parents[2]
FAKE_MODELS = ("-m", "tests.verifier.fake_models")
PROMPTS = [
    "a slow piano piece",
    "fast guitar with drums",
    "solo violin, très lent ♪",
    "a choir, no drums",
]


def clip(seed: int, rate: int = 16_000, seconds: float = 3.5, channels: int = 1) -> Clip:
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    tones = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(100, 2000, 4))
    samples = np.stack([0.1 * tones * (1 + 0.1 * c) for c in range(channels)])
    return Clip(samples.astype(np.float32), rate)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with local_server(["tags", "tags_vgg"]) as url:
        yield url


def inputs() -> list[ScoreInput]:
    return [ScoreInput(prompt, clip(i), -1.0) for i, prompt in enumerate(PROMPTS)]


def test_a_score_over_http_is_that_of_the_tagger_itself(server: str) -> None:
    verifier = build_verifier("tags", None, ServerClient(server), None)
    scores = verifier.score(inputs())
    tagger = load_tagger("tags")
    assert verifier.checkpoints["tags"].sha256 == tagger.checkpoint.sha256
    for item, score in zip(inputs(), scores, strict=True):
        assert item.clip is not None
        logits = tagger.logits([torch.from_numpy(item.clip.samples[0])])[0].tolist()
        odds = dict(zip(tagger.tags, logits, strict=True))
        # The client's torch is 2.1, the server's 2.4.
        assert score.components == pytest.approx({n: odds[n] for n in score.components}, abs=1e-3)


def test_an_embedding_over_http_is_the_taggers_and_goes_only_to_who_asks(server: str) -> None:
    client = ServerClient(server)
    hosted = client.checkpoints(["tags", "tags_vgg"])
    items = inputs()
    asked = hosted, [item.prompt for item in items], [item.clip for item in items]
    found = client.score(*asked, ["tags"])
    plain = client.score(*asked)
    tagger = load_tagger("tags")
    rows = []
    for item, score in zip(items, found["tags"].scores, strict=True):
        rows.append(tagger.embeddings(torch.from_numpy(item.clip.samples[0])).mean(0).numpy())
        assert score.embedding == pytest.approx(rows[-1], abs=1e-3)
    assert {type(score) for result in plain.values() for score in result.scores} == {Score}
    assert plain["tags_vgg"].scores == found["tags_vgg"].scores
    assert [s.value for s in plain["tags"].scores] == [s.value for s in found["tags"].scores]

    same = [ScoreInput(PROMPTS[0], item.clip, -1.0) for item in items]
    nearest = build_verifier("medoid(tags)", None, client, None).score(same)
    units = np.array(rows) / np.linalg.norm(rows, axis=1, keepdims=True)
    near = (units @ units.T).mean(1)
    assert [s.value for s in nearest] == pytest.approx(near - near.mean(), abs=1e-3)


def test_an_answer_without_embeddings_is_what_it_was_before_there_were_any(server: str) -> None:
    audio = io.BytesIO(encode_wav(clip(0)))
    asked = {"request": '{"verifiers": ["tags"], "prompts": ["a slow piano piece"]}'}
    body = requests.post(f"{server}/score", data=asked, files={"files": audio}, timeout=60).json()
    assert [*body] == ["request_id", "results"]
    result = body["results"]["tags"]
    assert [*result] == ["checkpoint", "scores", "queue_seconds", "compute_seconds"]
    assert [[*score] for score in result["scores"]] == [["value", "components"]]


def test_stereo_at_another_rate_is_downmixed_and_resampled_by_the_server(server: str) -> None:
    client = ServerClient(server)
    stereo = clip(5, rate=32_000, channels=2)
    mono = Clip(resample(stereo, 16_000).samples.mean(0, keepdims=True), 16_000)
    hosted = client.checkpoints(["tags", "tags_vgg"])
    results = client.score(hosted, ["piano"] * 2, [stereo, mono])
    for result in results.values():
        first, second = (score.value for score in result.scores)
        assert first == pytest.approx(second, abs=0.02)


def test_a_prompt_without_a_tag_is_refused_and_the_others_are_scored(server: str) -> None:
    verifier = build_verifier("tags", None, ServerClient(server), None)
    items = inputs()
    items[1] = ScoreInput("something nice", items[1].clip, -1.0)
    outcomes = verifier.score(items)
    assert [isinstance(outcome, Score) for outcome in outcomes] == [True, False, True, True]
    assert "'something nice' names no tag that 'tags' knows" in outcomes[1].reason


def test_the_server_ends_with_the_block_even_when_it_raises() -> None:
    with (
        pytest.raises(RuntimeError, match="mine"),
        local_server(["fake"], server=FAKE_MODELS) as url,
    ):
        raise RuntimeError("mine")
    assert not _listening(url)


def test_the_server_ends_with_the_process_that_started_it_however_that_ends() -> None:
    code = (
        "import time; from src.runs.local_server import local_server\n"
        f"with local_server(['fake'], server={FAKE_MODELS!r}) as url:\n"
        "    print(url, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert _listening(url)
        parent.kill()
        parent.wait(20)
        deadline = time.monotonic() + 20
        while _listening(url):
            assert time.monotonic() < deadline, "the server outlived its parent"
            time.sleep(0.05)


def test_a_server_that_does_not_come_up_shows_the_end_of_its_log(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CURATOR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for reason, server in (
        ("--fetch clap", local_server(["clap"])),
        ("the weights are torn", local_server(["broken"], server=FAKE_MODELS)),
    ):
        with pytest.raises(ServerUnreachable, match=reason), server:
            pass


def _listening(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port), timeout=1).close()
    except OSError:
        return False
    return True
