"""A request's JSON, which anybody may have written: parsed in a time that its limits bound."""

from dataclasses import dataclass
from email.message import Message
from typing import Any

from pydantic import BaseModel, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema

from src.protocol import VerifierRequest
from src.server.outcomes import ApiError, not_valid

# What stands between the strings of a VerifierRequest: brackets, commas, and how it is laid out.
# Whatever else nests would cost much to parse: a list of short lists takes fifty times its bytes.
MAX_LAYOUT_BYTES = 2**15


def parse_request(data: bytes) -> VerifierRequest:
    """The request that this JSON is. Raises ApiError."""
    if len(data) > MAX_LAYOUT_BYTES:
        no_escapes = data.replace(b"\\\\", b"").replace(b'\\"', b"")
        strings = no_escapes.count(b'"') // 2
        if strings > MAX_LAYOUT_BYTES or _layout_bytes(no_escapes) > MAX_LAYOUT_BYTES:
            raise ApiError(400, "bad_request", "not a request of verifiers and prompts")
    try:
        return VerifierRequest.model_validate_json(data)
    except ValidationError as error:
        raise not_valid(error.errors(include_url=False, include_input=False)) from None


def _layout_bytes(json: bytes) -> int:
    """How much of JSON without escaped quotes is outside its strings."""
    return sum(map(len, json.split(b'"')[::2]))


def check_is_json(content_type: str) -> None:
    """Raise ApiError for a body of another type: a page of another site may post text or a form."""
    header = Message()
    header["Content-Type"] = content_type or "none/given"
    kind, _, subtype = header.get_content_type().partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise ApiError(400, "bad_request", "send JSON, as Content-Type: application/json")


@dataclass(frozen=True)
class JsonOf:
    """Annotates a string that holds a model's JSON, so that the OpenAPI document describes it."""

    model: type[BaseModel]

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        content = handler(self.model.__pydantic_core_schema__)
        return {**handler(schema), "contentMediaType": "application/json", "contentSchema": content}
