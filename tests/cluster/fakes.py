"""Generators without models, and work for them that goes wrong. Actors import it: it is light."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@dataclass(frozen=True)
class Work:
    """A piece of work. Prompts are letters. folder: where each try is noted. deadly: prompts
    that end the process; once: those that do so the first time. error: what is raised where there
    are several prompts. seconds: that it takes."""

    prompts: Sequence[str]
    folder: Path
    deadly: str = ""
    once: str = ""
    error: Exception | None = None
    seconds: float = 0.05

    def do(self, parts: Any) -> Iterator[tuple[str, str]]:
        tries = self.folder / "tries"
        before = tries.read_text() if tries.exists() else ""
        with tries.open("a") as file:
            file.write(f"{''.join(self.prompts)}\n")
        time.sleep(self.seconds)
        if any(prompt in self.deadly for prompt in self.prompts):
            os._exit(1)
        if any(prompt in self.once and prompt not in before for prompt in self.prompts):
            os._exit(1)
        if self.error and len(self.prompts) > 1:
            raise self.error
        yield from ((prompt, parts) for prompt in self.prompts)

    def failed(self, reason: str) -> Iterator[tuple[str, str]]:
        yield from ((prompt, reason) for prompt in self.prompts)


class FakeGenerator:
    """error: raised on loading. dies: ends the process there."""

    def __init__(
        self, checkpoint: str = "a", error: Exception | None = None, dies: bool = False
    ) -> None:
        self.checkpoint, self.error, self.dies = checkpoint, error, dies

    def load(self, texts: object) -> Any:
        if self.dies:
            os._exit(1)
        if self.error:
            raise self.error
        return SimpleNamespace(
            checkpoint=self.checkpoint, device="cpu", dtype="float32", max_rows=8, place="there"
        )

    def do(self, number: int, make: Callable[[Any], Any], piece: Work) -> list[tuple[str, str]]:
        return list(piece.do(make(self)))
