"""The client's end of the protocol: one upload per scored batch, split where the server limits it.

    client = ServerClient("http://127.0.0.1:8000")  # or several: ["http://one:8000", ..]
    results = client.score(client.checkpoints(["tags"]), ["slow piano"], [clip])
    results["tags"].scores[0].value

What may pass (a reset connection, a full queue, a timeout) is tried again within a total time, with
another server where there are several; a server that is not there, or that answers anything else,
ends with an error that says what to do.
"""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from typing import Any, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from requests.adapters import BaseAdapter

from src import protocol
from src.budget import Ledger
from src.connection import START_COMMAND, Connection, Refused, ServerError, error_of
from src.data.audio import Clip, encode_wav
from src.protocol import Checkpoint, NoScore, Score, VerifierResult

# A file's headers in the multipart body, and its share of the JSON beside its prompt.
PART_OVERHEAD = 512

Answer = TypeVar("Answer", bound=BaseModel)


class ServerClient:
    """Talks to a verifier server, or to several that answer alike. Not for use by several threads
    at once.

    total_seconds, transport, waiting: as Connection has them. url: of the server that answered
    last. Every method raises ServerUnreachable or ServerError where it has no answer.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        token: str | None = None,
        *,
        total_seconds: float = 1200.0,
        transport: BaseAdapter | None = None,
        waiting: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        urls = [url] if isinstance(url, str) else url
        self._connection = Connection(urls, token, total_seconds, transport, waiting)
        self._usage, self.url = Ledger(), ", ".join(urls)
        self._known_limits: protocol.Limits | None = None

    def another(self) -> Self:
        """One more client of the servers, with a count of its own."""
        other = copy(self)
        other._usage = Ledger()
        return other

    def listing(self) -> protocol.VerifierList:
        """What is hosted, and what a request may hold."""
        return self._ask(protocol.VerifierList, "GET", protocol.VERIFIERS_PATH)

    def checkpoints(self, names: Sequence[str]) -> dict[str, Checkpoint]:
        """The weights of the verifiers `names`, once none of them loads any more.

        Raises ServerError when one is not hosted or did not load.
        """
        infos = self.loaded(names).items()
        return {name: info.checkpoint for name, info in infos if info.checkpoint}

    def loaded(self, names: Sequence[str]) -> dict[str, protocol.VerifierInfo]:
        """Likewise, all there is to know of them."""
        deadline = time.monotonic() + self._connection.total_seconds
        while True:
            hosted = {info.name: info for info in self.listing().verifiers}
            if missing := [name for name in names if name not in hosted]:
                raise ServerError(
                    f"the server at {self.url} does not host {', '.join(missing)}; "
                    f"it hosts {', '.join(hosted)}"
                )
            for name in names:
                if hosted[name].state == "failed":
                    raise ServerError(f"{name} did not load at {self.url}: {hosted[name].problem}")
            if all(hosted[name].checkpoint for name in names):
                return {name: hosted[name] for name in names}
            if time.monotonic() > deadline:
                raise ServerError(f"the models at {self.url} still load: {', '.join(names)}")
            time.sleep(0.5)

    def score(
        self,
        verifiers: Mapping[str, Checkpoint],
        prompts: Sequence[str],
        clips: Sequence[Clip],
        embeddings: Collection[str] = (),
    ) -> dict[str, VerifierResult]:
        """Every verifier's scores of every clip against its prompt, in order, or why it has none.

        verifiers: with the weights that they must have; others are a ServerError. embeddings: those
        whose scores are to be EmbeddedScores, of finite numbers, as many for each clip. One
        request, unless the batch is beyond the server's limits, or some of it is refused.
        """
        begin = time.perf_counter()
        wavs = [encode_wav(clip) for clip in clips]
        self._usage.seconds["wav"] += time.perf_counter() - begin
        results = {name: _nothing(checkpoint) for name, checkpoint in verifiers.items()}
        for part in self._parts(wavs, [clip.seconds for clip in clips]):
            asked = prompts[part], wavs[part], embeddings
            for name, of_part in self._score_part(verifiers, *asked).items():
                result = results[name]
                if of_part.checkpoint != result.checkpoint:
                    raise ServerError(
                        f"{self.url} now scores {name} with other weights "
                        f"({of_part.checkpoint}, before: {result.checkpoint}); start a new run"
                    )
                result.scores += of_part.scores
                result.queue_seconds += of_part.queue_seconds
                result.compute_seconds += of_part.compute_seconds
        for name in embeddings:
            self._check_embeddings(name, results[name].scores)
        return results

    def unread(self, names: Sequence[str], prompts: Sequence[str]) -> dict[str, list[int]]:
        """By verifier, how many tokens at each prompt's end it does not read, in order."""
        counts: dict[str, list[int]] = {name: [] for name in names}
        most = self._limits.max_files
        for at in range(0, len(prompts) if names else 0, most):
            some = list(prompts[at : at + most])
            asked = protocol.VerifierRequest(verifiers=list(names), prompts=some)
            found = self._ask(
                protocol.TextsResponse,
                "POST",
                protocol.TEXTS_PATH,
                json=asked.model_dump(exclude_defaults=True),
            ).unread
            self._check_counts(found, names, len(some))
            for name, of_name in found.items():
                counts[name] += of_name
        return counts

    def take_usage(self) -> Ledger:
        """Bytes and seconds since this was last called, retries included.

        `queue` and `compute` are those of the slowest verifier of each request, `http` the rest.
        """
        usage, self._usage = self._usage, Ledger()
        return usage

    @property
    def _limits(self) -> protocol.Limits:
        """What a request may hold; asked of the server once.

        No cached_property: until Python 3.12 its lock is one for all instances, and a thread that
        waits for an answer would hold it.
        """
        if self._known_limits is None:
            self._known_limits = self.listing().limits
        return self._known_limits

    def _parts(self, wavs: Sequence[bytes], seconds: Sequence[float]) -> Iterator[slice]:
        """Slices of a batch that the server's limits let through."""
        limits = self._limits
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
        self,
        verifiers: Mapping[str, Checkpoint],
        prompts: Sequence[str],
        wavs: Sequence[bytes],
        embeddings: Collection[str],
    ) -> dict[str, VerifierResult]:
        """As `score`. What one verifier refuses another may score: where a request is refused, each
        is asked for what is left to it, those together to whom the same is."""
        everything = range(len(wavs))
        try:
            return self._upload(list(verifiers), prompts, wavs, embeddings)
        except Refused as error:
            out = {name: error.by(name) for name in verifiers}
            left = {name: tuple(i for i in everything if i not in out[name]) for name in verifiers}
            if {*left.values()} == {tuple(everything)}:
                raise
        results: dict[str, VerifierResult] = {}
        for rest in dict.fromkeys(left.values()):
            some = {name: verifiers[name] for name in verifiers if left[name] == rest}
            answers = {name: _nothing(checkpoint) for name, checkpoint in some.items()}
            if rest:
                of_rest = [prompts[i] for i in rest], [wavs[i] for i in rest]
                answers = self._score_part(some, *of_rest, embeddings)
            for name, answer in answers.items():
                scores = dict(zip(rest, answer.scores, strict=True))
                scores |= {i: NoScore(reason=reason) for i, reason in out[name].items()}
                answer.scores = [scores[i] for i in everything]
            results |= answers
        return results

    def _upload(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        wavs: Sequence[bytes],
        embeddings: Collection[str],
    ) -> dict[str, VerifierResult]:
        begin = time.perf_counter()
        asked = protocol.VerifierRequest(
            verifiers=list(names),
            prompts=list(prompts),
            embeddings=[name for name in names if name in embeddings],
        )
        results = self._ask(
            protocol.ScoreResponse,
            "POST",
            protocol.SCORE_PATH,
            data={"request": asked.model_dump_json(exclude_defaults=True)},
            files=[("files", (f"{index}.wav", wav, "audio/wav")) for index, wav in enumerate(wavs)],
        ).results
        self._check_counts({n: r.scores for n, r in results.items()}, names, len(wavs))
        queue, compute = max(
            ((result.queue_seconds, result.compute_seconds) for result in results.values()), key=sum
        )
        self._usage.seconds["queue"] += queue
        self._usage.seconds["compute"] += compute
        elapsed = time.perf_counter() - begin
        self._usage.seconds["http"] += max(0.0, elapsed - queue - compute)
        return results

    def _check_embeddings(self, name: str, scores: Sequence[Score | NoScore]) -> None:
        """Raise ServerError unless every score has one, finite and as long as the others."""
        found = [getattr(score, "embedding", []) for score in scores if isinstance(score, Score)]
        if not all(found):
            raise ServerError(
                f"{self.url} sent no embeddings of {name}: it is of a version that knows none. "
                f"Start one of this version: {START_COMMAND}"
            )
        if len({*map(len, found)}) > 1 or not np.isfinite(found).all():
            raise ServerError(
                f"{self.url} sent embeddings of {name} that are not finite numbers, equally many "
                "for each clip"
            )

    def _check_counts(
        self, found: Mapping[str, Sequence[object]], names: Sequence[str], asked: int
    ) -> None:
        """Raise ServerError when there is not one number per verifier and input."""
        counts = {name: len(numbers) for name, numbers in found.items()}
        if counts != dict.fromkeys(names, asked):
            raise ServerError(
                f"{self.url} answered with {counts} numbers, not {asked} for each of "
                f"{', '.join(names)}"
            )

    def _ask(self, kind: type[Answer], method: str, path: str, **body: Any) -> Answer:
        """The answer to one request. body: as requests.Request takes it. Raises Refused."""
        response = self._connection.send(method, path, self._usage, **body)
        self.url = response.url.removesuffix(path)
        if response.status_code != 200:
            raise error_of(response)
        try:
            return kind.model_validate_json(response.content)
        except ValidationError as error:
            raise ServerError(f"{response.url} gave an answer that is not valid: {error}") from None


def _nothing(checkpoint: Checkpoint) -> VerifierResult:
    return VerifierResult(checkpoint=checkpoint, scores=[], queue_seconds=0, compute_seconds=0)


def check_alike(urls: Sequence[str], token: str | None, names: Sequence[str]) -> None:
    """Wait until these servers have loaded the verifiers `names`. Raise ServerError unless whoever
    of them answers gives the same results; ServerUnreachable where one is not there."""
    known: dict[str, Any] = {}
    for url in urls:
        client = ServerClient(url, token)
        facts: dict[str, Any] = {f"limit {name}": value for name, value in client._limits}
        for name, info in client.loaded(names).items():
            own = info.model_dump(include={"checkpoint", "sample_rate", "needs_text", "vocabulary"})
            facts |= {f"{what} of {name}": value for what, value in own.items()}
        if unlike := [f"{x}: {known[x]}, {facts[x]}" for x in known if known[x] != facts[x]]:
            raise ServerError(
                f"{urls[0]} and {url} differ in {'; '.join(unlike)}. Give all the same weights and "
                "limits, or name only servers that agree"
            )
        known = facts
