"""The branchable decoder: advance, select, mark, rewind, on the weights of an audiocraft `LMModel`.

    decoding = Decoder(lm).begin(conditions, candidates=16, frames=500, keys=keys, seed=42)
    decoding.advance(100)                    # every candidate has 100 frames
    decoding.select([3, 3, 7, 7, ...])       # the best go on, the others make room
    mark = decoding.mark()
    decoding.advance(100, greedy=True)       # a rollout to look ahead ...
    decoding.rewind(mark)                    # ... that never was
    decoding.keep([2, 5, 11])                # from here on these rows alone

Pausing, branching, rolling out and rewinding are exact: the tokens are those of an unpaused run.

Delay pattern. Sequence step s holds codebook k's token of frame s - 1 - delay[k] (delays 0, 1, 2,
3 for MusicGen) and a special token where there is no such frame; step 0 is all special. Feeding
the transformer step p gives step p + 1. So when frames < b are finished, the tokens that later
steps already hold of frames >= b are in flight: they belong to the state and to its branches.

Rows. Prompts lie one after the other, `candidates` rows each. Beyond `max_rows` rows the batch is
split into parts that advance one after the other, which nobody outside sees.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from src.decoding.device import memory_for
from src.decoding.graphs import GraphedPart, Lanes
from src.decoding.layers import Text
from src.decoding.likelihood import Likelihoods
from src.decoding.part import Part
from src.decoding.past import Ancestors, branch, move
from src.decoding.sampling import NoiseKey, Sampling, uniforms
from src.decoding.transformer import Transformer, UnsupportedModel, delays_of

if TYPE_CHECKING:
    from audiocraft.models import LMModel

MAX_ROWS = 64  # unless another number is asked for
LESS = "lower --max_rows or --duration, or take fewer candidates"

__all__ = ["Decoder", "Decoding", "Mark", "Sampling", "UnsupportedModel"]


class Decoder:
    """Begins decodings.

    dtype: float32, bfloat16, or, on a GPU, float16. graphs: whether steps are captured once as CUDA
    graphs and replayed; None: where there is a GPU.
    """

    def __init__(
        self,
        lm: LMModel,
        sampling: Sampling | None = None,
        dtype: torch.dtype = torch.float32,
        max_rows: int = MAX_ROWS,
        graphs: bool | None = None,
    ) -> None:
        self.transformer = Transformer(lm, dtype)
        self.sampling = sampling or Sampling()
        # two: a batch's last part may have fewer rows than the others
        self.pack = functools.lru_cache(maxsize=2)(self.transformer.pack)
        self.max_rows = max_rows
        self.delays = delays_of(lm)
        graphed = self.transformer.device.type == "cuda" if graphs is None else graphs
        self.lanes = Lanes() if graphed else None
        if dtype == torch.float16 and self.transformer.device.type == "cpu":
            raise ValueError("float16 needs a GPU; on a CPU take float32 or bfloat16")
        if max_rows < 1:
            raise ValueError(f"max_rows must be 1 or more, not {max_rows}")

    def row_bytes(self, frames: int) -> int:
        """Memory that decoding takes for each row of a clip of so many frames."""
        transformer, guided = self.transformer, self.sampling.guided
        vocabulary = transformer.codebooks * transformer.cardinality
        positions = frames + max(self.delays) + 1
        return row_bytes(positions, transformer.position_bytes(guided), vocabulary, guided)

    @torch.inference_mode()
    def begin(
        self,
        conditions: Sequence[Tensor],
        candidates: int,
        frames: int,
        keys: Sequence[str],
        seed: int,
        prompt_tokens: Tensor | None = None,
        first: int = 0,
    ) -> Decoding:
        """Candidates of several prompts, none of their frames finished but those given.

        conditions: the cross-attention source of each prompt, [length, dim], without padding.
        frames: the final length. keys: each prompt's, for its noise; slots of prompts with equal
        keys sample alike. prompt_tokens: int64 [prompts * candidates, codebooks, frames given].
        first: each prompt's candidates have the slots from this one on.
        """
        texts = [self.transformer.texts(condition) for condition in conditions]
        slots = range(first, first + candidates)
        noise = [NoiseKey(seed, key, slot) for key in keys for slot in slots]
        return self.decode(texts, noise, frames, prompt_tokens)

    @torch.inference_mode()
    def decode(
        self,
        texts: Sequence[Sequence[Text]],
        noise: Sequence[NoiseKey],
        frames: int,
        prompt_tokens: Tensor | None = None,
        start: int = 0,
    ) -> Decoding:
        """As `begin`, with each prompt's texts, by layer, and each row's noise key. start: the
        clip's frame with which the decoding begins: it decides which noise a frame has."""
        if self.lanes is not None:
            self.lanes.max_rows = self.max_rows
        decoding = Decoding(self, texts, noise, frames, start)
        if prompt_tokens is not None:
            decoding.give(prompt_tokens.to(self.transformer.device))
        return decoding


class Mark(NamedTuple):
    """A place to rewind to."""

    position: int
    finished: int


