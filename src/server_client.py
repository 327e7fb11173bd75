"""The client's end of the wire: one upload per scored batch, retries for what may pass.

    client = ServerClient("http://127.0.0.1:8000")
    results = client.score(["tags"], ["slow piano"], [clip])
    results["tags"].scores[0].value

What may pass (a reset connection, a full queue, a timeout) is tried again within a total time; a
server that is not there, or that answers anything else, ends with an error that says what to do.
"""

import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import requests
from pydantic import BaseModel, ValidationError
from urllib3.exceptions import NewConnectionError

from src.audio import Clip, encode_wav
from src.budget import Ledger
from src.wire import (
    FILES_FIELD,
    REQUEST_FIELD,
    REQUEST_ID_HEADER,
    SCORE_PATH,
    VERIFIERS_PATH,
    ErrorBody,
    Limits,
    ScoreRequest,
    ScoreResponse,
    VerifierInfo,
    VerifierList,
    VerifierResult,
)

logger = logging.getLogger(__name__)

START_COMMAND = "`make serve` (or: envs/verifier/.venv/bin/python verifier_server.py)"
# A file's headers in the multipart body, and its share of the JSON beside its prompt.
PART_OVERHEAD = 512
MAY_PASS = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
)

Answer = TypeVar("Answer", bound=BaseModel)


class VerifierError(RuntimeError):
    """Scores could not be had."""


class ServerUnreachable(VerifierError):
    """Nothing answers at the server's address."""


class ServerError(VerifierError):
    """The server answered, and what it said ends the run."""


class PromptRefused(VerifierError):
    """Some inputs of a call have no score, whatever happens; the others can be scored without them.

    refused: reason by position in the call; index, reason: the first of them.
    """

    def __init__(self, refused: Mapping[int, str]) -> None:
        self.refused = dict(sorted(refused.items()))
        self.index, self.reason = next(iter(self.refused.items()))
        super().__init__(f"input {self.index}: {self.reason}")


