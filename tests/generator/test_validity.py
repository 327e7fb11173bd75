"""What measures are asked about references: ranks, negatives, damage, a pool's whole answers."""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.signal import stft
from scipy.stats import ttest_1samp

from src.connection import ServerUnreachable
from src.data.audio import Clip
from src.data.prompts import Selection, load_prompts
from src.experiments.degraded import DEGRADATIONS, degraded, faster, lowpassed, noisy, shuffled
from src.experiments.dry_run import Row, Trial
from src.experiments.pool_generating import generate
from src.experiments.pool_scoring import Hearers, list_scorers, score
from src.experiments.references import load_references
from src.experiments.scaling import open_pool
from src.experiments.scaling_dry_run import validity_rows
from src.experiments.validity import HALVED, log_probs, validate
from src.generator import Generator, load_generator
from src.protocol import VerifierInfo, VerifierList, VerifierResult
from src.reports.pool import report
from src.runs.pool import load_pool
from src.runs.run import Run
from src.runs.work import here
from src.stats.identification import detectable, hard_negatives, prompts_needed, rank
from tests.generator.fake_pool import FakeClient, settings_for, verifier

RATE = 16_000
ASPECTS = {
    "a": ("harp", "slow", "no drums"),
    "b": ("harp", "slow", "drums"),
    "c": ("harp", "fast tempo", "no drums"),
    "d": ("sitar", "fast", "drums"),
    "twin": ("harp", "slow", "no drums"),
    "bare": (),
}


def noise(seconds: float = 2.0) -> Clip:
    samples = np.random.default_rng(1).standard_normal((1, round(seconds * RATE)))
    return Clip((0.1 * samples).astype(np.float32), RATE)


@pytest.mark.parametrize("seed", range(20))
def test_a_rank_is_what_counting_pairs_and_drawing_lots_among_ties_would_give(seed: int) -> None:
    random = np.random.default_rng(seed)
    own, wrong = float(random.integers(6)), random.integers(6, size=7).astype(float)
    first, share = rank(own, [*wrong, math.nan])
    assert share == sum((own > w) + (own == w) / 2 for w in wrong) / len(wrong)
    assert first == (own == max(own, *wrong)) / [own, *wrong].count(own)


def test_without_a_number_there_is_no_rank() -> None:
    for own, wrong in ((math.nan, [1.0]), (1.0, []), (1.0, [math.nan])):
        assert all(math.isnan(x) for x in rank(own, wrong))


def test_hard_negatives_share_words_or_differ_in_one_trait_and_a_twin_is_none() -> None:
    found = hard_negatives(ASPECTS)
    assert found["similar"]["a"] == ["b", "c", "d"]  # as many words shared: in the table's order
    assert found["drums"]["a"] == ["b"]
    assert found["tempo"]["a"] == ["c"]
    assert found["tempo"]["c"] == ["a", "b", "twin"]
    assert found["drums"]["d"] == found["similar"]["bare"] == []


def test_with_the_prompts_it_needs_a_gain_is_clear_four_times_in_five() -> None:
    random = np.random.default_rng(0)
    size = math.ceil(prompts_needed(0.8**2, 0.2))
    gains = 0.2 + 0.8 * random.standard_normal((2000, size))
    assert np.mean(ttest_1samp(gains, 0, axis=1).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("snr", [20, 0])
def test_noise_is_as_loud_as_it_says_beside_the_clip(snr: float) -> None:
    clip = noise()
    added = noisy(clip, snr).samples - clip.samples
    assert clip.level - Clip(added, RATE).level == pytest.approx(snr, abs=0.01)


def test_a_lowpassed_clip_has_nothing_above_and_all_below() -> None:
    clip = noise()
    before, after = (np.abs(np.fft.rfft(c.samples[0])) ** 2 for c in (clip, lowpassed(clip, 2000)))
    hertz = np.fft.rfftfreq(clip.samples.shape[1], 1 / RATE)
    kept = [after[band].sum() / before[band].sum() for band in (hertz < 1500, hertz > 3000)]
    assert kept == [pytest.approx(1, abs=0.02), pytest.approx(0, abs=1e-4)]


def test_shuffled_segments_are_the_same_in_another_order_and_the_rest_stays() -> None:
    clip = noise(2.03)
    after = shuffled(clip, 0.1).samples[0]
    before = clip.samples[0]
    own, theirs = (list(map(tuple, x[: 20 * 1600].reshape(20, -1))) for x in (before, after))
    assert own != theirs
    assert sorted(own) == sorted(theirs)
    assert list(after[20 * 1600 :]) == list(before[20 * 1600 :])


def test_a_semitone_up_is_a_twelfth_of_an_octave() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(2 * RATE) / RATE)[None].astype(np.float32)
    higher = faster(Clip(tone, RATE), 2 ** (1 / 12))
    peak = np.abs(np.fft.rfft(higher.samples[0])).argmax() / higher.seconds
    assert peak == pytest.approx(1000 * 2 ** (1 / 12), abs=1)


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator("builtin", "cpu")


