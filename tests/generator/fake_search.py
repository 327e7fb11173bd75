"""A tiny exact generator, and a verifier and judges whose numbers follow from the clip alone.

Every token follows by a hash from seed, key, slot and past.

What the decoder promises (independent of the batch, branchable, rewindable) holds here by
construction, so a search on it can be compared with a plain recursion.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from src.budget import Ledger, Span
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, JudgeError, SetJudge
from src.protocol import Checkpoint, NoScore, Score
from src.scoring import ScoreInput

RATE = 50


@cache
def draw(*what: object) -> int:
    digest = hashlib.sha256(repr(what).encode()).digest()
    return int.from_bytes(digest[:4], "big") % 1000


def continued(history: Sequence[int], frames: int, seed: int, key: str, slot: int) -> list[int]:
    """A candidate's history, sampled on in a slot; slot -1 is greedy."""
    tokens = list(history)
    for _ in range(frames):
        where = "greedy" if slot < 0 else (seed, slot)
        tokens.append(draw(where, key, len(tokens), *tokens[-1:]))
    return tokens


def value_of(text: str, tokens: Sequence[int]) -> float:
    """Some fixed preference among clips, with ties."""
    return float(draw(text, tuple(tokens)) % 50)


def log_drawn(token: int) -> float:
    """The logarithm of the probability with which a token was drawn, so to speak."""
    return -(token % 61) / 20


class FakeCandidates:
    guided = True
    # Whether the model overflows in such a history.
    overflows: Callable[[list[int]], bool] | None = None

    def __init__(
        self, keys: Sequence[str], candidates: int, frames: int, seed: int, first: int = 0
    ) -> None:
        self.keys, self.candidates, self.frames, self.seed = keys, candidates, frames, seed
        self.histories: list[list[int]] = [[] for _ in range(len(keys) * candidates)]
        self.slots = list(range(first, first + candidates)) * len(keys)  # by row
        self.calls: list[str] = []

    @property
    def rows(self) -> int:
        return len(self.histories)

    @property
    def finished(self) -> int:
        return len(self.histories[0])

    def advance(self, frames: int, greedy: bool = False) -> None:
        assert self.finished + frames <= self.frames, "beyond the clip's end"
        self.calls.append("rollout" if greedy else "sample")
        for row, history in enumerate(self.histories):
            key = self.keys[row * len(self.keys) // self.rows]
            slot = -1 if greedy else self.slots[row]
            self.histories[row] = continued(history, frames, self.seed, key, slot)

    def select(self, rows: Sequence[int]) -> None:
        assert len(rows) == self.rows
        self.calls.append("select")
        self.histories = [list(self.histories[row]) for row in rows]

    def keep(self, rows: Sequence[int]) -> None:
        assert list(rows) == sorted(set(rows))
        held, rest = divmod(len(rows), len(self.keys))
        owners = [row * len(self.keys) // self.rows for row in rows]
        assert not rest
        assert owners == [prompt for prompt in range(len(self.keys)) for _ in range(held)]
        self.histories = [self.histories[row] for row in rows]
        self.slots = [self.slots[row] for row in rows]

    def mark(self) -> list[list[int]]:
        return [list(history) for history in self.histories]

    def rewind(self, mark: list[list[int]]) -> None:
        self.histories = [list(history) for history in mark]

    def tokens(self) -> torch.Tensor:
        return torch.tensor(self.histories, dtype=torch.int64)[:, None]

    def mean_log_prob(self, conditional: bool = True) -> torch.Tensor:
        by = 97 if conditional else 89
        likely = [-(sum(h) % by) / by - 0.01 for h in self.histories]
        bad = [self.overflows is not None and self.overflows(h) for h in self.histories]
        return torch.tensor(likely).masked_fill(torch.tensor(bad), torch.nan)

    def mean_log_sampled(self) -> torch.Tensor:
        means = [sum(map(log_drawn, h)) / len(h) for h in self.histories]
        bad = [self.overflows is not None and self.overflows(h) for h in self.histories]
        return torch.tensor(means).masked_fill(torch.tensor(bad), torch.nan)


class FakeGenerator:
    """begun: of each group the keys, N and frames; lengths: frames of each batch of clips.

    context: how many frames on either side have a part in a sample, which is the sum of them all;
    with None it is the frame's token, and every clip is rendered whole.
    """

    checkpoint = Checkpoint(name="fake", sha256="0" * 64)
    frame_rate = float(RATE)
    device, dtype = "cpu", "float32"
    max_rows = 64
    span = Span(30 * RATE, 18 * RATE)

    def __init__(
        self,
        context: int | None = None,
        overflows: Callable[[list[int]], bool] | None = None,
    ) -> None:
        self.context, self.overflows = context, overflows
        self.rendered = 0
        self.lengths: list[int] = []
        self.begun: list[tuple[tuple[str, ...], int, int]] = []
        self.last: FakeCandidates | None = None

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        first: int = 0,
        given: Sequence[np.ndarray] | None = None,
    ) -> FakeCandidates:
        self.begun.append((tuple(keys), candidates, frames))
        self.last = FakeCandidates(keys, candidates, frames, seed, first)
        self.last.overflows = self.overflows
        for index, tokens in enumerate(given or ()):
            rows = slice(index * candidates, (index + 1) * candidates)
            self.last.histories[rows] = [tokens[0].tolist() for _ in range(candidates)]
        return self.last

    def windows(self, frames: int) -> Span | None:
        return self.span if frames > self.span.length else None

    def unknown_tokens(self, prompt: str) -> tuple[int, int]:
        return sum(not word.isascii() for word in prompt.split()), len(prompt.split())

    def render(self, tokens: torch.Tensor) -> list[Clip]:
        self.rendered += len(tokens)
        self.lengths.append(tokens.shape[-1])
        return [Clip(self.sums(row.numpy()).astype(np.float32), RATE) for row in tokens]

    def sums(self, row: np.ndarray) -> np.ndarray:
        reach = self.context or 0
        padded = np.pad(row, ((0, 0), (reach, reach)))
        return np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1, axis=1).sum(2)

    def render_rest(self, tokens: torch.Tensor, beginnings: Sequence[Clip]) -> list[Clip]:
        (there,) = {clip.samples.shape[1] for clip in beginnings}
        start = max(0, there - (self.context or 0))
        rest = self.render(tokens[..., start:])
        return [
            Clip(np.hstack([begun.samples, more.samples[:, there - start :]]), RATE)
            for begun, more in zip(beginnings, rest, strict=True)
        ]

    def settled(self, clip: Clip, frames: int) -> Clip | None:
        if self.context is None or frames <= self.context:
            return None
        return Clip(clip.samples[:, : frames - self.context], RATE)

    def synchronize(self) -> None:
        pass

    def halve_rows(self) -> bool:
        return False


