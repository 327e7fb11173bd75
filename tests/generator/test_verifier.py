"""Verifiers as a search sees them: expressions, perplexity, weighted sums.

And the constants of sums: what is measured, where it is kept, when it counts.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from src import verifier as verifiers
from src.connection import ServerError
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.experiments.calibration import CalibrationSettings, calibrate
from src.protocol import Checkpoint, NoScore, Score
from src.runs import build
from src.scoring import ExpressionError, ScoreInput, parse
from src.verifier import (
    Calibration,
    CalibrationError,
    Constant,
    build_verifier,
    calibration_file,
    load_calibration,
)
from tests.generator.fake_pool import WEIGHTS, FakeClient
from tests.generator.fake_search import FakeGenerator, Narrow
from tests.generator.stub_server import (
    GENERATOR,
    TAGS,
    StubServer,
    answer_of,
    found,
    inputs,
)


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "weights"),
        [
            ("tags+perplexity", {"tags": 1.0, "perplexity": 1.0}),
            (" 0.7 * tags + 0.3*perplexity ", {"tags": 0.7, "perplexity": 0.3}),
            ("tags_msd+2e-1*clap", {"tags_msd": 1.0, "clap": 0.2}),
            ("0.5*tags", {"tags": 0.5}),
        ],
    )
    def test_sums_are_read_with_their_weights(self, text: str, weights: dict[str, float]) -> None:
        assert {part.name: part.weight for part in parse(text).members} == weights

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "write tags"),
            ("tags+", "write tags"),
            ("+tags", "write tags"),
            ("tags perplexity", "write tags"),
            ("tags-perplexity", "no verifier's name"),
            ("tags*0.5", "a weight is written 0.7"),
            ("tags+tags", "names tags twice"),
            ("0*tags", "not a positive number"),
            ("nan*tags", "not a positive number"),
            ("inf*tags", "not a positive number"),
            ("x*tags", "not a positive number"),
            ("-1*tags", "not a positive number"),
        ],
    )
    def test_other_expressions_are_refused_with_the_way_to_write_one(
        self, text: str, reason: str
    ) -> None:
        with pytest.raises(ExpressionError, match=reason):
            parse(text)


class TestLikelihood:
    def test_perplexity_is_exp_of_the_mean_log_probability_and_hears_nothing(self) -> None:
        verifier = build_verifier("perplexity", GENERATOR, None, None)
        scores = verifier.score([ScoreInput("a", None, math.log(0.25))])
        assert found(scores) == pytest.approx([0.25])
        assert not verifier.needs_audio
        assert verifier.checkpoints == {"perplexity": GENERATOR}

    def test_pmi_is_how_much_likelier_the_text_makes_the_clip_in_nats(self) -> None:
        verifier = build_verifier("pmi", GENERATOR, None, None)
        (score,) = verifier.score([ScoreInput("a", None, -2.0, -2.5)])
        assert score.value == 0.5
        assert score.components == {"log_prob": -2.0, "unconditional": -2.5}
        assert verifier.checkpoints == {"pmi": GENERATOR}

    def test_pmi_without_guidance_makes_no_number_up(self) -> None:
        verifier = build_verifier("pmi", GENERATOR, None, None)
        (outcome,) = verifier.score([ScoreInput("a", None, -2.0)])
        assert outcome == NoScore(reason="the log-probabilities are {'log_prob': -2.0}")

    def test_there_is_none_where_the_log_probability_is_not_finite(self) -> None:
        items = [ScoreInput("a", None, -1.0), ScoreInput("b", None, math.nan)]
        outcomes = build_verifier("perplexity", GENERATOR, None, None).score(items)
        assert [type(outcome) for outcome in outcomes] == [Score, NoScore]


class TestSums:
    def calibration(self, **deviations: float) -> Calibration:
        return Calibration(
            generator=GENERATOR,
            constants={
                name: Constant.model_construct(
                    checkpoint=TAGS if name == "tags" else GENERATOR, deviation=deviation
                )
                for name, deviation in deviations.items()
            },
        )

    def test_parts_are_weighted_in_units_of_their_deviation(self, stub: StubServer) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        verifier = build_verifier("0.7*tags+0.3*perplexity", GENERATOR, stub.client, known)
        score = verifier.score(inputs(2))[1]
        assert score.value == pytest.approx(0.7 * 0.125 / 0.5 + 0.3 * math.exp(-2) / 0.1)
        assert score.components == pytest.approx({"tags": 0.125, "perplexity": math.exp(-2)})
        assert verifier.checkpoints == {"tags": TAGS, "perplexity": GENERATOR}

    def test_without_a_part_there_is_no_sum_and_the_part_says_why(self, stub: StubServer) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        verifier = build_verifier("tags+perplexity", GENERATOR, stub.client, known)
        body = answer_of({"tags": [0.5, 0.5]})
        body["results"]["tags"]["scores"][1] = {"reason": "digital silence"}
        stub.answers = [(200, body, {})]
        first, second = verifier.score(inputs(2))
        assert isinstance(first, Score)
        assert second == NoScore(reason="tags: digital silence")

    def test_a_single_name_needs_no_constants(self, stub: StubServer) -> None:
        verifier = build_verifier("tags", None, stub.client, None)
        assert found(verifier.score(inputs(2))) == [0.0, 0.125]
        assert build_verifier(" perplexity", GENERATOR, None, None).name == "perplexity"

    def test_absent_constants_name_the_command_that_makes_them(self, stub: StubServer) -> None:
        known = self.calibration(perplexity=0.1)
        command = r"src\.experiments\.calibration --profile builtin --verifiers tags perplexity"
        with pytest.raises(CalibrationError, match=command):
            build_verifier("tags+perplexity", GENERATOR, stub.client, known)

    def test_constants_of_other_weights_do_not_count(self, stub: StubServer) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        other = Checkpoint(name="facebook/musicgen-small", sha256="33" * 32)
        with pytest.raises(CalibrationError, match="--model facebook/musicgen-small"):
            build_verifier("tags+perplexity", other, stub.client, known)
        known.constants["tags"] = known.constants["perplexity"]
        with pytest.raises(CalibrationError, match="the spread of tags"):
            build_verifier("tags+perplexity", GENERATOR, stub.client, known)

    def test_a_verifier_that_is_not_hosted_is_named_with_what_is(self, stub: StubServer) -> None:
        with pytest.raises(ServerError, match=r"does not host clap; it hosts tags"):
            build_verifier("clap", GENERATOR, stub.client, None)


# The constants of sums

MUSICGEN = Checkpoint(name="facebook/musicgen-small", sha256="ab" * 32)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """The client that `calibrate` gets, with a fake generator."""
    client = FakeClient(refuses=[("tags", "refused")])
    monkeypatch.setattr(build, "load", lambda settings: Narrow())
    monkeypatch.setattr(build, "connect", lambda settings, names, stack: client)
    return client


def settings(tmp_path: Path, *verifiers: str) -> CalibrationSettings:
    return CalibrationSettings(
        profile="builtin",
        prompts="builtin",
        verifiers=verifiers,
        candidates=4,
        duration=1.0,
        output=tmp_path,
    )


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=text, text=text, key=text) for text in texts]


def test_the_constant_is_the_deviation_within_prompts_whatever_their_means(
    tmp_path: Path, asked: FakeClient
) -> None:
    found, _ = calibrate(settings(tmp_path, "tags", "perplexity"), prompts("a", "b", "c"))
    pools = np.array([asked.values["tags", prompt] for prompt in ("a", "b", "c")])
    assert pools.shape == (3, 4)
    expected = np.sqrt(pools.var(axis=1, ddof=1).mean())
    assert found.constants["tags"].deviation == pytest.approx(expected)
    assert found.constants["tags"].mean == pytest.approx(pools.mean())
    assert found.constants["perplexity"].checkpoint == FakeGenerator.checkpoint
    assert found.constants["perplexity"].deviation > 0
    assert [names for names, _, _ in asked.asked] == [("tags",)] * 2  # by groups of prompts


def test_a_constant_tells_where_it_came_from(tmp_path: Path, asked: FakeClient) -> None:
    constant = calibrate(settings(tmp_path, "tags"), prompts("a", "refused", "b"))[0].constants[
        "tags"
    ]
    assert constant.checkpoint == WEIGHTS
    assert (constant.num_prompts, constant.candidates, constant.duration) == (2, 4, 1.0)
    assert (constant.seed, constant.prompts) == (42, "builtin")
    assert constant.date.endswith("Z")
    assert len(constant.prompts_sha256) == 64


def test_measuring_one_verifier_keeps_the_others(tmp_path: Path, asked: FakeClient) -> None:
    first, path = calibrate(settings(tmp_path, "tags"), prompts("a"))
    path.parent.mkdir(parents=True)
    path.write_text(first.model_dump_json())
    second, again = calibrate(settings(tmp_path, "perplexity"), prompts("a"))
    assert again == path
    assert second.constants["tags"] == first.constants["tags"]
    assert set(second.constants) == {"tags", "perplexity"}


def test_a_verifier_that_never_varies_is_an_error(
    tmp_path: Path, asked: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    silence = Clip(np.zeros((1, 50), np.float32), 50)
    monkeypatch.setattr(FakeGenerator, "render", lambda self, tokens: [silence] * len(tokens))
    with pytest.raises(CalibrationError, match="does not vary"):
        calibrate(settings(tmp_path, "tags"), prompts("a"))


def test_each_generator_has_its_file_and_the_built_in_one_beside_its_weights(
    tmp_path: Path,
) -> None:
    assert calibration_file(GENERATOR, tmp_path) == verifiers.BUILTIN_FILE
    assert calibration_file(MUSICGEN, tmp_path) == tmp_path / "musicgen-small-abababab.json"


def test_what_was_never_measured_or_of_other_weights_is_empty_and_what_is_damaged_an_error(
    tmp_path: Path,
) -> None:
    path = calibration_file(MUSICGEN, tmp_path)
    assert load_calibration(MUSICGEN, tmp_path).constants == {}
    other = Calibration(generator=Checkpoint(name=MUSICGEN.name, sha256="00" * 32))
    path.write_text(other.model_dump_json())
    assert load_calibration(MUSICGEN, tmp_path).generator == MUSICGEN
    path.write_text('{"generator": ')
    with pytest.raises(CalibrationError, match="cannot be used"):
        load_calibration(MUSICGEN, tmp_path)


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_is_a_positive_number(deviation: float) -> None:
    fields = json.loads(Constant.model_construct(checkpoint=WEIGHTS).model_dump_json())
    with pytest.raises(ValueError, match="deviation"):
        Constant.model_validate({**fields, "deviation": deviation})
