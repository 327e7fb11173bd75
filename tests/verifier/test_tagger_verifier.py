"""The built-in verifier with its real weights: musicnn's taggers behind the adapter."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from src.models.adapter import PromptUnusable, ScoreError, finite_score
from src.models.tagger import load_tagger
from src.models.tags import TaggerVerifier
from src.protocol import EmbeddedScore
from src.verifier_core import VERIFIERS, NotHosted, choose, shares_data_with
from src.weights.files import TAGGERS
from tests.verifier.adapters import noisy_tones

CASE = "tags"
RATE = 16_000
clip = partial(noisy_tones, rate=RATE)


def test_score_is_mean_log_odds_of_wanted_tags_less_those_of_unwanted_ones(
    adapter: TaggerVerifier,
) -> None:
    tagger = load_tagger("tags")
    audio = clip(4, 0)
    odds = dict(zip(tagger.tags, tagger.logits([torch.from_numpy(audio)])[0].tolist(), strict=True))
    score = adapter.score([audio], ["slow solo guitar and piano without drums"])[0]
    wanted = [name for name in score.components if name != "drums"]
    assert {"guitar", "piano", "slow"} <= set(wanted)
    expected = np.mean([odds[name] for name in wanted]) - odds["drums"]
    assert score.value == pytest.approx(expected, abs=1e-5)
    assert score.components == pytest.approx({n: odds[n] for n in score.components}, abs=1e-5)


def test_an_embedding_is_the_layer_before_the_tags_over_windows(adapter: TaggerVerifier) -> None:
    audio = [clip(7, 1), clip(2, 2)]
    found = adapter.score(audio, ["slow piano", "no drums"])
    for samples, score in zip(audio, found, strict=True):
        assert isinstance(score, EmbeddedScore)
        heard = load_tagger("tags").embeddings(torch.from_numpy(samples))
        assert score.embedding == pytest.approx(heard.mean(0).tolist(), abs=1e-5)


@pytest.mark.parametrize("name", TAGGERS)
def test_a_prompt_that_names_no_tag_is_refused_in_one_line_however_long_it_is(name: str) -> None:
    verifier = TaggerVerifier(name)
    assert len(verifier.vocabulary) == 50
    with pytest.raises(PromptUnusable, match=f"'xyzzy' names no tag that '{name}'"):
        verifier.check("xyzzy")
    with pytest.raises(PromptUnusable, match=r"'xyzzy .*\.\.' names no tag") as refused:
        verifier.check("xyzzy " * 300)
    assert len(str(refused.value)) < 200
    verifier.check(f"some {verifier.vocabulary[0]} music")


def test_a_number_that_is_not_finite_is_no_score() -> None:
    with pytest.raises(ScoreError, match="piano"):
        finite_score(1.0, {"piano": float("nan")})
    with pytest.raises(ScoreError, match="the embedding"):
        finite_score(1.0, {}, torch.tensor([1.0, torch.inf]))


def test_with_no_names_everything_whose_weights_are_there_is_hosted(
    nothing_fetched: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_one_whose_weights_came_is_hosted_too(nothing_fetched: Path) -> None:
    for needed in VERIFIERS["quality"]("quality").files:
        (nothing_fetched / needed.name).touch()
    adapters, left_out = choose(())
    assert [adapter.name for adapter in adapters] == ["quality", *TAGGERS]
    assert "quality" not in left_out
    assert [adapter.name for adapter in choose(["quality"])[0]] == ["quality"]


@pytest.mark.parametrize(
    ("name", "reason"), [("clap", "--fetch clap"), ("nope", "no such verifier.*tags_msd")]
)
def test_names_that_cannot_be_hosted_are_told_what_to_do(
    name: str, reason: str, nothing_fetched: Path
) -> None:
    with pytest.raises(NotHosted, match=reason):
        choose(["tags", name])


def test_taggers_trained_on_the_same_tags_are_not_independent() -> None:
    assert {name: shares_data_with(name) for name in TAGGERS} == {
        "tags": ("tags_vgg",),
        "tags_vgg": ("tags",),
        "tags_msd": ("tags_msd_vgg",),
        "tags_msd_vgg": ("tags_msd",),
    }
    assert shares_data_with("clap") == shares_data_with("unknown") == ()
