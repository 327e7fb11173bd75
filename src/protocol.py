"""What goes over HTTP between the search and the verifier server, in one place for both sides.

`POST /score` is a multipart form: the field `request` holds a VerifierRequest as JSON, the field
`files` is repeated, one WAV a prompt, in the prompts' order. The answer is a ScoreResponse, or an
ErrorBody with a 4xx or 5xx status. `POST /texts` is a VerifierRequest as JSON, its answer a
TextsResponse. A token, where the server has one, goes with every request (`checked_token`).
"""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, FailFast, Field, FiniteFloat, NonNegativeInt

SCORE_PATH = "/score"
TEXTS_PATH = "/texts"
VERIFIERS_PATH = "/verifiers"
HEALTH_PATH = "/health"
READY_PATH = "/ready"
METRICS_PATH = "/metrics"

REQUEST_ID_HEADER = "X-Request-ID"


def checked_token(token: str | None) -> str | None:
    """A token that fits into a header (`b64token` of RFC 6750); None where none is set.

    Raises ValueError, whose message does not show it.
    """
    if token and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token):
        raise ValueError(
            "the token (CURATOR_TOKEN) may have letters from a to z, digits and -._~+/ only, and = "
            "at its end: no spaces, no accents"
        )
    return token or None


def _encodable(text: str) -> str:
    text.encode()  # Python takes half a surrogate pair from JSON; tokenizers and answers cannot
    return text


Text = Annotated[str, AfterValidator(_encodable)]
# One bad item is enough to know: a list may hold a million.
Texts = Annotated[list[Text], FailFast(), Field(min_length=1)]


class Checkpoint(BaseModel, frozen=True):
    """Which weights a number comes from."""

    name: str = Field(examples=["MTT_musicnn"])
    sha256: str = Field(description="of the weight file, hexadecimal")


class Score(BaseModel, frozen=True):
    """One clip's score; higher is better."""

    value: FiniteFloat
    components: dict[str, FiniteFloat] = Field({}, description="what the value is made of, by name")


class EmbeddedScore(Score, frozen=True):
    """One clip's score, where its verifier's embedding was asked for."""

    embedding: list[float] = Field(
        description="of the clip, whatever its prompt: [D], of any length"
    )


class NoScore(BaseModel, frozen=True):
    """Why one clip has no score, whatever happens: asking again does not help."""

    reason: str = Field(examples=["the clip is digital silence"])


class VerifierRequest(BaseModel):
    """The body of POST /texts, and the JSON in the form field `request` of POST /score."""

    verifiers: Texts = Field(examples=[["tags"]])
    prompts: Texts = Field(description="one prompt per uploaded file, in the files' order")
    embeddings: Annotated[list[Text], FailFast()] = Field(
        default=[],
        description="of POST /score: those of the verifiers whose embedding of each clip is wanted",
    )


class VerifierResult(BaseModel):
    checkpoint: Checkpoint
    scores: list[EmbeddedScore | Score | NoScore] = Field(
        description="one per uploaded file, in order"
    )
    queue_seconds: FiniteFloat = Field(description="waited for the model")
    compute_seconds: FiniteFloat = Field(description="this request's share of the model's time")


class ScoreResponse(BaseModel):
    request_id: str
    results: dict[str, VerifierResult] = Field(description="by verifier, as asked for")


class TextsResponse(BaseModel):
    """How much of each prompt each verifier reads."""

    unread: dict[str, list[NonNegativeInt]] = Field(
        description="by verifier: tokens at a prompt's end that it does not read, one number per "
        "prompt, in order; 0 for the whole prompt, and where prompts have no influence"
    )


class Limits(BaseModel):
    """What one request may hold; a client splits what is larger."""

    max_body_bytes: int = Field(default=128 * 1024 * 1024, description="of the whole form")
    max_files: int = Field(default=256, description="WAVs, or prompts, in one request")
    max_seconds: float = Field(default=60.0, description="of one WAV")
    max_total_seconds: float = Field(default=3_600.0, description="of a request's files together")
    min_rate: int = Field(default=8_000, description="Hz")
    max_rate: int = Field(default=192_000, description="Hz")
    max_channels: int = Field(default=2, description="of one WAV")
    max_prompt_chars: int = Field(default=2_000, description="of one prompt")
    max_verifiers: int = Field(default=8, description="that one request may ask for")

    @property
    def max_json_bytes(self) -> int:
        """Of a VerifierRequest as JSON: all its prompts, and 64 KiB for names and layout.

        A character is at most 12 bytes: two escapes of half a surrogate pair each.
        """
        return 12 * self.max_files * self.max_prompt_chars + 2**16


State = Literal["loading", "ready", "failed"]


class VerifierInfo(BaseModel):
    name: str
    state: State
    problem: str | None = Field(None, description="why it is not ready")
    checkpoint: Checkpoint | None = Field(None, description="absent until loaded")
    sample_rate: int = Field(description="Hz; uploads of other rates are resampled by the server")
    needs_text: bool = Field(description="False: the prompt has no influence on the score")
    summary: str = ""
    licence: str = ""
    vocabulary: list[str] = Field([], description="of a tagger: a prompt must name one of these")


class VerifierList(BaseModel):
    """The answer to GET /verifiers."""

    verifiers: list[VerifierInfo]
    limits: Limits


class Readiness(BaseModel):
    """The answer to GET /ready: status 200 when nothing loads any more and a model is ready."""

    ready: bool
    models: dict[str, State]
    problems: dict[str, str] = Field({}, description="by model that failed")


class Refusal(BaseModel):
    """Why one prompt cannot be scored; the others of the request can."""

    index: int = Field(description="of the prompt in the request")
    verifier: str
    reason: str


class ErrorBody(BaseModel):
    """The answer to whatever was not done."""

    request_id: str
    error: str = Field(
        description="for programs",
        examples=[
            "bad_audio",
            "bad_request",
            "forbidden",
            "prompt_refused",
            "queue_full",
            "unknown_verifier",
        ],
    )
    message: str = Field(description="for people: what is wrong and what to do")
    index: int | None = Field(None, description="of the file concerned")
    verifier: str | None = None
    refused: list[Refusal] = Field([], description="with prompt_refused: every prompt concerned")
    retry_after_seconds: float | None = Field(
        None, description="of Retry-After, unrounded: when the same request may succeed"
    )