def test_the_codec_keeps_a_clips_length_and_loses_more_with_fewer_books(
    generator: Generator, tmp_path: Path
) -> None:
    prompts = load_prompts("builtin", Selection(limit=1), tmp_path)
    (own,) = load_references(prompts, 2.0, generator, tmp_path)
    copies = degraded(own.whole, generator)
    assert copies.keys() == {*DEGRADATIONS, "codec", "codec, 1 book"}
    same = [copy for name, copy in copies.items() if name != "semitone up"]
    assert {copy.samples.shape for copy in same} == {own.whole.samples.shape}
    clips = [own.whole, copies["codec"], copies["codec, 1 book"]]
    levels = [np.log(0.01 + np.abs(stft(c.samples[0], RATE)[2])) for c in clips]
    lost = [np.abs(of - levels[0]).mean() for of in levels[1:]]
    assert 0 < lost[0] < lost[1]


def test_given_tokens_are_as_likely_as_when_they_were_sampled(generator: Generator) -> None:
    batch = generator.begin(["a slow harp", "fast drums"], ["1", "2"], 2, 30, seed=3)
    batch.advance(30)
    texts = ["a slow harp"] * 2 + ["fast drums"] * 2
    found = log_probs(generator, batch.tokens(), texts).mean(-1)
    sampled = [batch.mean_log_prob(conditional=of) for of in (True, False)]
    torch.testing.assert_close(found, torch.stack(sampled), rtol=1e-4, atol=1e-4)
    alone = log_probs(generator, batch.tokens(), texts, guided=False)
    torch.testing.assert_close(alone.mean(-1)[0], sampled[0], rtol=1e-4, atol=1e-4)


class Knowing(FakeClient):
    """A server: of its verifiers, deaf does not read prompts. Counts the clips that each heard."""

    def score(self, verifiers, prompts, clips, embeddings=()) -> dict[str, VerifierResult]:
        self.counted = getattr(self, "counted", Counter())
        self.counted.update(list(verifiers) * len(clips))
        return super().score(verifiers, prompts, clips, embeddings)

    def listing(self) -> VerifierList:
        return VerifierList.model_construct(
            verifiers=[
                VerifierInfo.model_construct(name=name, needs_text=name == "tags")
                for name in ("tags", "deaf")
            ]
        )


@pytest.fixture
def pool(tmp_path: Path, generator: Generator) -> Iterator[tuple[Run, list]]:
    prompts = load_prompts("builtin", Selection(limit=2), tmp_path)
    settings = settings_for(tmp_path, num_samples=2, duration=0.6, prefixes=("none",))
    with open_pool(settings, prompts, generator) as run:
        generate(run, prompts, generator, settings)
        yield run, prompts


