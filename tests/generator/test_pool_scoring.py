"""Each candidate is scored once by every measure, and what is there is never scored again."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from src.connection import ServerError, ServerUnreachable
from src.experiments.pool_scoring import list_scorers
from src.reports.pool import report
from src.runs.pool import load_pool
from src.runs.records import RECORDS, scores_key
from src.runs.run import Run
from tests.generator.fake_pool import (
    OTHER_WEIGHTS,
    PROMPTS,
    WEIGHTS,
    FakeClient,
    hears,
    judge,
    made_pool,
    verifier,
    without_clock,
)
from tests.generator.fake_search import FakeGenerator

TWO = [verifier("tags"), verifier("clap")]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with made_pool(tmp_path) as run:
        yield run


def test_clips_are_rendered_once_a_prefix_and_sent_once_for_all_verifiers(run: Run) -> None:
    client, generator = FakeClient(), FakeGenerator()
    assert hears(run, [*TWO, judge("far")], client, generator) == 0
    both = ("tags", "clap")
    assert client.asked == [(both, p.text, frames) for p in PROMPTS for frames in (20, 5, 10)]
    assert generator.lengths == [20, 5, 10] * len(PROMPTS)
    pool = load_pool(run.folder)
    assert list(pool.measures) == ["perplexity", "pmi", "tags", "clap", "far"]
    assert pool.prefixes == (0.1, 0.2)
    assert pool.values("far", 0.1) == {}
    # a clip's share of one request, its wait and its own model
    assert pool.seconds("tags") == pytest.approx((4 + 0.5 + 1.5) / 4, abs=0.1)


def test_a_new_verifier_of_an_old_pool_is_the_only_one_that_is_asked(run: Run) -> None:
    hears(run, TWO, FakeClient())
    before, client = list(run.records.values()), FakeClient()
    hears(run, [*TWO, verifier("muq", prefixes=())], client)
    assert client.asked == [(("muq",), p.text, 20) for p in PROMPTS]
    assert list(run.records.values())[: len(before)] == before


def test_a_new_prefix_is_scored_alone_and_what_was_scored_stays(run: Run) -> None:
    hears(run, [verifier("tags")], FakeClient())
    before, client = load_pool(run.folder), FakeClient()
    hears(run, [verifier("tags", prefixes=(0.1, 0.3))], client)
    assert client.asked == [(("tags",), p.text, 15) for p in PROMPTS]
    after = load_pool(run.folder)
    assert after.prefixes == (0.1, 0.2, 0.3)
    assert after.seconds("tags") == before.seconds("tags")
    for prompt, values in before.values("tags").items():
        assert list(after.values("tags")[prompt]) == list(values)


def test_other_weights_score_every_prompt_anew_and_are_never_mixed_with_the_old(run: Run) -> None:
    hears(run, TWO, FakeClient())
    new = FakeClient(lives=3, checkpoint=OTHER_WEIGHTS)
    with pytest.raises(ServerUnreachable):
        hears(run, [verifier("tags", OTHER_WEIGHTS)], new)
    half = load_pool(run.folder)
    assert list(half.values("tags")) == [PROMPTS[0].id]
    assert half.measures["tags"].checkpoint == "fake (44444444)"
    assert len(half.values("clap")) == len(PROMPTS)
    hears(run, [verifier("tags", OTHER_WEIGHTS)], FakeClient(checkpoint=OTHER_WEIGHTS))
    assert len(load_pool(run.folder).values("tags")) == len(PROMPTS)


def test_a_judge_of_another_definition_hears_every_prompt_anew(run: Run) -> None:
    old, other = judge("far"), judge("near")
    hears(run, [old, other], FakeClient())
    new = replace(old, measure=replace(old.measure, definition="loud"))
    assert hears(run, [new, other], FakeClient()) == 0
    heard = [scorer.judge.calls for scorer in (old, other)]  # type: ignore[union-attr]
    assert heard == [2 * 4 * len(PROMPTS), 4 * len(PROMPTS)]
    assert load_pool(run.folder).measures["far"].origin == "fake (22222222), loud"


def test_weights_that_change_while_a_pool_is_scored_end_the_run(run: Run) -> None:
    with pytest.raises(ServerError, match="now scores with other weights"):
        hears(run, [verifier("tags")], FakeClient(checkpoint=OTHER_WEIGHTS))


def test_a_prompt_that_one_verifier_refuses_is_scored_by_the_others(run: Run) -> None:
    refusing = FakeClient(refuses=[("tags", "a jig")])
    assert hears(run, [*TWO, judge("far")], refusing) == 1
    record = run.latest(scores_key("tags"), "jig")
    assert record is not None
    assert record["status"] == "failed"
    assert record["reason"] == (
        "candidate 0: it names nothing that can be heard (4 candidates have no number)"
    )
    # who refuses the whole clip is not asked about its beginnings
    assert [names for names, text, _ in refusing.asked if text == "a jig"] == [
        *(("tags", "clap"), ("clap",), ("clap",))
    ]
    pool = load_pool(run.folder)
    assert list(pool.values("tags")) == ["waltz", "reel"]
    assert pool.seconds("clap") == pytest.approx((4 + 0.5 + 1.5) / 4, abs=0.1)
    assert list(pool.values("clap")) == list(pool.values("far")) == [p.id for p in PROMPTS]

    lines = (run.folder / RECORDS).read_bytes()
    assert hears(run, TWO, refusing) == 1
    assert (run.folder / RECORDS).read_bytes() == lines  # the same refusal is not told twice
    assert hears(run, TWO, FakeClient()) == 0
    assert len(load_pool(run.folder).values("tags")) == len(PROMPTS)


def test_a_candidate_without_a_score_is_out_alone_and_is_not_asked_about_again(run: Run) -> None:
    hears(run, TWO, probe := FakeClient())
    out = probe.values["tags", "a jig"][2]  # of the whole clips, which come first
    hears(
        run,
        [verifier("tags", OTHER_WEIGHTS), judge("far")],
        FakeClient(checkpoint=OTHER_WEIGHTS, unheard=[("tags", "a jig", out)]),
    )
    record = run.latest(scores_key("tags"), "jig")
    assert record is not None
    assert (record["status"], record["values"]["whole"][2]) == ("ok", None)
    assert record["reason"].startswith(f"candidate 2: {out:g} is unheard of")
    pool = load_pool(run.folder)
    assert np.isnan(pool.values("tags")["jig"]).tolist() == [False, False, True, False]
    own, seen = pool.pair("tags", "far")
    assert np.isnan(own[1]).tolist() == np.isnan(seen[1]).tolist() == [False, False, True, False]
    assert "tags: no number for 1 of 12 candidates" in report(pool, [], (1, 2))

    again = FakeClient(checkpoint=OTHER_WEIGHTS)
    assert hears(run, [verifier("tags", OTHER_WEIGHTS)], again) == 0
    assert again.asked == []


def test_a_candidate_in_which_the_model_overflowed_is_out_of_every_measure(tmp_path: Path) -> None:
    def overflows(tokens: list[int]) -> bool:
        return any(token % 13 == 0 for token in tokens)

    with made_pool(tmp_path, FakeGenerator(overflows=overflows)) as run:
        hears(run, [*TWO, judge("far")], FakeClient())
        pool = load_pool(run.folder)
    out = {
        prompt.id: [overflows(clip[0].tolist()) for clip in pool.tokens(prompt.id)]
        for prompt in PROMPTS
    }
    some = {name: flags for name, flags in out.items() if not all(flags)}
    assert 0 < len(some) < len(out)
    assert any(any(flags) for flags in some.values())
    for name in ("perplexity", "pmi", "tags", "clap", "far"):
        found = {prompt: np.isnan(x).tolist() for prompt, x in pool.values(name).items()}
        assert found == some
        assert set(pool.reasons[name]) == out.keys() - some.keys()


def test_a_lost_server_loses_no_score_and_the_rest_is_as_if_it_had_stayed(
    run: Run, tmp_path: Path
) -> None:
    with pytest.raises(ServerUnreachable):
        hears(run, TWO, FakeClient(lives=4))
    assert len(load_pool(run.folder).values("tags")) == 1
    client = FakeClient()
    hears(run, TWO, client)
    assert len(client.asked) == 6
    with made_pool(tmp_path / "whole") as whole:
        hears(whole, TWO, FakeClient())
        assert without_clock(run.records.values()) == without_clock(whole.records.values())


def test_a_judge_without_a_number_for_a_candidate_has_none_for_the_prompt(run: Run) -> None:
    assert hears(run, [judge("far", problem="no reference"), judge("near")], FakeClient()) == 3
    pool = load_pool(run.folder)
    assert list(pool.measures) == ["perplexity", "pmi", "near"]
    record = run.latest(scores_key("far"), "jig")
    assert record is not None
    assert record["values"] == {}
    assert record["reason"] == "candidate 0: no reference (4 candidates have no number)"


def test_a_verifier_that_judged_before_becomes_a_verifier(run: Run) -> None:
    served = list_scorers((), ["tags"], {"tags": WEIGHTS}, (), "cpu")
    hears(run, served, FakeClient())
    assert load_pool(run.folder).measures["tags"].role == "judge"
    client = FakeClient()
    hears(run, [verifier("tags", prefixes=())], client)
    assert client.asked == []
    assert load_pool(run.folder).measures["tags"].role == "verifier"


def test_a_verifier_that_is_asked_to_judge_too_is_listed_once_as_verifier() -> None:
    hosted = {"tags": WEIGHTS, "clap": WEIGHTS}
    found = list_scorers(["tags"], ["clap", "tags"], hosted, (0.1,), "cpu")
    assert [(s.name, s.measure.role, s.prefixes) for s in found] == [
        ("tags", "verifier", (0.1,)),
        ("clap", "judge", ()),
    ]
    assert found[0].measure.shares_data_with == ("tags_vgg",)
