"""The taggers against the original, which TensorFlow ran (builtin/recipe/convert_musicnn.py)."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors import safe_open
from torch import Tensor

from src.models.adapter import ScoreError
from src.models.tagger import EPSILON, TAGGERS, TAGGERS_DIR, WINDOW_SAMPLES, Tagger, load_tagger
from src.models.tags import TAGS

DATA = Path(__file__).parent / "data" / "tagger"
SECONDS = {"choir": 7.5, "flute": 3.2, "guitar": 5.0, "piano": 10.0, "synth": 9.1}


def clip(name: str) -> Tensor:
    return torch.from_numpy(soundfile.read(DATA / f"{name}.flac", dtype="float32")[0])


@pytest.fixture(scope="module")
def original() -> dict[str, np.ndarray]:
    with np.load(DATA / "original.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tagger() -> Tagger:
    return load_tagger("tags")


@pytest.mark.parametrize("network", TAGGERS.values())
def test_a_network_gives_the_original_outputs_on_the_original_windows(
    network: str, original: dict[str, np.ndarray]
) -> None:
    tagger = load_tagger(network)
    for name in SECONDS:
        expected = torch.from_numpy(original[f"{name}/{network}"])
        windows = tagger.windows(clip(name))
        outputs = tagger.window_posteriors(windows[: len(expected)])
        assert expected.max() > 0.2  # it hears something
        torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-5)


def test_the_mel_is_the_original_but_for_the_last_digit_of_float16(
    tagger: Tagger, original: dict[str, np.ndarray]
) -> None:
    for name in ("flute", "guitar"):
        expected = torch.from_numpy(original[f"{name}/mel"]).transpose(1, 2)
        mel = tagger.windows(clip(name))[:1]
        # float16 keeps 11 bits: a mel on the border of two of its values moves log10 by 4e-4
        torch.testing.assert_close(mel, expected, rtol=0, atol=5e-4)
        assert (mel - expected).abs().gt(1e-5).float().mean() < 0.01


def test_the_instrument_that_plays_is_among_the_first_tags(tagger: Tagger) -> None:
    names = ["choir", "flute", "guitar", "violin", "synth", "piano"]
    posteriors = tagger.posteriors([clip(name) for name in names])
    assert posteriors.shape == (6, 50)
    for name, row in zip(names, posteriors, strict=True):
        first = [tagger.tags[i] for i in row.argsort(descending=True)[:3]]
        assert name in first


@pytest.mark.parametrize(
    ("seconds", "windows"), [(2.97, 1), (2.98, 1), (3.0, 2), (5.0, 2), (5.97, 2), (6.0, 3), (10, 4)]
)
def test_one_more_window_covers_the_tail(tagger: Tagger, seconds: float, windows: int) -> None:
    assert tagger.windows(torch.randn(round(16000 * seconds))).shape == (windows, 96, 187)


def test_the_last_window_ends_with_the_clip(tagger: Tagger) -> None:
    samples = clip("guitar")
    mel = tagger.mel(samples)
    torch.testing.assert_close(tagger.windows(samples)[-1], mel[:, -187:])


def test_a_short_clip_is_repeated_until_it_fills_a_window(tagger: Tagger) -> None:
    short = clip("violin")
    assert len(short) < WINDOW_SAMPLES
    repeated = torch.cat([short, short])[:WINDOW_SAMPLES]
    torch.testing.assert_close(tagger.posteriors([short]), tagger.posteriors([repeated]))
    blip = tagger.posteriors([short[:100]])
    assert blip.isfinite().all()


@pytest.mark.parametrize("name", TAGGERS)
def test_a_clip_is_heard_the_same_alone_and_in_any_batch_to_the_last_bit(name: str) -> None:
    clips = [clip("synth"), clip("violin"), clip("guitar")[:60_000], clip("flute")]
    # Each by a tagger that remembers nothing.
    together = load_tagger(name).logits(clips)
    alone = torch.cat([load_tagger(name).logits([each]) for each in clips])
    backwards = load_tagger(name).logits(clips[::-1]).flip(0)
    assert torch.equal(together, alone)
    assert torch.equal(together, backwards)


def test_logits_are_the_log_odds_of_the_mean_over_windows(tagger: Tagger) -> None:
    samples = clip("guitar")
    mean = tagger.window_posteriors(tagger.windows(samples)).double().mean(0)
    expected = torch.log(mean / (1 - mean)).float()[None]
    torch.testing.assert_close(tagger.logits([samples]), expected, rtol=1e-4, atol=1e-4)


def test_logits_of_a_certain_posterior_stay_finite(
    tagger: Tagger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tagger, "posteriors", lambda self, clips: torch.tensor([[0.0, 0.5, 1.0]]))
    bound = float(np.log((1 - EPSILON) / EPSILON))
    expected = torch.tensor([[-bound, 0.0, bound]])
    torch.testing.assert_close(tagger.logits([]), expected, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    "samples",
    [torch.zeros(0), torch.zeros(2, 16000), torch.full((16000,), float("nan")),
     torch.tensor([0.0, float("inf")]), 1000 * torch.randn(50000)],
    ids=["empty", "stereo", "nan", "inf", "far over full scale"],
)  # fmt: skip
def test_a_clip_that_cannot_be_heard_is_an_error(tagger: Tagger, samples: Tensor) -> None:
    with pytest.raises(ScoreError, match="clip"):
        tagger.posteriors([clip("violin"), samples])


def test_missing_weights_say_where_they_belong() -> None:
    with pytest.raises(FileNotFoundError, match="convert_musicnn"):
        load_tagger("tugs")


@pytest.mark.parametrize(("verifier", "network"), TAGGERS.items())
def test_weights_say_their_tags_and_where_they_come_from(verifier: str, network: str) -> None:
    with safe_open(TAGGERS_DIR / f"{network}.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["licence"].startswith("ISC")
    assert json.loads(metadata["tags"]) == list(TAGS[verifier])
    assert len(TAGS[verifier]) == 50
    hashes = json.loads(metadata["source_sha256"])
    assert set(hashes) == {f"{network}/.index", f"{network}/.data-00000-of-00001"}