class Decoding(Likelihoods):
    """Rows being decoded: row = prompt * candidates + slot, until rows leave (`keep`).

    texts: of each prompt, by layer. noise: the rows' keys. start: the frame of the clip with which
    it begins.
    """

    def __init__(
        self,
        decoder: Decoder,
        texts: Sequence[Sequence[Text]],
        noise: Sequence[NoiseKey],
        frames: int,
        start: int = 0,
    ) -> None:
        self.decoder = decoder
        self._texts, self._noise, self._start = texts, noise, start
        # Whether the tokens' probability without the text is known.
        self.guided = decoder.sampling.guided
        self.rows = len(noise)
        self.candidates = self.rows // len(texts)
        self.frames = frames
        self.finished = 0
        self._position = 0  # the sequence step that the transformer takes next
        self._marked = False
        self._ancestors: list[Ancestors] = []  # of each prune, the oldest first
        transformer = decoder.transformer
        self._steps = 1 + frames + max(decoder.delays)
        self._positions = transformer.positions(self._steps)
        step = torch.arange(self._steps, device=transformer.device)[:, None]
        delays = torch.tensor(decoder.delays, device=transformer.device)
        self._frame = step - 1 - delays
        self._open = (self._frame >= 0) & (self._frame < frames)
        self._make_parts()

    @torch.inference_mode()
    def advance(self, frames: int, greedy: bool = False) -> None:
        """Finish that many more frames of every row; greedy takes the likeliest tokens."""
        if not 0 <= frames <= self.frames - self.finished:
            raise ValueError(
                f"cannot advance by {frames}: {self.finished} of {self.frames} frames are finished"
            )
        self.finished += frames
        end = self.finished + max(self.decoder.delays)
        with memory_for(f"decoding {self.rows} candidates of {self.frames} frames", LESS):
            for part in self._parts:
                part.advance(self._position, end, greedy)
                if self._is_over:
                    part.finish()
        self._position = max(self._position, end)

    @torch.inference_mode()
    def select(self, rows: Sequence[int]) -> None:
        """Row i becomes a copy of the old row rows[i], of the same prompt, but keeps its noise.

        Marks stay good: rewinding afterwards gives row i the past of the old row rows[i].
        """
        if len(rows) != self.rows:
            raise ValueError(f"{len(rows)} rows selected for {self.rows}")
        for row, source in enumerate(rows):
            if not 0 <= source < self.rows or source // self.candidates != row // self.candidates:
                raise ValueError(f"row {row} cannot become row {source}: another prompt's, or none")
        if list(rows) == list(range(self.rows)):
            return
        index = torch.tensor(rows, device=self.decoder.transformer.device)
        _reorder([part.sequence for part in self._parts], index)
        for of_parts in zip(*(part.log_probs for part in self._parts), strict=True):
            _reorder(of_parts, index)
        if self._is_over:
            return
        self._ancestors = [Ancestors(end, [of[r] for r in rows]) for end, of in self._ancestors]
        self._ancestors.append(Ancestors(self._position, list(rows)))
        branch([part.past for part in self._parts], rows, self._ancestors)

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows alone, in ascending order, equally many of each prompt.

        Each stays the candidate that it is, with its noise. Marks stay good. The parts are made
        anew, of as many rows as go together.
        """
        candidates = len(rows) // len(self._texts)
        owners = [prompt for prompt in range(len(self._texts)) for _ in range(candidates)]
        if not rows or [r // self.candidates for r in rows] != owners or sorted({*rows}) != [*rows]:
            raise ValueError("rows to keep: in ascending order, equally many of each prompt")
        if len(rows) == self.rows:
            return
        old = self._parts
        self._noise = [self._noise[row] for row in rows]
        self._ancestors = [Ancestors(end, [of[r] for r in rows]) for end, of in self._ancestors]
        self.rows, self.candidates = len(rows), candidates
        with memory_for(f"the {self.rows} candidates that go on", LESS):
            sequence = torch.cat([part.sequence for part in old])[list(rows)]
            log_probs = torch.cat([part.log_probs for part in old], 1)[:, list(rows)]
            self._make_parts()
            sizes = [part.rows for part in self._parts]
            of_parts = zip(sequence.split(sizes), log_probs.split(sizes, 1), strict=True)
            for part, own in zip(self._parts, of_parts, strict=True):
                part.take_over(*own)
            if not self._is_over:
                new = [part.past for part in self._parts]
                move([part.past for part in old], new, rows, self._position)
        for part in [*old, *self._parts] if self._is_over else old:
            part.finish()

    @property
    def _is_over(self) -> bool:
        """Nothing will be fed any more: parts can let go of their pasts one after the other."""
        return self.finished == self.frames and not self._marked

    def mark(self) -> Mark:
        """Here and now, to rewind to, once."""
        self._marked = True
        return Mark(self._position, self.finished)

    @torch.inference_mode()
    def rewind(self, mark: Mark) -> None:
        """Forget what was decoded since the mark was made."""
        if self._is_over:
            raise ValueError("all frames are finished and their past is gone: mark before")
        self._position, self.finished = mark
        self._marked = False
        for part in self._parts:
            part.past.rewind(self._position)
        # Of those that branched later, the oldest say the most: they share all that is left.
        later = [of for of in self._ancestors if of.end > self._position]
        self._ancestors = [of for of in self._ancestors if of.end <= self._position]
        self._ancestors += [Ancestors(self._position, of.rows) for of in later[:1]]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows' keys and values."""
        return sum(part.past.nbytes for part in self._parts)

    @torch.inference_mode()
    def tokens(self) -> Tensor:
        """The finished frames: int64 [rows, codebooks, finished]."""
        return torch.cat([self._by_frame(part.sequence) for part in self._parts])

    @torch.inference_mode()
    def all_log_probs(self) -> Tensor:
        if self._position < self.finished + max(self.decoder.delays) or not self.finished:
            raise ValueError("no log-probabilities yet: advance first")
        halves = zip(*(part.log_probs for part in self._parts), strict=True)
        return torch.stack(
            [torch.cat([self._by_frame(x) for x in of_parts]) for of_parts in halves]
        )

    def _by_frame(self, x: Tensor) -> Tensor:
        """[rows, steps, codebooks] -> the finished frames, [rows, codebooks, finished]."""
        first = [1 + delay for delay in self.decoder.delays]
        columns = [x[:, s : s + self.finished, k] for k, s in enumerate(first)]
        return torch.stack(columns, dim=1)

    def _make_parts(self) -> None:
        """Parts of all rows, none of their positions fed yet."""
        self._parts: list[Part] = []
        for prompts, slots in split(len(self._texts), self.candidates, self.decoder.max_rows):
            rows = [prompt * self.candidates + slot for prompt in prompts for slot in slots]
            texts = [self._texts[prompt] for prompt in prompts]
            self._add_part(texts, [self._noise[row] for row in rows])

    def _add_part(self, texts: Sequence[Sequence[Text]], noise: Sequence[NoiseKey]) -> None:
        """Rows to decode: their prompts' texts, by layer, and their noise keys."""
        decoder, transformer = self.decoder, self.decoder.transformer
        rows, device = len(noise), transformer.device
        shape = (rows, self._steps, transformer.codebooks)
        common: dict[str, Any] = {
            "sampling": decoder.sampling,
            "past": transformer.past(len(texts), rows // len(texts), self.guided),
            "positions": self._positions,
            "open": self._open,
            "sequence": torch.full(shape, transformer.cardinality, device=device),
            "log_probs": torch.zeros((3 if self.guided else 2, *shape), device=device),
            "noise": uniforms(noise, *shape[1:], device, self._start),
        }
        if decoder.lanes is None:
            own = decoder.pack(rows, self.guided)
            self._parts.append(Part(own, texts=transformer.side_by_side(texts), **common))
        else:
            stacked = [Text.stack(of_layer) for of_layer in zip(*texts, strict=True)]
            lanes = decoder.lanes
            self._parts.append(GraphedPart(transformer, texts=stacked, lanes=lanes, **common))

    @torch.inference_mode()
    def skip(self, frames: int) -> None:
        """As if that many more frames were finished, to time what a step takes there."""
        self.finished += frames
        self._position = self.finished + max(self.decoder.delays)
        for part in self._parts:
            part.skip(self._position)

    def give(self, tokens: Tensor) -> None:
        """Start from these frames, int64 [rows, codebooks, frames given]."""
        given = tokens.shape[-1]
        self._open &= self._frame >= given
        self.finished = self._position = given
        of_parts = tokens.split([part.rows for part in self._parts])
        with memory_for(f"the {given} frames given of {self.rows} candidates", LESS):
            for part, part_tokens in zip(self._parts, of_parts, strict=True):
                part.give(part_tokens, self.decoder.delays)


def row_bytes(positions: int, a_position: int, vocabulary: int, guided: bool = True) -> int:
    """Memory that decoding takes for a row. a_position: bytes; vocabulary: of all codebooks.

    Keys and values of all positions: no method keeps more of a row (those of tree searches share
    much of it). And what a step computes of the vocabulary, some ten times over.
    """
    return positions * a_position + 10 * 4 * vocabulary * (2 if guided else 1)


def _reorder(tensors: Sequence[Tensor], rows: Tensor) -> None:
    """One tensor a part, [its rows, ...]: select rows, int64 [all], over all parts, in place."""
    old = torch.cat(list(tensors)) if len(tensors) > 1 else tensors[0]
    for tensor, sources in zip(tensors, rows.split([len(t) for t in tensors]), strict=True):
        tensor.copy_(old.index_select(0, sources))


def split(prompts: int, candidates: int, max_rows: int) -> Iterator[tuple[range, range]]:
    """Prompts and slots of each part: whole prompts where they fit, else slices of one."""
    together = max(1, max_rows // candidates)
    slots = min(candidates, max_rows)
    for prompt in range(0, prompts, together):
        for slot in range(0, candidates, slots):
            yield (
                range(prompt, min(prompt + together, prompts)),
                range(slot, min(slot + slots, candidates)),
            )
