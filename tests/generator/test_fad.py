"""What the Frechet audio distance hears: embeddings of windows, of clips and of references."""

from pathlib import Path

import numpy as np
import pytest
import torch

from src.data.audio import Clip, read_audio, resample
from src.data.prompts import Prompt
from src.judges.base import JudgeError
from src.judges.fad import FadMsd
from src.judges.registry import JUDGES
from src.models.tagger import load_tagger
from src.stats.frechet import distance

DATA = Path(__file__).parent / "data" / "tagger"


def clip(name: str) -> Clip:
    return read_audio(DATA / f"{name}.flac")


def prompt(reference: str | None) -> Prompt:
    path = DATA / f"{reference}.flac" if reference else None
    return Prompt(id="p", text="music", key="k", reference=path)


@pytest.mark.parametrize(("name", "width"), [("MSD_musicnn", 200), ("MTT_vgg", 256)])
def test_an_embedding_is_the_layer_before_the_tags_for_each_window(name: str, width: int) -> None:
    tagger = load_tagger(name)
    samples = torch.from_numpy(clip("flute").samples[0])
    embeddings = tagger.embeddings(samples)
    assert embeddings.shape == (len(tagger.windows(samples)), width)
    if name == "MSD_musicnn":
        assert np.array_equal(FadMsd().embed(clip("flute"), prompt(None)), embeddings)
    tags = tagger.network.output(embeddings).sigmoid().mean(0)
    torch.testing.assert_close(tags, tagger.posteriors([samples])[0])


def test_a_reference_is_heard_as_a_clip_is() -> None:
    judge = FadMsd()
    np.testing.assert_array_equal(
        judge.embed_reference(prompt("choir")), judge.embed(clip("choir"), prompt(None))
    )


def test_music_is_nearer_to_itself_resampled_than_to_other_music() -> None:
    judge = FadMsd()
    piano, again, synth = (
        judge.embed(heard, prompt(None))
        for heard in (clip("piano"), resample(clip("piano"), 44_100), clip("synth"))
    )
    assert distance(again, piano) < 0.2 * distance(synth, piano)


def test_a_clip_or_a_reference_that_cannot_be_heard_is_an_error() -> None:
    judge = FadMsd()
    with pytest.raises(JudgeError, match=r"the clip of p: .* not finite"):
        judge.embed(Clip(np.full((1, 16_000), np.nan, dtype=np.float32), 16_000), prompt(None))
    with pytest.raises(JudgeError, match="no reference"):
        judge.embed_reference(prompt(None))


def test_the_judge_of_tags_and_this_one_share_a_network() -> None:
    judge = FadMsd()
    assert judge.checkpoint == JUDGES["msd_kld"]().checkpoint
    assert judge.shares_data_with == JUDGES["msd_kld"].shares_data_with


def test_both_say_that_few_clips_are_biased_and_that_lower_is_better() -> None:
    assert JUDGES["fad_clap"].listener_class is JUDGES["clap_score"].listener_class
    for name in ("fad_msd", "fad_clap"):
        assert "biased upwards for few clips" in JUDGES[name].note
        assert not JUDGES[name].higher_is_better
        assert JUDGES[name].needs_reference
