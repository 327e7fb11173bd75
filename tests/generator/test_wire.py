"""The wire's models refuse what must never be a score."""

import pytest
from pydantic import ValidationError

from src.protocol import Score


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "null"])
def test_a_score_and_its_components_are_finite_numbers(value: str) -> None:
    with pytest.raises(ValidationError):
        Score.model_validate_json(f'{{"value": {value}}}')
    with pytest.raises(ValidationError):
        Score.model_validate_json(f'{{"value": 0.5, "components": {{"piano": {value}}}}}')
