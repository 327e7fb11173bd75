"""medoid(tags): how it is named, what it is by brute force, and what it asks of a server."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.connection import ServerError
from src.data.prompts import Prompt
from src.experiments.pool_scoring import list_scorers
from src.experiments.scaling_settings import ExperimentSettings
from src.experiments.settings import BenchmarkSettings
from src.experiments.validity import examinable
from src.methods import METHODS
from src.protocol import EmbeddedScore, Limits, NoScore, Score
from src.reports.pool import report
from src.runs.evaluation import measures
from src.runs.pool import PoolError, load_pool
from src.runs.records import scores_key
from src.runs.settings import parse as parse_arguments
from src.scoring import (
    ExpressionError,
    ScoreInput,
    canonical,
    components,
    parse,
    remote_parts,
)
from src.search import search
from src.tree.node import Failure, SearchResult
from src.verifier import SearchVerifier, build_verifier, medoid
from tests.generator.fake_pool import (
    PROMPTS,
    WEIGHTS,
    FakeClient,
    embedding_of,
    hears,
    made_pool,
    verifier,
)
from tests.generator.fake_search import RATE, FakeGenerator, FakeJudge
from tests.generator.stub_server import TAGS, StubServer, answer_of, clip

NAME = "medoid(tags)"


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(float.__mul__, a, b)) / math.hypot(*a) / math.hypot(*b)


def by_hand(embeddings: list[list[float]]) -> list[float]:
    near = [np.mean([cosine(a, b) for b in embeddings]) for a in embeddings]
    return [own - np.mean(near) for own in near]


def embedded(*embeddings: list[float]) -> list[Score | NoScore]:
    return [EmbeddedScore(value=0.0, embedding=of) for of in embeddings]


class TestName:
    def test_it_has_one_name_and_needs_its_verifier_of_the_server(self) -> None:
        assert canonical(" medoid ( tags )") == canonical(NAME) == NAME
        assert components(NAME) == (NAME,)
        assert remote_parts([NAME]) == ["tags"]
        assert parse_arguments(BenchmarkSettings, ["--verifier", "medoid( tags)"]).verifier == NAME

    def test_it_is_a_member_of_expressions_as_any_verifier(self) -> None:
        for text, name in (
            ("tags + medoid( tags )", "tags+medoid(tags)"),
            ("min(pmi,0.5*medoid(clap)+tags)", "min(pmi,0.5*medoid(clap)+tags)"),
        ):
            assert canonical(text) == name
            assert parse(text).is_relative
        assert components("tags+pmi+medoid(tags)") == ("tags", "pmi", NAME)
        assert remote_parts(("tags", "pmi", NAME, "medoid(clap)")) == ["tags", "clap"]
        assert not parse("tags+pmi").is_relative

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            *((text, "medoid is of one verifier") for text in (
                "medoid", "medoid()", "medoid(tags", "medoid(tags,clap)", "medoid(0.5*tags)",
                "medoid(min(tags,pmi))", "min(pmi,medoid(tags+pmi))",
            )),
            ("medoid(tags))", "'\\+' or the end"),
            ("medoid(perplexity)", "perplexity has no embedding"),
            ("medoid(pmi)", "pmi has no embedding"),
            ("medoid(tags)+medoid(tags)", "names medoid.tags. twice"),
        ],
    )  # fmt: skip
    def test_all_else_is_refused(self, text: str, reason: str) -> None:
        with pytest.raises(ExpressionError, match=reason):
            parse(text)

    @pytest.mark.parametrize("method", ["smc", "waves"])
    def test_methods_that_compare_scores_of_different_sets_refuse_it(
        self, method: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for text in (NAME, f"pmi+{NAME}"):
            with pytest.raises(SystemExit):
                parse_arguments(BenchmarkSettings, ["--verifier", text, "--method", method])
        assert f"--method {method} compares scores" in capsys.readouterr().err

    def test_a_pool_is_scored_by_it_and_it_follows_from_no_sum(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        found = parse_arguments(ExperimentSettings, ["--verifiers", "medoid( tags )", "pmi"])
        assert found.verifiers == (NAME, "pmi")
        with pytest.raises(SystemExit):
            parse_arguments(ExperimentSettings, ["--sums", NAME])
        assert "name it in --verifiers" in capsys.readouterr().err


class TestNumber:
    def test_it_is_the_mean_cosine_to_all_less_that_of_the_average_candidate(self) -> None:
        rows = np.random.default_rng(0).normal(size=(5, 7)).tolist()
        found = medoid(embedded(*rows), ["a"] * 5)
        assert [s.value for s in found] == pytest.approx(by_hand(rows))
        for index, score in enumerate(found):
            others = [cosine(rows[index], of) for i, of in enumerate(rows) if i != index]
            assert score.components == {"similarity": pytest.approx(np.mean(others))}

    def test_a_lone_candidate_has_0_and_two_tie(self) -> None:
        assert medoid(embedded([3.0, 4.0]), ["a"]) == [Score(value=0)]
        first, second = np.random.default_rng(1).normal(size=(2, 50)).tolist()
        one, other = medoid(embedded(first, second), ["a", "a"])
        assert one.value == other.value == 0

    def test_prompts_do_not_count_for_each_other_however_they_are_mixed(self) -> None:
        rows = np.random.default_rng(2).normal(size=(6, 3)).tolist()
        mixed = medoid(embedded(*rows), list("abbaba"))
        for name, places in (("a", [0, 3, 5]), ("b", [1, 2, 4])):
            alone = medoid(embedded(*(rows[i] for i in places)), [name] * 3)
            assert [mixed[i] for i in places] == alone

    def test_who_has_no_score_or_no_direction_is_out_and_not_counted(self) -> None:
        rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        silent = NoScore(reason="the clip is digital silence")
        scores = [*embedded(*rows), silent, *embedded([0.0, 0.0])]
        *found, out, zero = medoid(scores, ["a"] * 5)
        assert [s.value for s in found] == pytest.approx(by_hand(rows))
        assert out == silent
        assert isinstance(zero, NoScore)
        assert "all zeros" in zero.reason

    def test_lengths_do_not_count_as_far_as_floats_go(self) -> None:
        rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        scaled = [[x * by for x in row] for row, by in zip(rows, (1e-300, 1e300, 7.0), strict=True)]
        values = [s.value for s in medoid(embedded(*scaled), ["a"] * 3)]
        assert values == pytest.approx(by_hand(rows))


class TestClient:
    def answer(self, *embeddings: Any) -> Any:
        body = answer_of({"tags": [0.0] * len(embeddings)})
        for score, embedding in zip(body["results"]["tags"]["scores"], embeddings, strict=True):
            score["embedding"] = embedding
        return 200, body, {}

    def score(self, stub: StubServer) -> list[Score | NoScore]:
        own = SearchVerifier(NAME, {NAME: TAGS}, stub.client)
        return own.score([ScoreInput("a", clip(i / 8), -1.0, key="k") for i in range(3)])

    def test_embeddings_of_several_requests_are_put_together(self, stub: StubServer) -> None:
        stub.limits = Limits(max_files=2)
        rows = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
        stub.answers = [self.answer(*rows[:2]), self.answer(rows[2])]
        assert [s.value for s in self.score(stub)] == pytest.approx(by_hand(rows))
        assert [u["asked"]["embeddings"] for u in stub.uploads] == [["tags"]] * 2

    def test_only_the_verifiers_named_are_asked_for_theirs(self, stub: StubServer) -> None:
        stub.answers = [self.answer([1.0])]
        stub.answers[0][1]["results"]["clap"] = answer_of({"clap": [1.0]})["results"]["clap"]
        weights = dict.fromkeys(("clap", "tags"), TAGS)
        found = stub.client.score(weights, ["a"], [clip()], ["tags"])
        assert stub.uploads[0]["asked"]["embeddings"] == ["tags"]
        assert [type(found[name].scores[0]) for name in weights] == [Score, EmbeddedScore]

    def test_a_server_that_knows_of_none_is_told_by_its_version(self, stub: StubServer) -> None:
        with pytest.raises(ServerError, match="no embeddings of tags: it is of a version that"):
            self.score(stub)

    @pytest.mark.parametrize("second", [[1.0], [1.0, math.nan], [math.inf, 1.0]])
    def test_hostile_embeddings_are_refused(self, stub: StubServer, second: list[float]) -> None:
        stub.answers = [self.answer([1.0, 2.0], second, [0.0, 1.0])]
        with pytest.raises(ServerError, match="of tags that are not finite numbers, equally many"):
            self.score(stub)


class TestSearch:
    def found(self, method: str, prompts: list[Prompt], n: int = 4) -> list[SearchResult | Failure]:
        selector = build_verifier(NAME, FakeGenerator.checkpoint, FakeClient())  # type: ignore[arg-type]
        parameters = {p.name: p.default for p in METHODS[method].parameters}
        plan = METHODS[method].make_plan(n, 0.2, 0.1, RATE, parameters)
        return search(plan, prompts, FakeGenerator(), selector, seed=1, keep_leaves=True)

    def test_the_winner_is_the_nearest_to_the_others_of_its_prompt(self) -> None:
        for result in self.found("best_of_n", PROMPTS):
            assert isinstance(result, SearchResult)
            values = by_hand([embedding_of(leaf) for leaf in result.leaves.values()])
            assert [node.score.value for node in result.nodes] == pytest.approx(values)
            assert result.winner.slot == int(np.argmax(values))

    @pytest.mark.parametrize("method", ["best_of_n", "sbs", "halving", "dvts"])
    def test_prompts_with_one_text_in_one_group_are_searched_as_if_alone(self, method: str) -> None:
        same = [Prompt(id=f"p{i}", text="a jig", key=f"k{i}") for i in range(2)]
        together = self.found(method, same)
        for prompt, result in zip(same, together, strict=True):
            (alone,) = self.found(method, [prompt])
            assert [node.score for node in result.nodes] == [node.score for node in alone.nodes]

    def test_one_sample_is_the_average_candidate_and_the_report_says_so(self) -> None:
        (result,) = self.found("baseline", PROMPTS[:1])
        assert (result.winner.slot, result.winner.score) == (0, Score(value=0))
        selector = build_verifier(NAME, FakeGenerator.checkpoint, FakeClient())  # type: ignore[arg-type]
        own, judge = measures(selector, [FakeJudge("again", own=("tags",))])
        assert (own.name, own.is_verifier, own.checkpoint[:4]) == (NAME, ("tags",), "fake")
        assert "0 for the average, and for a lone one" in own.note
        assert judge.relation(own) == "own"


class TestPool:
    def scorers(self) -> list:
        return list_scorers(["tags", NAME], [], {"tags": WEIGHTS}, (0.1,), FakeGenerator())  # type: ignore[arg-type]

    def test_a_prompts_clips_are_sent_once_for_both_and_counted_together(
        self, tmp_path: Path
    ) -> None:
        client, generator = FakeClient(), FakeGenerator()
        with made_pool(tmp_path, generator) as run:
            assert hears(run, self.scorers(), client) == 0
            assert client.asked == [
                (("tags",), p.text, frames) for p in PROMPTS for frames in (20, 5)
            ]
            pool = load_pool(run.folder)
            for prompt in PROMPTS:
                for frames, seconds in ((20, None), (5, 0.1)):
                    heard = generator.render(_tokens(run.folder, prompt, frames))
                    expected = by_hand([embedding_of(one) for one in heard])
                    found = pool.values(NAME, seconds)[prompt.id]
                    assert found == pytest.approx(expected, abs=1e-6)
            assert NAME in report(pool, [], (1, 2))
            assert "relative to all clips of the prompt in this pool" in pool.measures[NAME].note
            assert pool.measures["tags"].relation(pool.measures[NAME]) == "own"

    def test_a_clip_in_which_the_model_overflowed_is_none_of_the_others(
        self, tmp_path: Path
    ) -> None:
        with made_pool(tmp_path) as run:
            hears(run, [verifier("tags")], FakeClient())
            for record in [r for r in run.records.values() if r["kind"] == "candidates"]:
                record["log_probs"]["whole"][1] = None
                run.append(record)
            hears(run, self.scorers(), FakeClient())
            found = run.latest(scores_key(NAME), PROMPTS[0].id)
            heard = FakeGenerator().render(_tokens(run.folder, PROMPTS[0], 20))
            expected = by_hand([embedding_of(heard[i]) for i in (0, 2, 3)])
            first, out, *others = found["values"]["whole"]
            assert [first, *others] == pytest.approx(expected, abs=1e-6)
            assert out is None
            assert "the model overflowed" in found["reason"]

    def test_one_that_was_not_scored_names_the_command_and_has_no_validity(
        self, tmp_path: Path
    ) -> None:
        with made_pool(tmp_path) as run:
            hears(run, [verifier("tags")], FakeClient())
            with pytest.raises(PoolError, match=r"--verifiers 'medoid\(tags\)'"):
                load_pool(run.folder).values(NAME)
        assert [scorer.name for scorer in examinable(self.scorers())] == ["tags"]


def _tokens(folder: Path, prompt: Prompt, frames: int) -> Any:
    import torch

    from src.runs.pool import load_tokens

    return torch.from_numpy(load_tokens(folder, prompt.id)[:, :, :frames]).long()
