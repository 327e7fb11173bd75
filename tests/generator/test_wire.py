"""The wire's models refuse what must never be a score."""

import pytest
from pydantic import ValidationError

from src.protocol import Checkpoint, Score, ScoreResponse, VerifierResult


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), None, "high"])
def test_a_score_is_a_finite_number_or_an_error(value: object) -> None:
    with pytest.raises(ValidationError):
        Score.model_validate({"value": value})
    with pytest.raises(ValidationError):
        Score.model_validate({"value": 0.5, "components": {"piano": value}})


def test_nan_in_json_is_not_a_score() -> None:
    with pytest.raises(ValidationError):
        Score.model_validate_json('{"value": NaN}')


def test_scores_survive_json_to_the_last_bit() -> None:
    score = Score(value=0.1 + 0.2, components={"piano": -1e-300})
    result = VerifierResult(
        checkpoint=Checkpoint(name="x", sha256="00"),
        scores=[score],
        queue_seconds=0.0,
        compute_seconds=0.0,
    )
    sent = ScoreResponse(request_id="1", results={"tags": result}).model_dump_json()
    assert ScoreResponse.model_validate_json(sent).results["tags"].scores == [score]
