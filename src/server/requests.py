"""One scoring request's way through the server: checked, decoded, queued for every model, answered.
And that of a request about texts alone, which passes the same checks and no queue.

Clips are decoded and resampled in a small pool of threads, so that the event loop stays free; every
header of a request is checked before any of its samples is decoded, and requests take turns.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, UploadFile

from src.data.audio import AudioError, AudioLimits, decode_wav, resample, to_mono, wav_seconds
from src.models.adapter import PromptUnusable
from src.protocol import Limits, Refusal, ScoreRequest, TextsRequest, VerifierResult
from src.server.batching import ClipFailed, ModelFailed, QueueFull, Worker
from src.server.problems import Problem
from src.server.uploads import Upload

T = TypeVar("T")

# Files of one request in the pool at once, so that a long request does not hold up a short one.
FILES_AT_ONCE = 2
SHOWN_CHARS = 80  # of a name that a client sent, in answers and in the log


async def score_request(
    request: ScoreRequest,
    files: Sequence[UploadFile],
    workers: dict[str, Worker],
    limits: Limits,
    pool: ThreadPoolExecutor,
    upload: Upload,
) -> dict[str, VerifierResult]:
    """Every verifier's scores of every file. Raises Problem."""
    if len(files) != len(request.prompts):
        raise Problem(
            400,
            "bad_request",
            f"{len(files)} files and {len(request.prompts)} prompts; send one each",
        )
    _check_counts(request, limits)
    chosen = {name: _hosted(name, workers) for name in request.verifiers}
    await _in(pool, _check_prompts, request.prompts, chosen)
    rates = {worker.adapter.sample_rate for worker in chosen.values()}
    seconds = await _in(pool, _check_headers, files, limits)
    upload.hold(round(4 * seconds * sum(rates)))
    clips = await _decode(files, rates, limits, pool)
    return await _score(chosen, clips, request.prompts)


async def count_unread(
    request: TextsRequest, workers: dict[str, Worker], limits: Limits, pool: ThreadPoolExecutor
) -> dict[str, list[int]]:
    """By verifier, how many tokens at each prompt's end it does not read. Raises Problem."""
    if len(request.prompts) > limits.max_files:
        raise Problem(413, "too_large", f"at most {limits.max_files} prompts a request")
    _check_counts(request, limits)
    chosen = {name: _hosted(name, workers) for name in request.verifiers}
    for name, worker in chosen.items():
        _check_ready(name, worker)

    def count(prompt: str) -> list[int]:
        return [worker.adapter.unread_tokens(prompt) for worker in chosen.values()]

    # One after the other, so that a request of long prompts does not hold up a short one.
    counts = {prompt: await _in(pool, count, prompt) for prompt in set(request.prompts)}
    return {
        name: [counts[prompt][at] for prompt in request.prompts] for at, name in enumerate(chosen)
    }


def _check_ready(name: str, worker: Worker) -> None:
    """Raise Problem when the model, and with it its tokenizer, is not loaded."""
    if worker.state == "failed":
        text = f"{name} did not load: {worker.problem}"
        raise Problem(503, "not_ready", text, verifier=name)
    if worker.state == "loading":
        text = f"{name} is still loading"
        raise Problem(503, "not_ready", text, verifier=name, retry_after=1)


def _check_counts(request: ScoreRequest | TextsRequest, limits: Limits) -> None:
    if len(request.verifiers) > limits.max_verifiers:
        raise Problem(413, "too_large", f"at most {limits.max_verifiers} verifiers a request")
    for index, prompt in enumerate(request.prompts):
        if len(prompt) > limits.max_prompt_chars:
            raise Problem(
                413,
                "too_large",
                f"prompt {index} has {len(prompt)} characters; at most {limits.max_prompt_chars}",
                index=index,
            )


def _hosted(name: str, workers: dict[str, Worker]) -> Worker:
    if name not in workers:
        raise Problem(
            404,
            "unknown_verifier",
            f"{_shown(name)} is not hosted here; hosted: {', '.join(workers)}",
            verifier=name[:SHOWN_CHARS],
        )
    return workers[name]


