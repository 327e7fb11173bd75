"""Milliseconds a step, beside the least that the device's memory and arithmetic allow."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch

from perf.gpu_check.models import (
    SEED,
    fastest_dtype,
    make_decoder,
    no_graphs,
    random_lm,
    sources,
)
from perf.gpu_check.report import Check
from perf.stub_lm import Shape, StubLM
from src.decoding.decoder import Decoder, Decoding
from src.decoding.device import OutOfMemory, is_out_of_memory

FAMILIES = 4
TEXT_TOKENS = 32


def speed(check: Check) -> None:
    """The roofline, then every model, each with an equal share of the time left."""
    roof = roofline(check)
    dtype = fastest_dtype(check.device)
    models, ends = check.scale.models, check.deadline
    for number, (name, shape) in enumerate(models.items()):
        check.deadline = ends
        check.deadline -= check.left() * (1 - 1 / (len(models) - number))
        if why := no_graphs(check.on_gpu):
            check.skip(f"{name}, graphs", why)
        needed = weights(shape) * dtype.itemsize
        if check.on_gpu and needed > 0.9 * torch.cuda.mem_get_info()[0]:
            check.skip(name, f"its weights need {needed / 1e9:.1f} GB")
        elif not check.late(name):
            of_model(check, name, shape, dtype, roof)


def weights(shape: Shape) -> int:
    """How many all layers have."""
    return (8 + 2 * shape.hidden_scale) * shape.layers * shape.dim**2


class Roofline(NamedTuple):
    """bandwidth: bytes a second, read or written. rate: floating-point operations a second."""

    bandwidth: float
    rate: float

    def floor(self, shape: Shape, itemsize: int, candidates: int, past: int, pasts: int) -> float:
        """Seconds a step at least takes, guided: reading weights and pasts, or the products.

        pasts: how many different ones there are. Weights of the text's keys and values are not
        read; the output layer is float32. Half of the rows have no text to attend to, and the
        first layer's self-attention is the same for both halves.
        """
        square = shape.dim**2
        read = weights(shape) - 2 * shape.layers * square
        output = shape.codebooks * shape.card * shape.dim
        number = 2 * shape.dim * (2 * shape.layers - 1)  # of keys and values, a position
        moved = (read + pasts * past * number) * itemsize + 4 * output
        once = 2 * shape.layers * square + 4 * square  # for one half only
        products = candidates * (2 * read - once + past * number + 2 * output)
        return max(moved / self.bandwidth, 2 * products / self.rate)


def roofline(check: Check) -> Roofline:
    """Measured: a large copy, and a large product in the dtype that speed is measured in."""
    dtype, device = fastest_dtype(check.device), check.device
    free = torch.cuda.mem_get_info()[0] if check.on_gpu else 1 << 62
    numbers = min(check.scale.copied, free // 8)
    source = torch.ones(numbers, dtype=torch.bfloat16, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / best_of(5, lambda: target.copy_(source))
    side = check.scale.side
    square = torch.randn(side, side, dtype=dtype, device=device)  # constants take less power
    rate = 2 * side**3 / best_of(5, lambda: square @ square)
    check.say("roofline", gb_per_s=bandwidth / 1e9, tflops=rate / 1e12, dtype=dtype)
    return Roofline(bandwidth, rate)


def best_of(times: int, run: Callable[[], object]) -> float:
    """Seconds that it takes at best, after a warm-up."""
    run()
    return min(timed(run)[0] for _ in range(times))


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Seconds until the device is done, and until the host is."""
    wait()
    began = time.perf_counter()
    run()
    host = time.perf_counter() - began
    wait()
    return time.perf_counter() - began, host


def wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def of_model(check: Check, name: str, shape: Shape, dtype: torch.dtype, roof: Roofline) -> None:
    """Every number of candidates and past that memory and time allow."""
    lm = random_lm(shape, check.device, dtype)
    taken = 0.0  # what the last cell took: later ones are no longer than a few times that
    for candidates, past in check.scale.cells:
        what = f"{name}, {candidates} candidates at {past}"
        if check.late(what, 3 * taken + check.scale.item / 3):
            continue
        if check.on_gpu:
            torch.cuda.empty_cache()  # or the last cell's memory would not count as free
        cell = Cell(check, lm, shape, dtype, candidates, past)
        if cell.bytes > cell.free:
            needed, free = cell.bytes / 1e9, cell.free / 1e9
            check.skip(what, f"needs {needed:.0f} GB, {free:.0f} GB are free")
            continue
        began = time.monotonic()
        try:
            found = cell.measure()
        except (RuntimeError, MemoryError) as error:
            if not (isinstance(error, OutOfMemory) or is_out_of_memory(error)):
                raise
            check.skip(what, f"out of memory: {error}"[:200])
            continue
        finally:
            taken = time.monotonic() - began
        for variant, facts in found.items():
            pasts = FAMILIES if "families" in variant else candidates
            floor = roof.floor(shape, dtype.itemsize, candidates, past, pasts) * 1e3
            times = facts["ms_a_step"] / floor
            check.say(f"{what}, {variant}", None, **facts, floor_ms=floor, times_floor=times)


@dataclass(frozen=True)
class Cell:
    """Steps of so many guided candidates of one prompt, around a past of so many positions."""

    check: Check
    lm: StubLM
    shape: Shape
    dtype: torch.dtype
    candidates: int
    past: int

    @property
    def steps(self) -> int:
        return self.check.scale.steps

    @property
    def bytes(self) -> int:
        """Of keys and values, a tenth for padding, those of the families once more; and of the
        pass over the tokens that are given, at its widest."""
        number = 2 * self.shape.dim * (2 * self.shape.layers - 1)
        kept = (1.1 * self.candidates + FAMILIES) * self.past * number * self.dtype.itemsize
        wide = 2 * self.candidates * self.past * self.shape.dim * (8 + 8 * self.dtype.itemsize)
        return int(kept) + wide

    @property
    def free(self) -> int:
        return torch.cuda.mem_get_info()[0] if self.check.on_gpu else 1 << 62

    def measure(self) -> dict[str, dict[str, float]]:
        """Eager and by graphs, each candidate with its own past, and with those of families."""
        eager = self._variant("eager", False)
        return eager if no_graphs(self.check.on_gpu) else eager | self._variant("graphs", True)

    def _variant(self, name: str, graphs: bool) -> dict[str, dict[str, float]]:
        decoder = make_decoder(self.lm, dtype=self.dtype, max_rows=self.candidates, graphs=graphs)
        decoding = self._begin(decoder)
        found = {name: self._steps(decoding)}
        size = self.candidates // FAMILIES
        if size > 1:
            decoding.select([row // size * size for row in range(self.candidates)])
            found[f"{name}, {FAMILIES} families"] = self._steps(decoding)
        return found

    def _begin(self, decoder: Decoder) -> Decoding:
        """A decoding whose past is there, without decoding step by step."""
        seeded = torch.Generator().manual_seed(SEED)
        shape = (self.candidates, self.shape.codebooks, self.past)
        given = torch.randint(self.shape.card, shape, generator=seeded)
        frames = self.past + self.steps + 3  # not all are decoded: the past is kept
        texts = sources(self.shape.dim, TEXT_TOKENS)
        return decoder.begin(texts, self.candidates, frames, ["a"], SEED, given)

    def _steps(self, decoding: Decoding) -> dict[str, float]:
        """The best of three, after what warms up, and captures."""
        first, _ = timed(lambda: decoding.advance(1))
        mark = decoding.mark()
        times = []
        for _ in range(4):
            times.append(timed(lambda: decoding.advance(self.steps)))
            decoding.rewind(mark)
        (second, _), *again = times
        seconds, host = min(again)
        return {
            "ms_a_step": seconds / self.steps * 1e3,
            "host_ms": host / self.steps * 1e3,
            "warm_up_s": first + second - seconds,
        }
