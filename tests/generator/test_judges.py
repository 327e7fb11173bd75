"""The judges, on clips and references that the taggers know well; and verifiers of the server as
judges: one upload for all, reasons, and what ends a run."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from src.connection import ServerUnreachable
from src.data.audio import Clip, read_audio, resample
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError
from src.judges.registry import JUDGES, ServedJudge, all_three, build_judges
from src.judges.tags import FadMsd, bernoulli_kl
from src.models.tagger import load_tagger
from src.protocol import Checkpoint, Score, VerifierResult
from src.runs.evaluation import judge_clip, measures
from src.runs.settings import PROFILE_JUDGES
from src.stats.frechet import distance
from tests.generator.fake_pool import WEIGHTS, FakeClient
from tests.generator.stub_server import clip as level

DATA = Path(__file__).parent / "data" / "tagger"


def clip(name: str) -> Clip:
    return read_audio(DATA / f"{name}.flac")


def prompt(text: str, reference: str | None = None) -> Prompt:
    path = DATA / f"{reference}.flac" if reference else None
    return Prompt(id=f"p-{reference}", text=text, key="k", reference=path)


def judge_named(name: str) -> ClipJudge:
    judge = JUDGES[name]()
    assert isinstance(judge, ClipJudge)
    return judge


COMPARING = ("msd_cosine", "msd_kld", "msd_vgg_kld")
SETS = ("fad_msd", "kad_msd", "spread_msd")
BUILT_IN = (*COMPARING, *(f"{name}_codec" for name in COMPARING), "mtt_vgg", *SETS)


def test_the_judges_of_the_profiles_exist_and_the_primary_one_comes_first() -> None:
    assert set(PROFILE_JUDGES["builtin"]) <= set(BUILT_IN)
    assert set(PROFILE_JUDGES["paper"]) <= set(JUDGES)
    assert PROFILE_JUDGES["builtin"][0] == "msd_cosine_codec"


def test_every_judge_is_known_by_its_name_and_says_its_direction() -> None:
    for name, judge in JUDGES.items():
        assert judge.name == name
        name = name.removesuffix("_wrong").removesuffix("_contrast")
        higher = name in ("mtt_vgg", "clap_score") or "cosine" in name or "spread" in name
        assert judge.higher_is_better == higher
        assert judge.needs_reference == any(x in name for x in ("kld", "cosine", "fad", "kad"))
        assert bool(judge.listener_class.files) == (name not in BUILT_IN)
        if judge.listener_class.files:
            assert judge.licence


def test_built_in_judges_have_their_weights_and_say_what_they_depend_on() -> None:
    for name in BUILT_IN:
        assert len(JUDGES[name]().checkpoint.sha256) == 64
    assert "tags" in JUDGES["mtt_vgg"].shares_data_with
    assert JUDGES["msd_kld"]().checkpoint.name == "MSD_musicnn"
    assert "tags" not in JUDGES["msd_kld"].shares_data_with


@pytest.mark.parametrize("name", ["msd_kld", "msd_vgg_kld"])
def test_a_divergence_is_zero_from_itself_and_larger_from_other_music(name: str) -> None:
    judge = judge_named(name)
    asked = prompt("choir", "choir")
    same, guitar, synth = (judge.judge(clip(n), asked) for n in ("choir", "guitar", "synth"))
    assert same == 0
    assert min(guitar, synth) > 0.3


def test_a_reference_is_heard_for_as_long_as_the_clip_lasts() -> None:
    judge, whole = judge_named("msd_kld"), clip("choir")
    start = whole.first(whole.seconds / 2)
    assert judge.judge(start, prompt("choir", "choir")) == 0
    parts = (judge.listener.posterior(judge.listener.listen(part)) for part in (whole, start))
    assert bernoulli_kl(*parts) > 0


@pytest.mark.parametrize("name", ["msd_kld", "msd_vgg_kld_codec"])
def test_controls_are_the_mean_over_wrong_references_and_own_minus_wrong(name: str) -> None:
    codec = Muffling()
    kinds = [JUDGES[name + end] for end in ("", "_wrong", "_contrast")]
    own, wrong, contrast = (kind("cpu", codec) for kind in kinds)
    asked = replace(
        prompt("choir", "choir"), wrong=tuple(DATA / f"{n}.flac" for n in ("guitar", "synth"))
    )
    heard = clip("violin")
    others = [own.judge(heard, prompt("x", n)) for n in ("guitar", "synth")]
    assert wrong.judge(heard, asked) == pytest.approx(np.mean(others))
    assert contrast.judge(heard, asked) == pytest.approx(own.judge(heard, asked) - np.mean(others))
    with pytest.raises(JudgeError, match="no other prompt's reference"):
        contrast.judge(heard, prompt("choir", "choir"))


class Muffling:
    """A codec that halves every clip."""

    def reconstruct(self, clip: Clip) -> Clip:
        return Clip(clip.samples / 2, clip.rate)


def test_the_cosine_is_one_with_itself_and_smaller_with_other_music() -> None:
    judge, asked = judge_named("msd_cosine"), prompt("choir", "choir")
    same, guitar = (judge.judge(clip(name), asked) for name in ("choir", "guitar"))
    assert same == pytest.approx(1)
    assert guitar < 0.95


def test_a_codec_matched_judge_hears_the_reference_through_the_codec_the_clip_as_it_is() -> None:
    kind, codec = JUDGES["msd_kld_codec"], Muffling()
    asked, whole = prompt("choir", "choir"), clip("choir")
    assert kind("cpu", codec).judge(codec.reconstruct(whole), asked) == 0
    assert kind("cpu", codec).judge(whole, asked) > 0
    with pytest.raises(JudgeError, match="through a codec, and there is none"):
        kind("cpu").judge(whole, asked)


def test_who_names_a_judge_that_compares_gets_its_controls_and_the_contrast_first() -> None:
    three = ("msd_kld_contrast", "msd_kld", "msd_kld_wrong")
    assert all_three(["msd_kld", "mtt_vgg"]) == (*three, "mtt_vgg")
    assert all_three(["msd_kld_wrong", "tags", "msd_kld"]) == (*three, "tags")


def test_a_divergence_hears_channels_as_mono_and_any_rate() -> None:
    judge = judge_named("msd_kld")
    mono = clip("guitar")
    stereo = resample(Clip(np.concatenate([mono.samples, mono.samples]), mono.rate), 44_100)
    value = judge.judge(stereo, prompt("guitar", "guitar"))
    assert 0 < value < 0.05


def test_a_reference_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_named("msd_kld")
    judge.judge(clip("guitar"), prompt("guitar", "choir"))
    monkeypatch.setattr("src.judges.base.read_audio", lambda path: pytest.fail("read again"))
    judge.judge(clip("violin"), prompt("violin", "choir"))


def test_tag_log_odds_are_the_mean_of_the_wanted_less_that_of_the_unwanted() -> None:
    judge = judge_named("mtt_vgg")
    tagger = load_tagger("MTT_vgg")
    samples = torch.from_numpy(clip("piano").samples[0])
    row = dict(zip(tagger.tags, tagger.logits([samples])[0].tolist(), strict=True))
    value = judge.judge(clip("piano"), prompt("slow piano, no drums or vocals or guitar"))
    wanted = (row["slow"] + row["piano"] + row["no vocals"]) / 3
    assert value == pytest.approx(wanted - (row["drums"] + row["guitar"]) / 2, abs=1e-4)


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("msd_kld", prompt("guitar"), "no reference"),
        ("msd_kld", replace(prompt("x", "x"), reference=Path("gone.ogg")), "gone.ogg"),
        ("mtt_vgg", prompt("something unheard of"), "names no tag"),
    ],
)
def test_a_prompt_that_cannot_be_judged_is_an_error(name: str, asked: Prompt, message: str) -> None:
    with pytest.raises(JudgeError, match=message):
        judge_named(name).judge(clip("guitar"), asked)


@pytest.mark.parametrize("samples", [np.zeros((1, 0)), np.full((1, 16000), np.nan)])
def test_a_clip_that_cannot_be_heard_is_an_error(samples: np.ndarray) -> None:
    broken = Clip(samples.astype(np.float32), 16000)
    with pytest.raises(JudgeError, match="clip of p-None"):
        judge_named("mtt_vgg").judge(broken, prompt("guitar"))


def test_a_number_that_is_not_finite_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = judge_named("mtt_vgg")
    monkeypatch.setattr(judge, "number", lambda clip, prompt: math.nan)
    with pytest.raises(JudgeError, match="the clip of p-None: mtt_vgg gave no finite number"):
        judge.judge(clip("guitar"), prompt("guitar"))


def test_bernoulli_kl_is_the_sum_over_tags_in_nats() -> None:
    p, q = np.array([0.5, 0.2]), np.array([0.25, 0.2])
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert bernoulli_kl(p, q) == pytest.approx(expected)
    assert bernoulli_kl(p, p) == 0
    assert bernoulli_kl(q, p) != pytest.approx(expected)
    certain = np.array([0.0, 1.0])
    assert bernoulli_kl(certain, 1 - certain) < 2 * math.log(1e6) + 1  # and finite


@pytest.mark.parametrize(("name", "width"), [("MSD_musicnn", 200), ("MTT_vgg", 256)])
def test_an_embedding_is_the_layer_before_the_tags_for_each_window(name: str, width: int) -> None:
    tagger = load_tagger(name)
    samples = torch.from_numpy(clip("flute").samples[0])
    embeddings = tagger.embeddings(samples)
    assert embeddings.shape == (len(tagger.windows(samples)), width)
    if name == "MSD_musicnn":
        assert np.array_equal(FadMsd().hear(clip("flute"), prompt("music")), embeddings)
    tags = tagger.network.output(embeddings).sigmoid().mean(0)
    torch.testing.assert_close(tags, tagger.posteriors([samples])[0])


def test_a_reference_is_heard_as_a_clip_is() -> None:
    judge = FadMsd()
    np.testing.assert_array_equal(
        judge.hear_reference(prompt("music", "choir")), judge.hear(clip("choir"), prompt("music"))
    )


def test_music_is_nearer_to_itself_resampled_than_to_other_music() -> None:
    judge = FadMsd()
    piano, again, synth = (
        judge.hear(heard, prompt("music"))
        for heard in (clip("piano"), resample(clip("piano"), 44_100), clip("synth"))
    )
    assert distance(again, piano) < 0.2 * distance(synth, piano)


def test_a_clip_or_a_reference_that_cannot_be_heard_is_an_error() -> None:
    judge = FadMsd()
    with pytest.raises(JudgeError, match=r"the clip of p-None: .* not finite"):
        judge.hear(Clip(np.full((1, 16_000), np.nan, dtype=np.float32), 16_000), prompt("music"))
    with pytest.raises(JudgeError, match="no reference"):
        judge.hear_reference(prompt("music"))


def test_judges_of_sets_share_a_network_with_those_of_clips() -> None:
    judge = FadMsd()
    assert judge.checkpoint == JUDGES["msd_kld"]().checkpoint
    assert judge.shares_data_with == JUDGES["msd_kld"].shares_data_with
    assert JUDGES["fad_clap"].listener_class is JUDGES["clap_score"].listener_class
    assert "biased upwards for few clips" in judge.note


@pytest.mark.parametrize("network", ["msd", "clap"])
def test_measures_of_sets_on_one_network_share_its_embeddings(network: str) -> None:
    family = [JUDGES[f"{kind}_{network}"] for kind in ("fad", "kad", "spread")]
    assert {judge.listener_class for judge in family} == {family[0].listener_class}
    assert [judge.statistic for judge in family] == ["frechet", "kernel", "spread"]  # type: ignore[attr-defined]
    assert {judge.embeddings for judge in family} == {f"fad_{network}"}  # type: ignore[attr-defined]


# Verifiers of the server as judges

NAMES = ("clap", "muq", "tags")
ASKED = prompt("slow piano")


class Client(FakeClient):
    """Notes to which checkpoints it is asked to hold the server."""

    held: Mapping[str, Checkpoint] = {}

    def score(self, verifiers, prompts, clips):
        self.held = verifiers
        return super().score(verifiers, prompts, clips)


def judges(client: FakeClient, *names: str) -> list[Any]:
    return build_judges(names or NAMES, "cpu", client)  # type: ignore[arg-type]


def test_a_clip_is_sent_once_for_all_judges_and_the_server_held_to_their_weights() -> None:
    client = Client()
    all_judges = judges(client)
    for heard in (level(1), level(2)):
        values = [judge.judge(heard, ASKED) for judge in all_judges]
        assert values == [client.values[name, "slow piano"][-1] for name in NAMES]
    assert client.asked == [(NAMES, "slow piano", 100)] * 2
    assert client.held == dict.fromkeys(NAMES, WEIGHTS)


def test_another_clip_or_prompt_is_another_question() -> None:
    client = FakeClient()
    (judge,) = judges(client, "clap")
    same = level(1)
    for heard, text in ((same, "a"), (same, "b"), (level(2), "b")):
        judge.judge(heard, prompt(text))
    assert [text for _, text, _ in client.asked] == ["a", "b", "b"]


def test_what_one_verifier_refuses_the_others_still_judge_and_it_is_asked_once() -> None:
    client = FakeClient(refuses=[("tags", "slow piano")])
    clap, _, tags = judges(client)
    heard = level(1)
    for _ in range(2):
        with pytest.raises(JudgeError, match="the clip of p-None: it names nothing"):
            tags.judge(heard, ASKED)
    assert clap.judge(heard, ASKED) == client.values["clap", "slow piano"][0]
    assert len(client.asked) == 1


def test_the_axes_of_a_quality_score_are_columns_of_their_own(tmp_path: Path) -> None:
    """They come with the score's components; a server that sends none leaves them out."""
    axes = {"CE": 7.0, "CU": 7.5, "PC": 5.0, "PQ": 8.0}
    for components in (axes, {}):
        answer = VerifierResult(
            checkpoint=WEIGHTS,
            scores=[Score(value=0.75, components=components)],
            queue_seconds=0,
            compute_seconds=0,
        )
        judge = ServedJudge("quality", WEIGHTS, lambda *_, of=answer: {"quality": of})
        names = [f"quality_{axis.lower()}" for axis in axes]
        found, _ = judge_clip(level(1), ASKED, "baseline", [judge], tmp_path)
        parts = dict(zip(names, components.values(), strict=False))
        assert found == {"judges": {"quality": 0.75} | parts, "unjudged": {}}
    selector = SimpleNamespace(name="tags", checkpoints={"tags": WEIGHTS})
    listed = measures(selector, [judge])  # type: ignore[arg-type]
    assert [m.name for m in listed] == ["tags", "quality", *names]
    assert [m.role for m in listed[1:]] == ["primary judge", *["judge"] * 4]
    assert {m.is_verifier for m in listed[1:]} == {("quality",)}


def test_a_lost_server_is_no_matter_of_one_clip() -> None:
    client, heard = FakeClient(lives=0), level(1)
    (clap,) = judges(client, "clap")
    with pytest.raises(ServerUnreachable):
        clap.judge(heard, ASKED)
    client.lives = 1
    assert np.isfinite(clap.judge(heard, ASKED))


def test_a_served_judge_says_whose_number_it_is() -> None:
    clap, _, tags = judges(FakeClient())
    assert (clap.name, clap.is_verifier, clap.shares_data_with) == ("clap", ("clap",), ())
    assert (tags.is_verifier, tags.shares_data_with) == (("tags",), ("tags_vgg",))
    assert clap.checkpoint == WEIGHTS
    assert clap.higher_is_better
    assert not clap.needs_reference
