"""The built-in verifier with its real weights: musicnn's taggers behind the adapter."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.models.adapter import PromptUnusable, ScoreError, finite_score
from src.models.tagger import load_tagger
from src.models.tags import TaggerVerifier
from src.verifier_core import VERIFIERS, NotHosted, choose
from src.weights.musicgen import TAGGERS

RATE = 16_000


def clip(seconds: float, seed: int) -> np.ndarray:
    """float32 [T]: a few decaying tones over noise."""
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    tones = sum(np.sin(2 * np.pi * f * time) for f in random.uniform(100, 2000, 4))
    return (
        0.1 * tones * np.exp(-(time % 0.5) * 6) + 0.01 * random.standard_normal(len(time))
    ).astype(np.float32)


@pytest.fixture(scope="module")
def tags() -> TaggerVerifier:
    torch.set_num_threads(1)
    verifier = TaggerVerifier("tags")
    verifier.load("cpu")
    return verifier


def test_score_is_mean_log_odds_of_wanted_tags_less_those_of_unwanted_ones(
    tags: TaggerVerifier,
) -> None:
    tagger = load_tagger("tags")
    audio = clip(4, 0)
    odds = dict(zip(tagger.tags, tagger.logits([torch.from_numpy(audio)])[0].tolist(), strict=True))
    score = tags.score([audio], ["slow solo guitar and piano without drums"])[0]
    wanted = [name for name in score.components if name != "drums"]
    assert {"guitar", "piano", "slow"} <= set(wanted)
    expected = np.mean([odds[name] for name in wanted]) - odds["drums"]
    assert score.value == pytest.approx(expected, abs=1e-5)
    assert score.components == pytest.approx({n: odds[n] for n in score.components}, abs=1e-5)


def test_scores_do_not_depend_on_the_batch(tags: TaggerVerifier) -> None:
    clips = [clip(seconds, i) for i, seconds in enumerate([1.0, 3.0, 7.3, 10.0])]
    prompts = ["piano", "fast drums", "violin, no guitar", "a flute"]
    alone = [tags.score([c], [p])[0].value for c, p in zip(clips, prompts, strict=True)]
    together = [score.value for score in tags.score(clips, prompts)]
    backwards = [score.value for score in tags.score(clips[::-1], prompts[::-1])][::-1]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(backwards, alone, atol=1e-5)


@pytest.mark.parametrize("name", TAGGERS)
def test_a_prompt_that_names_no_tag_is_refused_with_the_vocabulary(name: str) -> None:
    verifier = TaggerVerifier(name)
    with pytest.raises(PromptUnusable) as caught:
        verifier.check("xyzzy")
    assert len(caught.value.vocabulary) == 50
    verifier.check(f"some {caught.value.vocabulary[0]} music")


def test_a_prompt_is_read_to_its_end(tags: TaggerVerifier) -> None:
    prompt = "la " * 600 + "violin"
    assert set(tags.score([clip(3, 1)], [prompt])[0].components) == {"violin"}
    assert tags.unread_tokens(prompt) == 0


def test_the_vocabulary_is_the_networks(tags: TaggerVerifier) -> None:
    assert tags.vocabulary() == tags.tagger.tags


def test_a_clip_that_overflows_the_network_has_no_score(tags: TaggerVerifier) -> None:
    with pytest.raises(ScoreError):
        tags.score([np.full(RATE, np.inf, np.float32)], ["piano"])


def test_a_number_that_is_not_finite_is_no_score() -> None:
    with pytest.raises(ScoreError, match="piano"):
        finite_score(1.0, {"piano": float("nan")})


def test_with_no_names_everything_whose_weights_are_there_is_hosted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CURATOR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    adapters, left_out = choose(())
    assert [adapter.name for adapter in adapters] == list(TAGGERS)
    assert list(left_out) == [name for name in VERIFIERS if name not in TAGGERS]
    for name, problem in left_out.items():
        assert f"--fetch {name}" in problem
        assert "\n" not in problem
    monkeypatch.setattr(
        TaggerVerifier, "missing", lambda self: "it is gone" if self.name == "tags" else None
    )
    adapters, left_out = choose(())
    assert [adapter.name for adapter in adapters] == ["tags_vgg", "tags_msd", "tags_msd_vgg"]
    assert left_out["tags"] == "it is gone"
    with pytest.raises(NotHosted, match="tags: it is gone"):
        choose(["tags", "tags_vgg"])


def test_one_whose_weights_came_is_hosted_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("CURATOR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    (needed,) = VERIFIERS["quality"]("quality").files
    (tmp_path / needed.name).touch()
    adapters, left_out = choose(())
    assert [adapter.name for adapter in adapters] == ["quality", *TAGGERS]
    assert "quality" not in left_out
    assert [adapter.name for adapter in choose(["quality"])[0]] == ["quality"]


@pytest.mark.parametrize(
    ("name", "reason"), [("clap", "--fetch clap"), ("nope", "no such verifier.*tags_msd")]
)
def test_names_that_cannot_be_hosted_are_told_what_to_do(
    name: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("CURATOR_WEIGHTS", "HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    with pytest.raises(NotHosted, match=reason):
        choose(["tags", name])
