"""A request's JSON, which anybody may have written: parsed in a time that its limits bound."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError

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


class JsonRoute(APIRoute):
    """A route whose body, when it is JSON, is parsed by the application's Scorer in its pool.

    FastAPI itself would parse it in the event loop, and build what it says before it looks at it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_json(request: Request) -> Response:
            return await handle(_JsonRequest(request.scope, request.receive))

        return handle_json


class _JsonRequest(Request):
    async def json(self) -> VerifierRequest:  # which FastAPI then takes as it is
        request: VerifierRequest = await self.app.state.scorer.parse(
            await self.body(), self.state.upload
        )
        return request
