"""One scoring request's way through the server: checked, decoded, queued for every model, answered.

Clips are decoded and resampled in a small pool of threads, so that the event loop stays free.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, UploadFile

from src.adapters.base import PromptUnusable
from src.audio import AudioError, AudioLimits, decode_wav, resample, to_mono
from src.batching import ClipFailed, ModelFailed, QueueFull, Worker
from src.gate import Problem
from src.wire import Limits, Refusal, ScoreRequest, VerifierResult

T = TypeVar("T")


async def score_request(
    request: ScoreRequest,
    files: Sequence[UploadFile],
    workers: dict[str, Worker],
    limits: Limits,
    pool: ThreadPoolExecutor,
) -> dict[str, VerifierResult]:
    """Every verifier's scores of every file. Raises Problem."""
    _check_counts(request, len(files), limits)
    chosen = {name: _hosted(name, workers) for name in request.verifiers}
    await _in(pool, _check_prompts, request.prompts, chosen)
    rates = {worker.adapter.sample_rate for worker in chosen.values()}
    clips = await _decode(files, rates, limits, pool)
    return await _score(chosen, clips, request.prompts)


def _check_counts(request: ScoreRequest, files: int, limits: Limits) -> None:
    if files != len(request.prompts):
        raise Problem(
            400, "bad_request", f"{files} files and {len(request.prompts)} prompts; send one each"
        )
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
            f"{name!r} is not hosted here; hosted: {', '.join(workers)}",
            verifier=name,
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


async def _decode(
    files: Sequence[UploadFile], rates: set[int], limits: Limits, pool: ThreadPoolExecutor
) -> dict[int, list[np.ndarray]]:
    """The uploads as float32 [T] mono, by sample rate."""
    audio_limits = AudioLimits(
        limits.max_seconds, limits.min_rate, limits.max_rate, limits.max_channels
    )

    def decode(data: bytes, name: str) -> dict[int, np.ndarray]:
        clip = to_mono(decode_wav(data, audio_limits, name))
        return {rate: resample(clip, rate).samples[0] for rate in rates}

    async def one(index: int, file: UploadFile) -> dict[int, np.ndarray]:
        name = f"file {index} ({file.filename})" if file.filename else f"file {index}"
        try:
            return await _in(pool, decode, await file.read(), name)
        except AudioError as error:
            raise Problem(422, "bad_audio", str(error), index=index) from error

    decoded = await asyncio.gather(*map(one, range(len(files)), files), return_exceptions=True)
    clips: dict[int, list[np.ndarray]] = {rate: [] for rate in rates}
    for outcome in decoded:  # the first bad file is named, whichever was found first
        if isinstance(outcome, BaseException):
            raise outcome
        for rate, samples in outcome.items():
            clips[rate].append(samples)
    return clips


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
