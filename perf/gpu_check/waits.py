"""Whether the host waits for the GPU where it should only queue work."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

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
from perf.gpu_check.scale import TINY
from src.decoding.decoder import Sampling

WAITED = "synchronizing CUDA operation"  # as torch says it


def waits(check: Check) -> None:
    """advance, rewind and tokens must not wait; begin, select and mean_log_prob may."""
    for graphs in (False, True):
        name = "graphs" if graphs else "eager"
        if graphs and (why := no_graphs(check.on_gpu)):
            check.skip(name, why)
        elif not check.late(name):
            of_decoder(check, name, graphs)


def of_decoder(check: Check, name: str, graphs: bool) -> None:
    decoder = make_decoder(
        random_lm(TINY).to(check.device),
        Sampling(top_k=20),
        fastest_dtype(check.device),
        graphs=graphs,
    )
    begun = decoder.begin(sources(TINY.dim, 20, 27), 8, 60, ["a", "b"], SEED)
    children = [*[0, 1] * 4, *[8] * 8]

    def rewind() -> None:
        mark = begun.mark()
        begun.advance(5)
        begun.rewind(mark)

    must_not: dict[str, Callable[[], object]] = {
        "advance": lambda: begun.advance(5),
        "advance, greedy": lambda: begun.advance(5, greedy=True),
        "rewind": rewind,
        "tokens": begun.tokens,
    }
    may: dict[str, Callable[[], object]] = {
        "select": lambda: begun.select(children),
        "mean_log_prob": begun.mean_log_prob,
        "begin": lambda: decoder.begin(sources(TINY.dim, 20), 8, 60, ["a"], SEED),
    }
    for run in must_not.values():  # kernels load and graphs are captured the first time
        run()
    for what, run in must_not.items():
        with counted(check, f"{name}: {what}", must_not=True):
            run()
    for what, run in may.items():
        with counted(check, f"{name}: {what}", must_not=False):
            run()
    for what in ("advance", "advance, greedy"):
        must_not[what]()  # of the new families
        with counted(check, f"{name}: {what}, after a prune", must_not=True):
            must_not[what]()


@contextmanager
def counted(check: Check, what: str, must_not: bool) -> Iterator[None]:
    """Report how often the host waits inside: torch stops at the first, or warns of each."""
    if not check.on_gpu:
        yield
        check.skip(what, "needs a GPU")
        return
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error" if must_not else "warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        times = sum(WAITED in str(warning.message) for warning in caught)
        check.say(what, passed=True if must_not else None, waits=times)
    except RuntimeError as error:
        if WAITED not in str(error):
            raise
        check.say(what, passed=False, waits="at least 1")
    finally:
        torch.cuda.set_sync_debug_mode("default")