@pytest.mark.slow
def test_every_measure_is_asked_once_about_each_reference_and_goes_on_after_a_stop(
    pool: tuple[Run, list], generator: Generator
) -> None:
    run, prompts = pool
    scorers = [verifier(name, prefixes=()) for name in ("tags", "deaf")]
    scorers += list_scorers([], ["msd_kld"], {}, (), generator)
    hearers = Hearers({s.name: s for s in scorers}, {}, generator, Knowing())  # type: ignore[arg-type]
    score(run, prompts, hearers, here(hearers))
    asked = scorers, ("perplexity", "pmi"), generator
    with pytest.raises(ServerUnreachable):
        validate(run, prompts, *asked, Knowing(lives=3))
    before = [r for r in run.records.values() if r["kind"] == "validity"]
    assert [r["measure"] for r in before] == [
        "tags",
        "deaf",
        "msd_kld",
        "perplexity",
        "pmi",
        "tags",
    ]
    client = Knowing()
    validate(run, prompts, *asked, client)
    found = [r for r in run.records.values() if r["kind"] == "validity"]
    assert found[: len(before)] == before
    assert len(found) == 2 * 5
    assert [names for names, *_ in client.asked] == [("deaf",)]
    validate(run, prompts, *asked, None)  # nothing is lacking
    assert [r for r in run.records.values() if r["kind"] == "validity"] == found
    answers = load_pool(run.folder).validity
    ids = [prompt.id for prompt in prompts]
    for own in ids:
        deaf, heard = answers["deaf"][own], answers["msd_kld"][own]
        assert len({*deaf["scores"].values()}) == 1
        assert [len(half) for half in heard["halves"]] == [HALVED] * 2
        assert [len(of) for of in heard["own_clips"].values()] == [4, 4]
    kld = np.array([[answers["msd_kld"][i]["scores"][j] for j in ids] for i in ids])
    shares = [np.mean([kld[i, j] > kld[j, j] for i in range(2) if i != j]) for j in range(2)]
    text = report(load_pool(run.folder), [], (1, 2))
    assert "What each verifier and judge can hear: 2 references" in text
    assert (run.folder / "validity.png").exists()
    table = pd.read_csv(run.folder / "validity.csv").set_index(["measure", "test", "kind"])
    assert table.value["msd_kld", "identification", "auc"] == pytest.approx(np.mean(shares))
    assert table.value["deaf", "identification", "auc"] == 0.5
    assert table.prompts["pmi", "discrimination", "reversed"] == 2


class Counting(Trial):
    """A second for each clip that is heard anew."""

    rendering = 0.0  # type: ignore[assignment]

    def scoring(self, verifier: object) -> float:
        return 1.0

    def judging(self, judges: object, again: bool = False) -> float:
        return float(not again)


def test_what_validity_has_left_is_what_it_then_asks(
    pool: tuple[Run, list], generator: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, prompts = pool
    settings: Any = SimpleNamespace(candidates=4, guidance=3.0)
    scorers = [verifier(name, prefixes=()) for name in ("tags", "deaf")]
    scorers += list_scorers([], ["msd_kld"], {}, (), generator)
    client, judge = Knowing(), scorers[-1].judge
    assert judge is not None
    trial = Counting(generator, prompts, frames=30)

    def rows() -> list[Row]:
        asked = settings, scorers, run, generator, client, trial
        return validity_rows(*asked)  # type: ignore[arg-type]

    tags, deaf, kld, *likelihoods = rows()
    assert [row.left for row in (tags, deaf, kld, *likelihoods)] == [2] * 5
    compare, calls = judge.number, []
    monkeypatch.setattr(judge, "number", lambda *of: calls.append(of) or compare(*of))
    before = judge.listener.hear.cache_info().misses
    validate(run, prompts, scorers, ("perplexity", "pmi"), generator, client)
    assert (tags.clips, deaf.clips) == (client.counted["tags"], client.counted["deaf"])
    assert kld.clips == len(calls)
    halves = 2 * 2 * HALVED  # of clips, and so half as long
    assert kld.seconds == judge.listener.hear.cache_info().misses - before - halves / 2
    assert {row.clips for row in rows()} == {0}


def test_a_gain_that_so_many_prompts_detect_is_one_that_needs_so_many() -> None:
    assert prompts_needed(0.6, detectable(0.6, 40)) == pytest.approx(40)