def _check_prompts(prompts: Sequence[str], chosen: dict[str, Worker]) -> None:
    refused = []
    for name, worker in chosen.items():
        problems: dict[str, PromptUnusable] = {}
        for prompt in set(prompts):
            try:
                worker.adapter.check(prompt)
            except PromptUnusable as error:
                problems[prompt] = error
        refused += [
            Refusal(
                index=index,
                verifier=name,
                reason=problems[prompt].reason,
                vocabulary=list(problems[prompt].vocabulary),
            )
            for index, prompt in enumerate(prompts)
            if prompt in problems
        ]
    if refused:
        first = refused[0]
        raise Problem(
            422,
            "prompt_refused",
            f"prompt {first.index}: {first.reason}",
            index=first.index,
            verifier=first.verifier,
            refused=refused,
        )


def _audio_limits(limits: Limits) -> AudioLimits:
    return AudioLimits(limits.max_seconds, limits.min_rate, limits.max_rate, limits.max_channels)


def _check_headers(files: Sequence[UploadFile], limits: Limits) -> float:
    """How many seconds all files last together. Raises Problem for the first bad file."""
    total = 0.0
    for index, file in enumerate(files):
        try:
            total += wav_seconds(file.file, _audio_limits(limits), _name(index, file))
        except AudioError as error:
            raise Problem(422, "bad_audio", str(error), index=index) from error
        file.file.seek(0)
        if total > limits.max_total_seconds:
            raise Problem(
                413,
                "too_large",
                f"{_name(index, file)}: up to here {total:.1f} s; all files of a request "
                f"last at most {limits.max_total_seconds:g} s",
                index=index,
            )
    return total


async def _decode(
    files: Sequence[UploadFile], rates: set[int], limits: Limits, pool: ThreadPoolExecutor
) -> dict[int, list[np.ndarray]]:
    """The uploads as float32 [T] mono, by sample rate."""

    def decode(index: int, file: UploadFile) -> dict[int, np.ndarray]:
        name = _name(index, file)
        data = file.file.read()
        file.file.close()  # its bytes are not needed twice
        try:
            clip = to_mono(decode_wav(data, _audio_limits(limits), name))
            clips = {rate: resample(clip, rate).samples[0] for rate in rates}
            if not all(len(samples) for samples in clips.values()):
                raise AudioError(f"{name}: {clip.samples.shape[1]} samples are too short to score")
        except AudioError as error:
            raise Problem(422, "bad_audio", str(error), index=index) from error
        return clips

    clips: dict[int, list[np.ndarray]] = {rate: [] for rate in rates}
    for start in range(0, len(files), FILES_AT_ONCE):
        some = list(enumerate(files))[start : start + FILES_AT_ONCE]
        work = [_in(pool, decode, index, file) for index, file in some]
        for outcome in await asyncio.gather(*work, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome  # the first bad file's, whichever was found first
            for rate, samples in outcome.items():
                clips[rate].append(samples)
    return clips


def _name(index: int, file: UploadFile) -> str:
    return f"file {index} ({_shown(file.filename)})" if file.filename else f"file {index}"


def _shown(text: str) -> str:
    """A client's text on one short line: the log shows it too."""
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return printable if len(printable) <= SHOWN_CHARS else printable[:SHOWN_CHARS] + "..."


async def _score(
    chosen: dict[str, Worker], clips: dict[int, list[np.ndarray]], prompts: Sequence[str]
) -> dict[str, VerifierResult]:
    """Queue the clips for every model and wait; a failure of one drops the others' jobs."""
    jobs, name = {}, ""
    try:
        for name, worker in chosen.items():
            jobs[name] = worker.submit(clips[worker.adapter.sample_rate], prompts)
        results = {}
        for name, job in jobs.items():
            results[name] = await asyncio.wrap_future(job.result)
        return results
    except QueueFull as error:
        raise Problem(
            503, "queue_full", str(error), verifier=name, retry_after=error.retry_after
        ) from error
    except ModelFailed as error:
        raise Problem(503, "not_ready", str(error), verifier=name) from error
    except ClipFailed as error:
        status, code = (422, "no_score") if error.no_score else (500, "verifier_failed")
        raise Problem(status, code, str(error), index=error.index, verifier=name) from error
    finally:
        for job in jobs.values():
            job.result.cancel()


async def _in(pool: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


async def unless_gone(http: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled when the client hangs up."""

    async def gone() -> None:
        while (await http.receive())["type"] != "http.disconnect":
            pass

    tasks = working, leaving = asyncio.create_task(work), asyncio.create_task(gone())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem(499, "client_gone", "the client hung up")
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()
