"""Clips that are longer than the model's window: decoded in windows that overlap.

    decoding = Windows(decoder, conditions, candidates=16, frames=2000, keys, seed, Span(1500, 900))
    decoding.advance(100)     # and everything else that a Decoding can do

The first window decodes frames 0 to `length`. Each next one begins `stride` frames later, is given
the last `length - stride` frames as their tokens, and goes on from there as if the clip began with
them: what lies further back is not seen any more. These are audiocraft's windows
(`MusicGen._generate_tokens`, its `extend_stride`), and greedy tokens equal its own.

A search sees nothing of it. The next window begins when a frame of it is asked for, so that rows
that leave at a window's end are not fed again; when it begins makes no difference to its tokens.
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
from src.decoding.decoder import Decoder, Decoding, Mark
from src.decoding.likelihood import Likelihoods
from src.decoding.sampling import NoiseKey


@dataclass
class Place:
    """How far a clip has come: its current window, and what earlier ones have left.

    first: the frame with which the window begins. before: int64 [rows, codebooks, frames], what was
    there when it began, given frames beyond its end included. log_probs: float32 [halves + 1, rows,
    codebooks, frames], of earlier windows' frames.
    """

    window: Decoding
    first: int
    before: Tensor
    log_probs: Tensor


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
        self.decoder, self.frames, self.span = decoder, frames, span
        self.guided = decoder.sampling.guided
        transformer = decoder.transformer
        self._texts = [transformer.texts(condition) for condition in conditions]
        slots = range(first, first + candidates)
        self._noise = [NoiseKey(seed, key, slot) for key in keys for slot in slots]
        nothing = torch.zeros((self.rows, transformer.codebooks, 0), device=transformer.device)
        before = nothing.long() if given is None else given.to(transformer.device)
        self._marked: list[Place] = []
        self._now = self._begin(0, before, nothing[None])
        while self._is_passed:
            self._now.window.advance(0)
            self._pass_on()

    @property
    def rows(self) -> int:
        return len(self._noise)

    @property
    def finished(self) -> int:
        return self._now.first + self._now.window.finished

    @torch.inference_mode()
    def advance(self, frames: int, greedy: bool = False) -> None:
        """Finish that many more frames of every row; greedy takes the likeliest tokens."""
        if not 0 <= frames <= self.frames - self.finished:
            raise ValueError(
                f"cannot advance by {frames}: {self.finished} of {self.frames} frames are finished"
            )
        end = self.finished + frames
        while True:
            if self._is_passed and self.finished < end:
                self._pass_on()
            window = self._now.window
            window.advance(min(end - self.finished, window.frames - window.finished), greedy)
            if self.finished == end:
                return

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the old row rows[i], of the same prompt, but keeps its noise."""
        for window in self._windows():
            window.select(rows)
        self._take(rows)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order, equally many of each prompt."""
        for window in self._windows():
            window.keep(rows)
        self._take(rows)
        self._noise = [self._noise[row] for row in rows]

    @torch.inference_mode()
    def mark(self) -> WindowsMark:
        """Here and now, to rewind to, once. The window is held until then, also where its end is
        passed."""
        if self._is_passed:  # the next one need not begin a second time after the rewind
            self._pass_on()
        self._marked.append(copy.copy(self._now))
        return WindowsMark(self._marked[-1], self._now.window.mark())

    def rewind(self, mark: WindowsMark) -> None:
        """Forget what was decoded since the mark was made."""
        at = next(i for i, place in enumerate(self._marked) if place is mark.place)
        self._now, self._marked = mark.place, self._marked[:at]
        self._now.window.rewind(mark.in_window)

    @property
    def nbytes(self) -> int:
        """Bytes of all rows' keys and values."""
        return sum(window.nbytes for window in self._windows())

    @torch.inference_mode()
    def tokens(self) -> Tensor:
        """The finished frames: int64 [rows, codebooks, finished]."""
        now = self._now
        return torch.cat([now.before[..., : now.first], now.window.tokens()], -1)

    @torch.inference_mode()
    def all_log_probs(self) -> Tensor:
        """Of each frame as it was in the window that decoded it."""
        now, own = self._now, self._now.window.all_log_probs()
        known = now.log_probs.shape[-1]
        earlier = now.log_probs if known else own[..., :0]
        return torch.cat([earlier, own[..., known - now.first :]], -1)

    @property
    def _is_passed(self) -> bool:
        """Whether the window is at its end, and the clip is not."""
        window = self._now.window
        return window.finished == window.frames and self.finished < self.frames

    def _pass_on(self) -> None:
        """Begin the next window. The past of the one before is gone, unless it is marked."""
        tokens = self.tokens()
        given = self._now.before[..., tokens.shape[-1] :]
        before = torch.cat([tokens, given], -1)
        first, log_probs = self._now.first + self.span.stride, self.all_log_probs()
        self._now = self._begin(first, before, log_probs)

    def _begin(self, first: int, before: Tensor, log_probs: Tensor) -> Place:
        length = min(self.span.length, self.frames - first)
        known = before[..., first : first + length]
        given = known if known.shape[-1] else None
        window = self.decoder.decode(self._texts, self._noise, length, given, first)
        return Place(window, first, before, log_probs)

    def _windows(self) -> list[Decoding]:
        """Those that are held, each once."""
        held = [place.window for place in (self._now, *self._marked)]
        return list({id(window): window for window in held}.values())

    def _take(self, rows: Sequence[int]) -> None:
        """Of what earlier windows have left, these rows, in this order."""
        index = torch.tensor(rows, device=self.decoder.transformer.device)
        for place in (self._now, *self._marked):
            place.before = place.before[index]
            place.log_probs = place.log_probs[:, index]
