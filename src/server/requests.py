"""One scoring request's way through the server: checked, decoded, queued for every model, answered.
And that of a request about texts alone, which passes the same checks and no queue.

Clips are decoded and resampled in a small pool of threads, so that the event loop stays free; every
header of a request is checked before any of its samples is decoded, and requests take turns.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, UploadFile

from src.data.audio import AudioError, resample, to_mono
from src.models.adapter import PromptUnusable
from src.protocol import (
    EmbeddedScore,
    Limits,
    NoScore,
    Refusal,
    Score,
    VerifierRequest,
    VerifierResult,
)
from src.server.admission import Upload
from src.server.batching import Queued, Worker
from src.server.json_body import parse_request
from src.server.outcomes import SHOWN_CHARS, ApiError, shown
from src.server.wav import decode_wav, wav_seconds

T = TypeVar("T")

# Files of one request in the pool at once, so that a long request does not hold up a short one.
FILES_AT_ONCE = 2


@dataclass(frozen=True)
class Scorer:
    """workers: by verifier's name. pool: the threads that decode."""

    workers: dict[str, Worker]
    limits: Limits
    pool: ThreadPoolExecutor

    async def score(
        self, json: bytes, files: Sequence[UploadFile], upload: Upload
    ) -> dict[str, VerifierResult]:
        """Every verifier's scores of every file, as the JSON asks. Raises ApiError."""
        request = await self.parse(json, upload)
        if len(files) != len(request.prompts):
            text = f"{len(files)} files and {len(request.prompts)} prompts; send one each"
            raise ApiError(400, "bad_request", text)
        chosen = self._choose(request)
        await self._in_pool(_check_prompts, request.prompts, chosen)
        rates = {worker.adapter.sample_rate for worker in chosen.values()}
        seconds = await self._in_pool(self._check_headers, files)
        upload.hold(round(4 * seconds * sum(rates)))
        clips = await self._decode(files, rates)
        return await _score(chosen, clips, request)

    async def count_unread(self, request: VerifierRequest) -> dict[str, list[int]]:
        """By verifier, how many tokens at each prompt's end it does not read. Raises ApiError."""
        if len(request.prompts) > self.limits.max_files:
            raise ApiError(413, "too_large", f"at most {self.limits.max_files} prompts a request")
        chosen = self._choose(request)
        for worker in chosen.values():
            worker.check_ready()
        # One after the other, so that a request of long prompts does not hold up a short one.
        return {
            name: [await self._in_pool(worker.adapter.unread_tokens, p) for p in request.prompts]
            for name, worker in chosen.items()
        }

    async def parse(self, json: bytes, upload: Upload) -> VerifierRequest:
        """The request that this JSON is. Raises ApiError."""
        upload.hold(len(json))  # beside the body that it was read from
        return await self._in_pool(parse_request, json)

    def _choose(self, request: VerifierRequest) -> dict[str, Worker]:
        """The workers that a request within the limits names. Raises ApiError."""
        limits = self.limits
        if len(request.verifiers) > limits.max_verifiers:
            raise ApiError(413, "too_large", f"at most {limits.max_verifiers} verifiers a request")
        for index, prompt in enumerate(request.prompts):
            if len(prompt) > limits.max_prompt_chars:
                length = f"{len(prompt)} characters; at most {limits.max_prompt_chars}"
                raise ApiError(413, "too_large", f"prompt {index} has {length}", index=index)
        for name in request.verifiers:
            if name not in self.workers:
                text = f"{shown(name)} is not hosted here; hosted: {', '.join(self.workers)}"
                raise ApiError(404, "unknown_verifier", text, verifier=name[:SHOWN_CHARS])
        for name in request.embeddings:
            if name not in request.verifiers or not self.workers[name].adapter.embeds:
                embedding = [n for n in request.verifiers if self.workers[n].adapter.embeds]
                text = f"embeddings: {shown(name)} has none, or is not asked for scores; of those "
                text += f"asked, these have one: {', '.join(embedding) or 'none'}"
                raise ApiError(400, "bad_request", text, verifier=name[:SHOWN_CHARS])
        return {name: self.workers[name] for name in request.verifiers}

    def _check_headers(self, files: Sequence[UploadFile]) -> float:
        """How many seconds all files last together. Raises ApiError for the first bad file."""
        total, most = 0.0, self.limits.max_total_seconds
        for index, file in enumerate(files):
            name = _name(index, file)
            try:
                total += wav_seconds(file.file, self.limits)
            except AudioError as error:
                raise ApiError(422, "bad_audio", f"{name}: {error}", index=index) from error
            if total > most:
                text = f"up to here {total:.1f} s; all files of a request last at most {most:g} s"
                raise ApiError(413, "too_large", f"{name}: {text}", index=index)
        return total

    async def _decode(
        self, files: Sequence[UploadFile], rates: set[int]
    ) -> dict[int, list[np.ndarray]]:
        """The uploads as float32 [T] mono, by sample rate. Raises ApiError."""

        def decode(index: int) -> dict[int, np.ndarray]:
            with files[index].file as file:  # closed afterwards: its bytes are not needed twice
                file.seek(0)
                data = file.read()
            try:
                clip = to_mono(decode_wav(data, self.limits))
                clips = {rate: resample(clip, rate).samples[0] for rate in rates}
                if not all(len(samples) for samples in clips.values()):
                    length = clip.samples.shape[1]
                    raise AudioError(f"{length} samples are too short to score")
            except AudioError as error:
                text = f"{_name(index, files[index])}: {error}"
                raise ApiError(422, "bad_audio", text, index=index) from error
            return clips

        decoded: list[dict[int, np.ndarray]] = []
        for start in range(0, len(files), FILES_AT_ONCE):
            some = range(len(files))[start : start + FILES_AT_ONCE]
            decoded += await asyncio.gather(*(self._in_pool(decode, index) for index in some))
        return {rate: [clips[rate] for clips in decoded] for rate in rates}

    async def _in_pool(self, function: Callable[..., T], *args: Any) -> T:
        """What the function returns; when this is cancelled, only once the function has ended.

        The request's files are closed as soon as it is over, and must not be read by then.
        """
        work = self.pool.submit(function, *args)
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            await asyncio.gather(asyncio.wrap_future(work), return_exceptions=True)
            raise


