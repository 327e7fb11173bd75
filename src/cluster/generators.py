"""What a generator is in a cluster: an actor that has the models and does pieces of work.

Several groups of prompts may be in flight in it, each in a thread, and take turns: one computes at
a time, and gives its turn away while its clips are being scored.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from src.budget import Span
from src.client import ServerClient
from src.cluster.settings import ClusterSettings
from src.decoding.renderer import Renderer
from src.generator import Generator
from src.protocol import Checkpoint
from src.runs.build import Models, load_models
from src.runs.provenance import machine
from src.runs.run import Finished
from src.runs.settings import start_logging
from src.runs.work import Piece


@dataclass(frozen=True)
class Facts:
    """What a generator says of itself, as `Generator` does, for who has none of its own.

    dtype and what follows: of its language model, where it has one. unknown: by prompt, of how many
    of its tokens the text encoder knows nothing, and how many there are. machine: what it runs on.
    """

    checkpoint: Checkpoint
    device: str
    frame_rate: float
    machine: Mapping[str, Any]
    dtype: str = ""
    max_rows: int = 0
    span: Span | None = None
    unknown: Mapping[str, tuple[int, int]] | None = None

    def windows(self, frames: int) -> Span | None:
        return self.span if self.span is not None and frames > self.span.length else None

    def unknown_tokens(self, prompt: str) -> tuple[int, int]:
        return (self.unknown or {})[prompt]


def facts_of(renderer: Renderer, texts: Sequence[str]) -> Facts:
    here = {name: value for name, value in machine().items() if name != "command"}
    known = (renderer.checkpoint, renderer.device, renderer.frame_rate, here)
    if not isinstance(renderer, Generator):
        return Facts(*known)
    unknown = {text: renderer.unknown_tokens(text) for text in texts}
    return Facts(*known, renderer.dtype, renderer.max_rows, renderer.span, unknown)


Waiting = Callable[[], AbstractContextManager[object]]


class GeneratorActor:
    """decodes: whether the language model is used. client: makes one of the verifiers, where any
    are asked, from what is entered while it waits. in_flight: groups at once. max_rows: those of
    the actors that were there before this one.

    `load` comes first. What cannot be loaded is an error of its own there; raised by a constructor,
    Ray would give its text alone.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        decodes: bool,
        client: Callable[[Waiting], ServerClient] | None,
        in_flight: int,
        max_rows: int | None = None,
    ) -> None:
        start_logging(settings.log_level)
        if max_rows is not None:
            settings = replace(settings, max_rows=max_rows)
        self.settings, self.decodes, self.client = settings, decodes, client
        self.in_flight = in_flight
        self.turn = threading.Lock()
        self.free: list[Models] = []
        self.made: dict[tuple[int, int], Any] = {}

    @contextmanager
    def _without_turn(self) -> Iterator[None]:
        self.turn.release()
        try:
            yield
        finally:
            self.turn.acquire()

    def load(self, texts: Sequence[str]) -> Facts:
        """Load the models. Returns what there is to know of them, and of these prompts."""
        models = load_models(self.settings, self.decodes, None, self.in_flight)
        for _ in range(self.in_flight):  # a client counts what one search sends
            client = self.client(self._without_turn) if self.client else None
            self.free.append(replace(models, client=client))
        return facts_of(models.renderer, texts)

    def do(self, number: int, make: Callable[[Models], Any], piece: Piece[Any]) -> list[Finished]:
        """What a piece gives. number: of `make`, whose parts are kept for the next piece."""
        with self.turn:
            models = self.free.pop()
            try:
                key = number, id(models)
                if key not in self.made:
                    self.made[key] = make(models)
                return list(piece.do(self.made[key]))
            finally:
                self.free.append(models)
