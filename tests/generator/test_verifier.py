"""Verifiers as a search sees them: expressions, perplexity, weighted sums."""

import math

import pytest

from src.client import PromptRefused, ServerClient, ServerError
from src.protocol import Checkpoint, Score
from src.scoring import ExpressionError, ScoreInput, components, score_or_refuse
from src.verifier import Calibration, CalibrationError, Constant, build_verifier
from tests.generator.stub_server import GENERATOR, TAGS, found, inputs


class TestExpressions:
    @pytest.mark.parametrize(
        ("text", "weights"),
        [
            ("tags", {"tags": 1.0}),
            ("tags+perplexity", {"tags": 1.0, "perplexity": 1.0}),
            (" 0.7 * tags + 0.3*perplexity ", {"tags": 0.7, "perplexity": 0.3}),
            ("tags_msd+2e-1*clap", {"tags_msd": 1.0, "clap": 0.2}),
        ],
    )
    def test_sums_are_read_with_their_weights(self, text: str, weights: dict[str, float]) -> None:
        assert components(text) == weights

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("", "write tags"),
            ("tags+", "write tags"),
            ("+tags", "write tags"),
            ("tags perplexity", "write tags"),
            ("tags-perplexity", "write tags"),
            ("tags*0.5", "write tags"),
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
            components(text)


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
        with pytest.raises(PromptRefused, match="pmi: the log-probabilities are"):
            verifier.score([ScoreInput("a", None, -2.0)])

    def test_is_refused_where_the_log_probability_is_not_finite(self) -> None:
        items = [ScoreInput("a", None, -1.0), ScoreInput("b", None, math.nan)]
        outcomes = score_or_refuse(build_verifier("perplexity", GENERATOR, None, None), items)
        assert isinstance(outcomes[0], Score)
        assert isinstance(outcomes[1], PromptRefused)


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

    def test_parts_are_weighted_in_units_of_their_deviation(self, client: ServerClient) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        verifier = build_verifier("0.7*tags+0.3*perplexity", GENERATOR, client, known)
        score = verifier.score(inputs(2))[1]
        assert score.value == pytest.approx(0.7 * 0.125 / 0.5 + 0.3 * math.exp(-2) / 0.1)
        assert score.components == pytest.approx({"tags": 0.125, "perplexity": math.exp(-2)})
        assert verifier.checkpoints == {"tags": TAGS, "perplexity": GENERATOR}

    def test_a_single_name_needs_no_constants(self, client: ServerClient) -> None:
        assert found(build_verifier("tags", None, client, None).score(inputs(2))) == [0.0, 0.125]
        assert build_verifier(" perplexity", GENERATOR, None, None).name == "perplexity"

    def test_absent_constants_name_the_command_that_makes_them(self, client: ServerClient) -> None:
        with pytest.raises(
            CalibrationError,
            match=r"src\.experiments\.calibration --profile builtin --verifiers tags perplexity",
        ):
            build_verifier("tags+perplexity", GENERATOR, client, self.calibration(perplexity=0.1))

    def test_constants_of_other_weights_do_not_count(self, client: ServerClient) -> None:
        known = self.calibration(tags=0.5, perplexity=0.1)
        other = Checkpoint(name="facebook/musicgen-small", sha256="33" * 32)
        with pytest.raises(CalibrationError, match="--model facebook/musicgen-small"):
            build_verifier("tags+perplexity", other, client, known)
        known.constants["tags"] = known.constants["perplexity"]
        with pytest.raises(CalibrationError, match="the spread of tags"):
            build_verifier("tags+perplexity", GENERATOR, client, known)

    def test_a_verifier_that_is_not_hosted_is_named_with_what_is(
        self, client: ServerClient
    ) -> None:
        with pytest.raises(ServerError, match=r"does not host clap; it hosts tags"):
            build_verifier("clap", GENERATOR, client, None)