def _check_prompts(prompts: Sequence[str], chosen: dict[str, Worker]) -> None:
    """Raise ApiError with every prompt that a verifier has no score for."""
    refused = []
    for name, worker in chosen.items():
        for index, prompt in enumerate(prompts):
            try:
                worker.adapter.check(prompt)
            except PromptUnusable as error:
                refused.append(Refusal(index=index, verifier=name, reason=str(error)))
    if refused:
        first = refused[0]
        text = f"prompt {first.index}: {first.reason}"
        if tags := chosen[first.verifier].adapter.vocabulary:  # once, and not for each prompt
            text += f"; name one of: {', '.join(tags)}"
        where: dict[str, Any] = {"index": first.index, "verifier": first.verifier}
        raise ApiError(422, "prompt_refused", text, **where, refused=refused)


def _name(index: int, file: UploadFile) -> str:
    return f"file {index} ({shown(file.filename)})" if file.filename else f"file {index}"


async def _score(
    chosen: dict[str, Worker], clips: dict[int, list[np.ndarray]], request: VerifierRequest
) -> dict[str, VerifierResult]:
    """Queue the clips for every model and wait; a failure of one drops the others' clips."""
    queued: dict[str, list[Queued]] = {}
    try:
        for name, worker in chosen.items():
            queued[name] = worker.submit(clips[worker.adapter.sample_rate], request.prompts)
        results = {}
        for name, waiting in queued.items():
            scores = await asyncio.gather(*(asyncio.wrap_future(clip.score) for clip in waiting))
            checkpoint = chosen[name].checkpoint
            assert checkpoint is not None  # the model has scored
            results[name] = VerifierResult(
                checkpoint=checkpoint,
                scores=scores if name in request.embeddings else [*map(_plain, scores)],
                queue_seconds=waiting[0].queue_seconds,
                compute_seconds=sum(clip.compute_seconds for clip in waiting),
            )
        return results
    finally:
        for clip in chain(*queued.values()):
            clip.score.cancel()


def _plain(score: Score | NoScore) -> Score | NoScore:
    """Without an embedding."""
    if not isinstance(score, EmbeddedScore):
        return score
    return Score(value=score.value, components=score.components)


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up, and waited for."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.create_task(work)
    tasks = working, asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "client_gone", "the client hung up")
        return working.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
