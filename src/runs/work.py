"""Pieces of work: what a run does to a group of prompts, in this process or on another machine.

    for finished in workers(pieces):    # workers: `here(parts)`, or a cluster's (src/cluster)
        run.keep(finished)

A piece is a group of prompts that are decoded side by side and what is to be done to them. It is
plain data: whoever does it has the parts (generator, verifier, judges) that it names nothing of.
Tokens are exact at equal shapes, and a group is what has a shape: results do not depend on where a
piece is done.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from src.data.prompts import Prompt
from src.runs.run import Finished

log = logging.getLogger(__name__)

P = TypeVar("P", contravariant=True)


class Piece(Protocol[P]):
    """A frozen dataclass that can be pickled. prompts: its group, of which each has a record or
    several."""

    @property
    def prompts(self) -> Sequence[Prompt]: ...

    def do(self, parts: P) -> Iterable[Finished]: ...

    def failed(self, reason: str) -> Iterable[Finished]:
        """Its prompts' records where it cannot be done."""


Workers = Callable[[Iterable[Piece[Any]]], Iterator[Finished]]


def here(parts: P, halve_rows: Callable[[], bool] = lambda: False) -> Workers:
    """One piece after the other, in this process.

    halve_rows: when memory is not enough, whether a piece may be done again as two (`Generator`).
    """

    from src.decoding.device import OutOfMemory  # torch: reports, which read records, do without

    def work(pieces: Iterable[Piece[P]]) -> Iterator[Finished]:
        for piece in pieces:
            try:
                yield from piece.do(parts)
            except OutOfMemory as error:
                if not halve_rows():
                    raise
                log.warning("%s. On with half as many rows", error)
                yield from work(halves(piece))

    return work


def halves(piece: Piece[P]) -> list[Piece[P]]:
    """Two pieces, of the first half of the prompts and of the second."""
    middle = (len(piece.prompts) + 1) // 2
    parts = piece.prompts[:middle], piece.prompts[middle:]
    return [replace(piece, prompts=some) for some in parts if some]  # type: ignore[type-var]
