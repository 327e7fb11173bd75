"""What one asks a verifier server: one upload per scored batch, split where the server limits it.

client = ServerClient("http://127.0.0.1:8000")
results = client.score(["tags"], ["slow piano"], [clip])
results["tags"].scores[0].value
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from src import protocol
from src.budget import Ledger
from src.client.connection import Connection, PromptRefused, ServerError
from src.data.audio import Clip, encode_wav
from src.protocol import Checkpoint, VerifierResult

# A file's headers in the multipart body, and its share of the JSON beside its prompt.
PART_OVERHEAD = 512


class ServerClient(Connection):
    """Talks to one verifier server. Not for use by several threads at once."""

    def checkpoints(self, names: Sequence[str]) -> dict[str, Checkpoint]:
        """The weights of the verifiers `names`, once none of them loads any more.

        Raises ServerError when one is not hosted or did not load.
        """
        deadline = time.monotonic() + self.total_seconds
        while True:
            hosted = {info.name: info for info in self._listing().verifiers}
            if missing := [name for name in names if name not in hosted]:
                raise ServerError(
                    f"the server at {self.url} does not host {', '.join(missing)}; "
                    f"it hosts {', '.join(hosted)}"
                )
            for name in names:
                if hosted[name].state == "failed":
                    raise ServerError(f"{name} did not load at {self.url}: {hosted[name].problem}")
            found = {name: hosted[name].checkpoint for name in names}
            loaded = {name: checkpoint for name, checkpoint in found.items() if checkpoint}
            if len(loaded) == len(found):
                return loaded
            if time.monotonic() > deadline:
                raise ServerError(f"the models at {self.url} still load: {', '.join(names)}")
            time.sleep(0.5)

    def score(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        clips: Sequence[Clip],
        checkpoints: Mapping[str, Checkpoint] | None = None,
    ) -> dict[str, VerifierResult]:
        """Every verifier's scores of every clip against its prompt, in order.

        One request, unless the batch is beyond the server's limits. checkpoints: the weights that
        verifiers must have. Raises PromptRefused with positions in `clips`, ServerUnreachable, or
        ServerError, which is what other weights lead to.
        """
        begin = time.perf_counter()
        wavs = [encode_wav(clip) for clip in clips]
        self.usage.seconds["wav"] += time.perf_counter() - begin
        weights = dict(checkpoints or {})
        merged: dict[str, VerifierResult] = {}
        for part in self._parts(wavs, [clip.seconds for clip in clips]):
            try:
                results = self._score_part(names, prompts[part], wavs[part])
            except PromptRefused as refusal:
                raise PromptRefused(
                    {part.start + index: reason for index, reason in refusal.refused.items()}
                ) from None
            for name, result in results.items():
                expected = weights.setdefault(name, result.checkpoint)
                if result.checkpoint != expected:
                    raise ServerError(
                        f"{self.url} now scores {name} with other weights "
                        f"({result.checkpoint}, before: {expected}); start a new run"
                    )
                merged[name] = _joined(merged[name], result) if name in merged else result
        return merged

    def score_each(
        self,
        names: Sequence[str],
        prompts: Sequence[str],
        clips: Sequence[Clip],
        checkpoints: Mapping[str, Checkpoint] | None = None,
    ) -> dict[str, VerifierResult | PromptRefused]:
        """By verifier, its scores of a batch as of `score`, or why it has none.

        A request is refused as a whole, and what one verifier cannot score another may: one request
        asks all, and only when it is refused is each verifier asked alone. Raises ServerUnreachable
        or ServerError.
        """
        try:
            return {**self.score(names, prompts, clips, checkpoints)}
        except PromptRefused as refusal:
            if len(names) == 1:
                return {names[0]: refusal}
        answers: dict[str, VerifierResult | PromptRefused] = {}
        for name in names:
            answers |= self.score_each([name], prompts, clips, checkpoints)
        return answers

    def unread(self, names: Sequence[str], prompts: Sequence[str]) -> dict[str, list[int]]:
        """By verifier, how many tokens at each prompt's end it does not read, in order.

        Raises ServerUnreachable or ServerError.
        """
        counts: dict[str, list[int]] = {name: [] for name in names}
        most = self._limits.max_files
        for at in range(0, len(prompts) if names else 0, most):
            for name, found in self._unread_part(names, prompts[at : at + most]).items():
                counts[name] += found
        return counts

    def take_usage(self) -> Ledger:
        """Bytes and seconds since this was last called, retries included.

        `queue` and `compute` are those of the slowest verifier of each request, `http` the rest.
        """
        usage, self.usage = self.usage, Ledger()
        return usage

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
        self, names: Sequence[str], prompts: Sequence[str], wavs: Sequence[bytes]
    ) -> dict[str, VerifierResult]:
        begin = time.perf_counter()
        asked = protocol.ScoreRequest(verifiers=list(names), prompts=list(prompts))
        results = self.ask(
            protocol.ScoreResponse,
            "POST",
            protocol.SCORE_PATH,
            data={"request": asked.model_dump_json()},
            files=[("files", (f"{index}.wav", wav, "audio/wav")) for index, wav in enumerate(wavs)],
        ).results
        self._check_counts({n: len(r.scores) for n, r in results.items()}, names, len(wavs))
        queue, compute = max(
            ((result.queue_seconds, result.compute_seconds) for result in results.values()), key=sum
        )
        self.usage.seconds["queue"] += queue
        self.usage.seconds["compute"] += compute
        elapsed = time.perf_counter() - begin
        self.usage.seconds["http"] += max(0.0, elapsed - queue - compute)
        return results

    def _unread_part(self, names: Sequence[str], prompts: Sequence[str]) -> dict[str, list[int]]:
        asked = protocol.TextsRequest(verifiers=list(names), prompts=list(prompts))
        found = self.ask(
            protocol.TextsResponse,
            "POST",
            protocol.TEXTS_PATH,
            data=asked.model_dump_json().encode(),
            headers={"Content-Type": "application/json"},
        ).unread
        self._check_counts({n: len(c) for n, c in found.items()}, names, len(prompts))
        return found

    def _check_counts(self, counts: dict[str, int], names: Sequence[str], asked: int) -> None:
        """Raise ServerError when there is not one number per verifier and input."""
        if counts != dict.fromkeys(names, asked):
            raise ServerError(
                f"{self.url} answered with {counts} numbers, not {asked} for each of "
                f"{', '.join(names)}"
            )

    def _listing(self) -> protocol.VerifierList:
        return self.ask(protocol.VerifierList, "GET", protocol.VERIFIERS_PATH)

    @cached_property
    def _limits(self) -> protocol.Limits:
        """What a request may hold; asked of the server once."""
        return self._listing().limits


def _joined(first: VerifierResult, second: VerifierResult) -> VerifierResult:
    return VerifierResult(
        checkpoint=first.checkpoint,
        scores=first.scores + second.scores,
        queue_seconds=first.queue_seconds + second.queue_seconds,
        compute_seconds=first.compute_seconds + second.compute_seconds,
    )