class ServerClient:
    """Talks to one verifier server. Not for use by several threads at once.

    unreachable_seconds: how long a server that refuses connections is waited for, once it has
    answered before. attempt_seconds, total_seconds: limits on one attempt and on a request with
    all its attempts.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        unreachable_seconds: float = 10.0,
        attempt_seconds: float = 600.0,
        total_seconds: float = 1200.0,
    ) -> None:
        self.url = url.rstrip("/")
        self.unreachable_seconds = unreachable_seconds
        self.attempt_seconds = attempt_seconds
        self.total_seconds = total_seconds
        self._session = requests.Session()
        self._session.trust_env = False  # no proxy for a loopback address, no netrc over the token
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"
        self._limits: Limits | None = None
        self._reached = False
        self._usage = Ledger()

    def infos(self, names: Sequence[str]) -> dict[str, VerifierInfo]:
        """What the server says about the verifiers `names`, once none of them loads any more.

        Raises ServerError when one is not hosted or did not load.
        """
        deadline = time.monotonic() + self.total_seconds
        while True:
            listing = self._listing()
            hosted = {info.name: info for info in listing.verifiers}
            if missing := [name for name in names if name not in hosted]:
                raise ServerError(
                    f"the server at {self.url} does not host {', '.join(missing)}; "
                    f"it hosts {', '.join(hosted)}"
                )
            infos = {name: hosted[name] for name in names}
            for name, info in infos.items():
                if info.state == "failed":
                    raise ServerError(f"{name} did not load at {self.url}: {info.problem}")
            if all(info.state == "ready" for info in infos.values()):
                return infos
            if time.monotonic() > deadline:
                raise ServerError(f"the models at {self.url} still load: {', '.join(names)}")
            time.sleep(0.5)

    def score(
        self, names: Sequence[str], prompts: Sequence[str], clips: Sequence[Clip]
    ) -> dict[str, VerifierResult]:
        """Every verifier's scores of every clip against its prompt, in order.

        One request, unless the batch is beyond the server's limits. Raises PromptRefused with
        positions in `clips`, ServerUnreachable or ServerError.
        """
        begin = time.perf_counter()
        wavs = [encode_wav(clip) for clip in clips]
        self._usage.seconds["wav"] += time.perf_counter() - begin
        merged: dict[str, VerifierResult] = {}
        for part in self._parts(wavs, [clip.seconds for clip in clips]):
            try:
                results = self._score_part(names, prompts[part], wavs[part])
            except PromptRefused as refusal:
                raise PromptRefused(
                    {part.start + index: reason for index, reason in refusal.refused.items()}
                ) from None
            for name, result in results.items():
                merged[name] = _joined(merged[name], result) if name in merged else result
        return merged

    def take_usage(self) -> Ledger:
        """Bytes and seconds since this was last called, retries included.

        `queue` and `compute` are those of the slowest verifier of each request, `http` the rest.
        """
        usage, self._usage = self._usage, Ledger()
        return usage

    def _parts(self, wavs: Sequence[bytes], seconds: Sequence[float]) -> Iterator[slice]:
        """Slices of a batch that the server's limits let through."""
        limits = self._limits or self._listing().limits
        start, size, length = 0, 0, 0.0
        for index, wav in enumerate(wavs):
            extra = len(wav) + PART_OVERHEAD + 4 * limits.max_prompt_chars
            if index > start and (
                index - start >= limits.max_files
                or size + extra > limits.max_body_bytes
                or length + seconds[index] > limits.max_total_seconds
            ):
                yield slice(start, index)
                start, size, length = index, 0, 0.0
            size += extra
            length += seconds[index]
        if wavs:
            yield slice(start, len(wavs))

    def _score_part(
        self, names: Sequence[str], prompts: Sequence[str], wavs: Sequence[bytes]
    ) -> dict[str, VerifierResult]:
        begin = time.perf_counter()
        asked = ScoreRequest(verifiers=list(names), prompts=list(prompts))
        response = self._send(
            requests.Request(
                "POST",
                self.url + SCORE_PATH,
                data={REQUEST_FIELD: asked.model_dump_json()},
                files=[
                    (FILES_FIELD, (f"{index}.wav", wav, "audio/wav"))
                    for index, wav in enumerate(wavs)
                ],
            )
        )
        results = self._parse(ScoreResponse, response).results
        if set(results) != set(names):
            raise ServerError(f"{self.url} answered for {sorted(results)}, not {sorted(names)}")
        for name, result in results.items():
            if len(result.scores) != len(wavs):
                raise ServerError(
                    f"{self.url}: {name} gave {len(result.scores)} scores for {len(wavs)} clips"
                )
        slowest = max(results.values(), key=lambda r: r.queue_seconds + r.compute_seconds)
        seconds = time.perf_counter() - begin
        self._usage.seconds["queue"] += slowest.queue_seconds
        self._usage.seconds["compute"] += slowest.compute_seconds
        self._usage.seconds["http"] += max(
            0.0, seconds - slowest.queue_seconds - slowest.compute_seconds
        )
        return results

    def _listing(self) -> VerifierList:
        response = self._send(requests.Request("GET", self.url + VERIFIERS_PATH))
        listing = self._parse(VerifierList, response)
        self._limits = listing.limits
        return listing

    def _send(self, request: requests.Request) -> requests.Response:
        """The response with status 200; tries again what may pass."""
        request.headers[REQUEST_ID_HEADER] = uuid.uuid4().hex[:16]
        prepared = self._session.prepare_request(request)
        size = len(prepared.body or b"")
        begin = time.monotonic()
        refused_since: float | None = None
        pause = 0.1
        while True:
            left = self.total_seconds - (time.monotonic() - begin)
            wait = pause
            try:
                self._usage.uploaded_bytes += size
                response = self._session.send(
                    prepared, timeout=(5.0, max(0.1, min(self.attempt_seconds, left)))
                )
            except requests.RequestException as error:
                problem = _in_short(error)
                if _refused(error):
                    refused_since = refused_since or time.monotonic()
                    waited = time.monotonic() - refused_since
                    if not self._reached or waited >= self.unreachable_seconds:
                        raise self._unreachable(problem) from error
                elif not isinstance(error, MAY_PASS):
                    raise self._unreachable(problem) from error
            else:
                self._reached, refused_since = True, None
                retry_after = response.headers.get("Retry-After", "")
                if response.status_code != 503 or not retry_after.isdecimal():
                    self._check(response)
                    return response
                problem, wait = _message(response), max(pause, float(retry_after))
            if wait > left:
                raise ServerUnreachable(
                    f"{self.url} did not answer within {self.total_seconds:g} s: {problem}"
                )
            logger.warning("%s: %s; again in %.1f s", self.url, problem, wait)
            time.sleep(wait)
            pause = min(2 * pause, 10.0)

    def _unreachable(self, problem: str) -> ServerUnreachable:
        return ServerUnreachable(
            f"no verifier server answers at {self.url} ({problem}). Start one in another terminal: "
            f"{START_COMMAND}; or say --server auto to have one started for this run"
        )

    def _check(self, response: requests.Response) -> None:
        """Raise what a status other than 200 means."""
        if response.status_code == 200:
            return
        try:
            error = ErrorBody.model_validate_json(response.content)
        except ValidationError:
            raise ServerError(
                f"{response.url} answered {response.status_code} and not as a verifier server "
                f"does: {response.text[:200]!r}"
            ) from None
        if error.error == "prompt_refused" and error.refused:
            raise PromptRefused({r.index: f"{r.verifier}: {r.reason}" for r in error.refused})
        if error.error in ("bad_audio", "no_score") and error.index is not None:
            raise PromptRefused({error.index: error.message})
        message = f"{self.url}: {error.message} ({error.error}, request {error.request_id})"
        if error.error == "unauthorized":
            message += "; set CURATOR_TOKEN to the token that the server was started with"
        raise ServerError(message)

    def _parse(self, kind: type[Answer], response: requests.Response) -> Answer:
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServerError(f"{response.url} gave an answer that is not valid: {error}") from None


def _joined(first: VerifierResult, second: VerifierResult) -> VerifierResult:
    if first.checkpoint != second.checkpoint:
        raise ServerError(f"weights changed in mid-batch: {first.checkpoint}, {second.checkpoint}")
    return VerifierResult(
        checkpoint=first.checkpoint,
        scores=first.scores + second.scores,
        queue_seconds=first.queue_seconds + second.queue_seconds,
        compute_seconds=first.compute_seconds + second.compute_seconds,
    )


def _refused(error: Any) -> bool:
    """Whether no connection came about at all (the server is not there)."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return isinstance(reason, NewConnectionError) or isinstance(
        error, requests.exceptions.ConnectTimeout
    )


def _message(response: requests.Response) -> str:
    try:
        error = ErrorBody.model_validate_json(response.content)
    except ValidationError:
        return f"{response.status_code} {response.reason}"
    return f"{error.message} ({error.error})"


def _in_short(error: requests.RequestException) -> str:
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no answer to a connection"
    if isinstance(error, requests.Timeout):
        return "timed out"
    return "connection refused" if _refused(error) else f"{type(error).__name__}: {error}"
