"""What a check finds: a JSON line each as it goes, tables of them at the end."""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch

from perf.gpu_check.scale import Scale

GRACE = 15.0  # seconds that a section may take beyond its time before it is stopped


class Check:
    """A run of the check: where, for how long, and what it has found.

    device: "cuda" or "cpu". scale: how large everything is. stub: whether one stands in for
    audiocraft. lines: what was found, as it was printed.
    """

    def __init__(self, device: torch.device, seconds: float, scale: Scale, stub: bool) -> None:
        self.device = device
        self.on_gpu = device.type == "cuda"
        self.seconds, self.scale, self.stub = seconds, scale, stub
        self.began = time.monotonic()
        self.ends = self.began + seconds
        self.deadline = self.ends
        self.lines: list[dict[str, Any]] = []
        self.name = ""

    @contextmanager
    def section(self, name: str, kept: float) -> Iterator[None]:
        """A section, which leaves `kept` seconds to the later ones.

        It looks by itself (`late`) whether there is time for its next item. One that hangs is
        stopped by TimeoutError.
        """

        def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            raise TimeoutError(f"stopped {GRACE:g} s after its time was over")

        self.name, self.deadline = name, self.ends - kept
        before = signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, max(0.0, self.left()) + GRACE)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def left(self) -> float:
        """Seconds left to the section."""
        return self.deadline - time.monotonic()

    def late(self, what: str, needed: float | None = None) -> bool:
        """Whether fewer seconds are left than an item needs; it is then reported as skipped."""
        needed = self.scale.item if needed is None else needed
        late = self.left() < needed
        if late:
            self.skip(what, f"needs {needed:.0f} s, {max(0.0, self.left()):.0f} s left")
        return late

    def say(self, what: str, passed: bool | None = None, **facts: Any) -> None:
        """A finding. passed: where there is a right answer, whether this is it."""
        result = {None: "", True: "pass", False: "FAIL"}[passed]
        self._add(what, result, facts)

    def skip(self, what: str, why: str) -> None:
        """Something that was not looked at."""
        self._add(what, "skipped", {"why": why})

    def needs_gpu(self, what: str) -> bool:
        """Whether there is none; the item is then reported as skipped."""
        if not self.on_gpu:
            self.skip(what, "needs a GPU")
        return not self.on_gpu

    @property
    def failed(self) -> int:
        """How many findings are wrong."""
        return sum(line["result"] == "FAIL" for line in self.lines)

    def summary(self) -> str:
        """One line: how many findings of each kind, in how many seconds."""
        counts = Counter(line["result"] or "without an answer" for line in self.lines)
        found = ", ".join(f"{number} {result}" for result, number in counts.items())
        return f"{found}; {time.monotonic() - self.began:.0f} s on {self.device.type}"

    def _add(self, what: str, result: str, facts: dict[str, Any]) -> None:
        at = round(time.monotonic() - self.began, 1)
        line = {"section": self.name, "at": at, "what": what, "result": result}
        self.lines.append(line | {name: _rounded(value) for name, value in facts.items()})
        print(json.dumps(self.lines[-1]), flush=True)


def _rounded(value: Any) -> Any:
    """For reading: four digits of a float, JSON's types of the rest."""
    if isinstance(value, float):
        return float(f"{value:.4g}")
    return value if isinstance(value, int | str) or value is None else str(value)


def columns(line: dict[str, Any]) -> tuple[str, ...]:
    """The names of a finding's facts."""
    return tuple(name for name in line if name not in ("section", "at", "what", "result"))


def markdown(lines: list[dict[str, Any]]) -> str:
    """A section a heading; neighbours with the same facts a table."""
    text = []
    for section, of_section in itertools.groupby(lines, lambda line: line["section"]):
        text.append(f"## {section}\n")
        for shown, rows in itertools.groupby(of_section, columns):
            names = ["what", "result", *shown]
            text.append("| " + " | ".join(name.replace("_", " ") for name in names) + " |")
            text.append("|" + " --- |" * len(names))
            for row in rows:
                cells = ("" if row[name] is None else str(row[name]) for name in names)
                text.append("| " + " | ".join(cells) + " |")
            text.append("")
    return "\n".join(text)
