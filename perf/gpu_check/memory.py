"""Memory: against the formula, over many decodings, and when there is not enough."""

from __future__ import annotations

import torch

from perf.gpu_check.models import (
    SEED,
    Outcome,
    fastest_dtype,
    make_decoder,
    no_graphs,
    random_lm,
    sources,
)
from perf.gpu_check.report import Check
from perf.stub_lm import Shape, StubLM
from src.decoding.decoder import Decoder
from src.decoding.device import OutOfMemory

BESIDE = 500_000_000  # bytes beside keys and values: activations, noise, a library's workspace
PADDING = 64  # positions: graphs read whole multiples of some number
TEXT_TOKENS = 32


def memory(check: Check) -> None:
    """The first of the models that speed is measured of, eager and by graphs."""
    shape, dtype = next(iter(check.scale.models.values())), fastest_dtype(check.device)
    lm = random_lm(shape, check.device, dtype)
    for graphs in (False, True):
        name = "graphs" if graphs else "eager"
        if graphs and (why := no_graphs(check.on_gpu)):
            check.skip(name, why)
            continue
        if check.late(name):
            continue
        decoder = make_decoder(lm, dtype=dtype, graphs=graphs)
        keys_and_values(check, name, decoder, shape)
        begin_after_begin(check, name, decoder)
        del decoder
        if not check.needs_gpu(f"{name}: out of memory"):
            out_of_memory(check, name, lm, shape, dtype, graphs)


def a_position(shape: Shape, dtype: torch.dtype) -> int:
    """Bytes of a guided candidate's keys and values at one position."""
    return 2 * shape.dim * (2 * shape.layers - 1) * dtype.itemsize


def keys_and_values(check: Check, name: str, decoder: Decoder, shape: Shape) -> None:
    """What decoding holds at most, against positions times bytes a position, a candidate."""
    candidates, frames = check.scale.held
    positions = frames + max(decoder.delays)
    of_position = candidates * a_position(shape, decoder.transformer.dtype)
    formula = positions * of_position
    if check.on_gpu:
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    decoding = decoder.begin(sources(shape.dim, TEXT_TOKENS), candidates, frames, ["a"], SEED)
    decoding.mark()  # so that the past is kept
    decoding.advance(frames)
    peak = torch.cuda.max_memory_allocated() - before if check.on_gpu else decoding.nbytes
    check.say(
        f"{name}: keys and values",
        passed=decoding.nbytes <= formula + PADDING * of_position
        and peak <= decoding.nbytes + formula / 2 + BESIDE,
        mb_formula=formula / 1e6,
        mb_held=decoding.nbytes / 1e6,
        mb_peak=peak / 1e6 if check.on_gpu else None,
    )


def begin_after_begin(check: Check, name: str, decoder: Decoder) -> None:
    """Decodings of other shapes, twice all of them: the second time takes nothing more."""
    reserved = []
    for _ in range(2):
        for candidates, frames in check.scale.shapes:
            texts = sources(decoder.transformer.dim, TEXT_TOKENS)
            decoding = decoder.begin(texts, candidates, frames, ["a"], SEED)
            decoding.advance(frames // 2)
            decoding.select([row // 2 * 2 for row in range(candidates)])
            decoding.advance(frames - decoding.finished)
            del decoding
        reserved.append(torch.cuda.memory_reserved() if check.on_gpu else 0)
    what = f"{name}: begin after begin"
    if not check.needs_gpu(what):
        check.say(
            what,
            passed=reserved[1] <= 1.1 * reserved[0] + BESIDE / 10,
            mb_first=reserved[0] / 1e6,
            mb_second=reserved[1] / 1e6,
        )


def out_of_memory(
    check: Check, name: str, lm: StubLM, shape: Shape, dtype: torch.dtype, graphs: bool
) -> None:
    """Half as much again as there is: an error with advice, and the same tokens after it."""
    frames, texts = 1500, sources(shape.dim, TEXT_TOKENS)
    total = torch.cuda.mem_get_info()[1]
    candidates = int(1.5 * total / (frames * a_position(shape, dtype)))
    decoder = make_decoder(lm, dtype=dtype, max_rows=candidates, graphs=graphs)

    def few() -> Outcome:
        decoding = decoder.begin(texts, 8, 30, ["a"], SEED)
        decoding.advance(30)
        return Outcome.of(decoding)

    expected = few()
    advised, message = False, "there was enough"
    try:
        decoder.begin(texts, candidates, frames, ["a"], SEED).advance(frames)
    except OutOfMemory as error:
        advised, message = True, str(error)
    except RuntimeError as error:  # as torch raises it: without advice
        message = f"{type(error).__name__}: {error}"
    check.say(f"{name}: out of memory", passed=advised, message=message[:300])
    after = few()
    check.say(
        f"{name}: decodes afterwards",
        passed=torch.equal(after.tokens, expected.tokens),
        mb_reserved=torch.cuda.memory_reserved() / 1e6,
    )