class Narrow(FakeGenerator):
    """Two prompts of four candidates side by side."""

    max_rows = 8


class FakeVerifier:
    """Scores by `value_of`; no score for the inputs for which `refuses` gives a reason."""

    name = "fake"
    needs_audio = True

    def __init__(self, refuses: Callable[[ScoreInput], str | None] = lambda item: None) -> None:
        self.checkpoints = {"fake": Checkpoint(name="fake", sha256="1" * 64)}
        self.refuses = refuses
        self.usage = Ledger()

    def score(self, inputs: Sequence[ScoreInput]) -> list[Score | NoScore]:
        self.usage.uploaded_bytes += 100 * len(inputs)
        self.usage.seconds["http"] += 1.0
        return [
            NoScore(reason=reason)
            if (reason := self.refuses(item))
            else Score(value=value_of(item.prompt, heard(item)))
            for item in inputs
        ]

    def take_usage(self) -> Ledger:
        usage, self.usage = self.usage, Ledger()
        return usage


def heard(item: ScoreInput) -> list[int]:
    assert item.clip is not None
    return [int(x) for x in item.clip.samples[0]]


class FakeJudge(ClipJudge):
    """Judges by the loudest sample; fails with `problem` where there is one."""

    higher_is_better = False
    needs_reference = False
    checkpoint = Checkpoint(name="fake", sha256="2" * 64)

    def __init__(
        self, name: str, shares: tuple[str, ...] = (), problem: str = "", own: tuple[str, ...] = ()
    ) -> None:
        self.name, self.shares_data_with, self.problem = name, shares, problem  # type: ignore[misc]
        self.is_verifier = own  # type: ignore[misc]
        self.calls = 0

    def number(self, clip: Clip, prompt: Prompt) -> float:
        self.calls += 1
        if self.problem:
            raise JudgeError(self.problem)
        return float(np.abs(clip.samples).max())


class FakeSetJudge(SetJudge):
    """Embeds a clip as its mean, and each reference as zero."""

    name = "fake_set"
    checkpoint = Checkpoint(name="fake", sha256="2" * 64)

    def __init__(self) -> None:
        pass

    def hear(self, clip: Clip, prompt: Prompt) -> np.ndarray:
        return clip.samples.mean(1, keepdims=True)

    def hear_reference(self, prompt: Prompt) -> np.ndarray:
        if prompt.id == "unreferenced":
            raise JudgeError("no reference")
        return np.zeros((1, 1), dtype=np.float32)
