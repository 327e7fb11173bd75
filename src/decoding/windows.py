"""Clips that are longer than the model's window: decoded in windows that overlap.

    decoding = Windows(decoder, conditions, candidates=16, frames=2000, keys, seed, Span(1500, 900))
    decoding.advance(100)     # and everything else that a Decoding can do

The first window decodes frames 0 to `length`. Each next one begins `stride` frames later, is given
the last `length - stride` frames as their tokens, and goes on from there as if the clip began with
them: what lies further back is not seen any more. These are audiocraft's windows
(`MusicGen._generate_tokens`, its `extend_stride`), and greedy tokens equal its own.

A search sees nothing of it. The next window begins when a frame of it is asked for, so that rows
which left at a window's end are not fed again; when it begins makes no difference to its tokens.
Noise goes by the position in the clip, not in the window: none is used twice.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from src.budget import Span
from src.decoding.decoder import (
    Decoder,
    Decoding,
    Mark,
    kept_of_each,
    refuse_other_rows,
)
from src.decoding.likelihood import Likelihoods
from src.decoding.sampling import NoiseKey


@dataclass
class Place:
    """How far a clip has come.

    first: the frame with which the window begins. before: int64 [rows, codebooks, frames], what was
    there when it began: earlier windows' frames, and those given. log_probs: float32 [halves + 1,
    rows, codebooks, frames], of earlier windows' frames. window: None until it begins.
    """

    first: int
    before: Tensor
    log_probs: Tensor
    window: Decoding | None = None


class WindowsMark(NamedTuple):
    """A place to rewind to."""

    place: Place
    in_window: Mark


class Windows(Likelihoods):
    """As `Decoding`, which each window is. frames: more than one window has.

    first: of each prompt's slots. given: int64 [rows, codebooks, frames given], to start from;
    windows that they fill are only fed, for the log-probabilities.
    """

    @torch.inference_mode()
    def __init__(
        self,
        decoder: Decoder,
        conditions: Sequence[Tensor],
        candidates: int,
        frames: int,
        keys: Sequence[str],
        seed: int,
        span: Span,
        given: Tensor | None = None,
        first: int = 0,
    ) -> None:
        self.decoder, self.candidates, self.frames, self.span = decoder, candidates, frames, span
        self.guided = decoder.sampling.guided
        transformer = decoder.transformer
        self._texts = [transformer.texts(condition) for condition in conditions]
        slots = range(first, first + candidates)
        self._noise = [NoiseKey(seed, key, slot) for key in keys for slot in slots]
        shape = (self.rows, transformer.codebooks, 0)
        before = torch.zeros(shape, dtype=torch.int64, device=transformer.device)
        if given is not None:
            before = given.to(transformer.device)
        self._now = Place(0, before, before.new_zeros(1, *shape, dtype=torch.float32))
        self._marked: list[Place] = []
        while self._end < frames and self._end <= self.finished:
            self._in_window().advance(0)
            self._pass_on()

    @property
    def rows(self) -> int:
        return len(self._noise)

    @property
    def finished(self) -> int:
        now = self._now
        return now.before.shape[-1] if now.window is None else now.first + now.window.finished

    @torch.inference_mode()
    def advance(self, frames: int, greedy: bool = False) -> None:
        """Finish that many more frames of every row; greedy takes the likeliest tokens."""
        end = self.finished + frames
        if not 0 <= frames <= self.frames - self.finished:
            raise ValueError(
                f"cannot advance by {frames}: {self.finished} of {self.frames} frames are finished"
            )
        while True:
            self._in_window().advance(min(end, self._end) - self.finished, greedy)
            if self.finished == self._end < self.frames:
                self._pass_on()
            if self.finished == end:
                return

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the old row rows[i], of the same prompt, but keeps its noise."""
        refuse_other_rows(rows, self.rows, self.candidates)
        for window in self._windows():
            window.select(rows)
        self._take(rows)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order, equally many of each prompt."""
        candidates = kept_of_each(rows, self.rows, self.candidates)
        for window in self._windows():
            window.keep(rows)
        self._take(rows)
        self._noise = [self._noise[row] for row in rows]
        self.candidates = candidates

    def mark(self) -> WindowsMark:
        """Here and now, to rewind to, once. The window is held until then, also where its end is
        passed."""
        mark = self._in_window().mark()
        self._marked.append(copy.copy(self._now))
        return WindowsMark(self._marked[-1], mark)

    def rewind(self, mark: WindowsMark) -> None:
        """Forget what was decoded since the mark was made."""
        at = next(i for i, place in enumerate(self._marked) if place is mark.place)
        self._now, self._marked = mark.place, self._marked[:at]
        self._in_window().rewind(mark.in_window)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows' keys and values."""
        return sum(window.nbytes for window in self._windows())

    @torch.inference_mode()
    def tokens(self) -> Tensor:
        """The finished frames: int64 [rows, codebooks, finished]."""
        now = self._now
        if now.window is None:
            return now.before
        return torch.cat([now.before[..., : now.first], now.window.tokens()], -1)

    @torch.inference_mode()
    def all_log_probs(self) -> Tensor:
        """Of each frame as it was in the window that decoded it."""
        now = self._now
        known = now.log_probs.shape[-1]
        if now.window is None:
            if not known or known < self.finished:
                raise ValueError("no log-probabilities yet: advance first")
            return now.log_probs
        own = now.window.all_log_probs()
        if not known:
            return own
        return torch.cat([now.log_probs, own[..., known - now.first :]], -1)

    @property
    def _end(self) -> int:
        """The frame before which the window ends."""
        return min(self._now.first + self.span.length, self.frames)

    @torch.inference_mode()
    def _in_window(self) -> Decoding:
        """The window; it begins where it has not yet."""
        now = self._now
        if now.window is None:
            known = now.before[..., now.first : self._end]
            now.window = self.decoder.decode(
                self._texts,
                self._noise,
                self._end - now.first,
                known if known.shape[-1] else None,
                now.first,
            )
            if self._marked:  # rows may leave at the clip's end too, before it is rewound
                now.window.mark()
        return now.window

    def _pass_on(self) -> None:
        """The window has come to its end: what it decoded stays, and the next one may begin.

        Its past is gone, unless it is marked."""
        now, tokens = self._now, self.tokens()
        rest = now.before[..., tokens.shape[-1] :]  # given, of windows to come
        tokens = torch.cat([tokens, rest], -1)
        self._now = Place(now.first + self.span.stride, tokens, self.all_log_probs())

    def _windows(self) -> list[Decoding]:
        """Those that are held, each once."""
        held = [place.window for place in (self._now, *self._marked) if place.window is not None]
        return list({id(window): window for window in held}.values())

    def _take(self, rows: Sequence[int]) -> None:
        """Of what earlier windows have left, these rows, in this order."""
        index = torch.tensor(rows, device=self.decoder.transformer.device)
        for place in (self._now, *self._marked):
            place.before = place.before[index]
            place.log_probs = place.log_probs[:, index]
