"""JSON that anybody may have written: what is parsed, what is refused before it costs anything."""

import json

import pytest

from src.server.json_body import MAX_LAYOUT_BYTES, parse_request
from src.server.outcomes import ApiError

START = b'{"verifiers": ["tags"], "prompts": ['


@pytest.mark.parametrize("indent", [None, 4])
@pytest.mark.parametrize("escape", [True, False])
@pytest.mark.parametrize(
    "prompt",
    ["[" * 2_000, '"' * 2_000, "\\" * 1_999 + '"', ',{"a": []}' * 200, "\U0001f3b5" * 2_000],
)
def test_prompts_of_any_characters_are_read(prompt: str, escape: bool, indent: int | None) -> None:
    asked = {"verifiers": ["tags"], "prompts": [prompt] * 256}
    data = json.dumps(asked, ensure_ascii=escape, indent=indent).encode()
    assert parse_request(data).model_dump(exclude_defaults=True) == asked


@pytest.mark.parametrize(
    "data",
    [
        START + b"[0]," * 100_000 + b"0]}",
        START + b'"",' * 100_000 + b'""]}',
        START + b'"\\\\",[],' * 100_000 + b'""]}',
        START + b"[" * 100_000,
        b'"' * 1_000_000,
        b" " * (MAX_LAYOUT_BYTES + 1),
    ],
    ids=["lists", "empty strings", "lists after backslashes", "brackets", "quotes", "spaces"],
)
def test_what_is_more_than_strings_is_not_parsed(
    data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("src.server.json_body.VerifierRequest", None)
    with pytest.raises(ApiError) as caught:
        parse_request(data)
    assert caught.value.status_code == 400
