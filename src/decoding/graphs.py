"""Steps that are captured once, as CUDA graphs, and replayed.

A step of a small batch is hundreds of short kernels, and launching them takes a GPU's host longer
than running them takes the GPU. A graph launches all of them at once. It repeats the same kernels
on the same memory, so what a step reads and writes must stay in place, and its shapes must not
depend on the position:

    lane     a `Part` in memory of its own that stays; parts of the same shape use it in turn
    padding  the past is read in multiples of BUCKET positions, and a bias that the step makes from
             the position takes those out that are not there (yet)

There is one graph for each combination of padded lengths that occurs (every BUCKET positions, and
after a prune for what is shared then), and for greedy steps another. They serve all prompts.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from src.decoding.layers import Text
from src.decoding.part import Part
from src.decoding.past import Attended, Past, Stretch

BUCKET = 64  # positions: the own ones are read in multiples of it
SHARED_BUCKET = 128  # the shared ones
TEXT_BUCKET = 32  # tokens
STEPS_BUCKET = 512
GRAPHS_KEPT = 64  # of a lane

Replay = Callable[[], None]
GraphKey = tuple[tuple[int, ...], tuple[int, ...], bool]  # place, padded lengths, greedy


def capture(step: Callable[[], None], at: Tensor, pool: object) -> Replay:
    """What `step` does on the GPU, as a graph: the function returned launches it.

    at: int64 [1], what a step changes and does not overwrite: afterwards it is as before. Nothing
    else that was captured into the pool may run at the same time.
    """
    current, side = torch.cuda.current_stream(), torch.cuda.Stream()
    side.wait_stream(current)
    with torch.cuda.stream(side):  # what libraries set up at the first call is no part of a graph
        step()
        at.sub_(1)
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        step()
    replay: Replay = graph.replay
    return replay


class StaticPast(Past):
    """A past whose keys and values stay in place, read in padded lengths.

    at: int64 [1], the position that is fed. bounds: int64 [3], the first of the own positions, and
    how many positions the shared stretches have.
    """

    def __init__(self, like: Past, at: Tensor) -> None:
        halves = [cache.shape[1] for cache in like.own.caches]
        shape = (like.prompts, like.slots, halves, like.heads, like.head_dim)
        super().__init__(*shape, like.dtype, like.device)
        self.flash = False  # torch's kernel takes no biases, and would read what is padded
        self.at, self.places = at, self.order.clone()
        self.bounds = torch.zeros(3, dtype=torch.int64, device=like.device)
        self.moves = (0, 0)  # how often memory was taken anew: for the own, for the shared
        self._memory = [self.own.caches[0].new_empty(0) for _ in halves]  # of shared stretches
        self._offset, self._biases = at, [at]  # of the step that is fed

    def clear(self) -> None:
        """Nothing was fed; rows lie in their order."""
        self.shared, self.own.first, self.own.length = [], 0, 0
        torch.arange(self.rows, out=self.order)
        torch.arange(self.rows, out=self.places)
        self._clear_rest()
        self._note_bounds()

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in (*self.own.caches, *self._memory))

    @property
    def padded(self) -> tuple[int, ...]:
        """In what lengths the next step reads: groups and positions of the shared, the own ones."""
        shared = (n for s in self.shared for n in (s.groups, s.caches[0].shape[-2]))
        return (*shared, _ceil(self.own.length + 1, BUCKET))

    @property
    def place(self) -> tuple[int, ...]:
        """Where in memory the next step reads, the own and, if there are any, the shared ones."""
        return self.moves if self.shared else self.moves[:1]

    def reserve(self, end: int) -> None:
        wanted = end - self.own.first
        if wanted > min(cache.shape[-2] for cache in self.own.caches):
            self.moves = (self.moves[0] + 1, self.moves[1])
            super().reserve(self.own.first + _ceil(wanted, BUCKET))
            self._clear_rest()

    def release(self, layer: int) -> None:
        """Nothing: the memory is the lane's, for the parts that use it next."""

    def rewind(self, position: int) -> None:
        super().rewind(position)
        self._clear_rest()
        self._note_bounds()

    def prepare(self) -> None:
        """Where the next position is written, and which positions of the padded ones are there."""
        *shared, own = self.padded
        lengths = [*shared[1::2], own]
        self._offset = self.at - self.bounds[:1]
        at = torch.arange(max(lengths), device=self.device)
        limits = [self.bounds[1 + i] for i in range(len(self.shared))] + [self._offset + 1]
        self._biases = [
            torch.zeros(n, dtype=self.dtype, device=self.device).masked_fill_(
                at[:n] >= limit, -torch.inf
            )
            for n, limit in zip(lengths, limits, strict=True)
        ]

    def write(self, layer: int, keys_values: Tensor) -> None:
        if keys_values.shape[-2] > 1:
            super().write(layer, keys_values)
        else:
            self.own.caches[layer].index_copy_(5, self._offset, keys_values)

    def attended(self, layer: int) -> list[Attended]:
        *of_shared, of_own = self._biases
        own = self.own.caches[layer][..., : len(of_own), :]
        pairs = zip(self.shared, of_shared, strict=True)
        shared = [Attended.of(s.groups, s.caches[layer], bias) for s, bias in pairs]
        return [*shared, Attended.of(self.slots, own, of_own)]

    def keep(self, layer: int, made: Sequence[tuple[Stretch, Tensor]]) -> None:
        padded = [(*c.shape[:-2], _ceil(c.shape[-2], SHARED_BUCKET), c.shape[-1]) for _, c in made]
        sizes = [torch.Size(shape).numel() for shape in padded]
        if sum(sizes) > self._memory[layer].numel():
            self._memory[layer] = made[0][1].new_zeros(sum(sizes))
            self.moves = (self.moves[0], self.moves[1] + 1)
        places = self._memory[layer][: sum(sizes)].split(sizes)
        for (stretch, cache), place, shape in zip(made, places, padded, strict=True):
            kept = place.view(shape)
            kept[..., : cache.shape[-2], :] = cache
            kept[..., cache.shape[-2] :, :] = 0
            stretch.caches.append(kept)

    def arrange(self, order: Sequence[int], shared: Sequence[Stretch], end: int) -> None:
        places, fixed = self.places, self.order
        super().arrange(order, shared, end)
        self.order, self.places = fixed.copy_(self.order), places.copy_(self.places)
        self._clear_rest()
        self._note_bounds()

    def _clear_rest(self) -> None:
        """Zero the own positions that are not there yet: they are read with weight 0, and 0 times
        NaN, as fresh memory or a row that overflowed has it, is NaN."""
        for cache in self.own.caches:
            cache[..., self.own.length :, :] = 0

    def _note_bounds(self) -> None:
        for index, value in enumerate([self.own.first, *(s.length for s in self.shared)]):
            self.bounds[index].fill_(value)


class Lane(Part):
    """A part in memory that stays, and its captured steps. pool: the graphs' memory."""

    past: StaticPast
    texts: Sequence[Text]

    def __init__(self, part: GraphedPart, pool: object) -> None:
        rows, steps, codebooks = part.sequence.shape
        steps, length = _ceil(steps, STEPS_BUCKET), _ceil(part.text_length, TEXT_BUCKET)
        super().__init__(
            part.transformer,
            part.sampling,
            texts=[_room(text, length) for text in part.texts],
            past=part.past,
            positions=part.transformer.positions(steps),
            open=part.open.new_zeros(steps, codebooks),
            sequence=part.sequence.new_zeros(rows, steps, codebooks),
            log_probs=part.log_probs.new_zeros(len(part.log_probs), rows, steps, codebooks),
            noise=part.noise.new_zeros(rows, steps, codebooks),
        )
        self.past = StaticPast(part.past, self.at)
        self._pool = pool
        self._graphs: OrderedDict[GraphKey, Replay] = OrderedDict()

    def fits(self, part: GraphedPart) -> bool:
        return (
            (self.past.prompts, self.past.slots) == (part.past.prompts, part.past.slots)
            and part.sequence.shape[1] <= self.sequence.shape[1]
            and part.text_length <= self.texts[0].keys.shape[1]
        )

    def enter(self, part: GraphedPart) -> None:
        """Take over a part's state; its own is a view of this memory from now on."""
        steps = part.sequence.shape[1]
        self.past.clear()
        self.open[:steps] = part.open
        self.noise[:, :steps] = part.noise
        for room, text in zip(self.texts, part.texts, strict=True):
            _fill(room, text)
        part.past = self.past
        part.sequence = self.sequence[:, :steps].copy_(part.sequence)
        part.log_probs = self.log_probs[:, :, :steps].copy_(part.log_probs)

    def step(self, greedy: bool) -> None:
        """Replay the step's graph, captured where there is none yet."""
        place = self.past.place
        key = place, self.past.padded, greedy
        if key not in self._graphs:
            moves = self.past.moves
            for old in [old for old in self._graphs if old[0] != moves[: len(old[0])]]:
                del self._graphs[old]  # it would read memory that is gone
            step = functools.partial(self._run, greedy)
            self._graphs[key] = capture(step, self.at, self._pool)
            if len(self._graphs) > GRAPHS_KEPT:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        self._graphs[key]()

    def _run(self, greedy: bool) -> None:
        """The step itself, which is captured."""
        self.past.prepare()
        super().step(greedy)


class Lanes:
    """A decoder's lanes that are free.

    A lane holds the memory of its rows' past: as many are kept as have max_rows rows together.
    """

    def __init__(self) -> None:
        self.max_rows = 0
        self._free: list[Lane] = []  # the latest first

    @functools.cached_property
    def _pool(self) -> object:
        """The graphs' memory. It is kept by a graph of nothing: torch takes no more captures into a
        pool that all graphs have left, as those of a past that moved do."""
        if not torch.cuda.is_available():
            return None
        pool = torch.cuda.graph_pool_handle()
        self._keeper = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._keeper, pool=pool, capture_error_mode="thread_local"):
            torch.zeros(1, device="cuda")
        return pool

    def take(self, part: GraphedPart) -> Lane:
        """A lane that fits; new where none is free."""
        found = next((lane for lane in self._free if lane.fits(part)), None)
        if found is not None:
            self._free.remove(found)
        rows = itertools.accumulate((lane.rows for lane in self._free), initial=part.rows)
        next(rows)
        self._free = [lane for lane, n in zip(self._free, rows, strict=True) if n <= self.max_rows]
        return Lane(part, self._pool) if found is None else found

    def give_back(self, lane: Lane) -> None:
        self._free.insert(0, lane)


@dataclass(eq=False)
class GraphedPart(Part):
    """A part whose steps are replayed, in a lane that it has from its first step to its last.

    Where rows leave, a part of those that are left takes a lane of its own. `Lanes` may have let go
    of the larger one by the next prompts, whose steps are then captured anew.
    """

    texts: Sequence[Text]
    _: KW_ONLY
    lanes: Lanes

    def __post_init__(self) -> None:
        super().__post_init__()
        self._lane: Lane | None = None
        self._outside = self.past  # empty

    @property
    def text_length(self) -> int:
        return self.texts[0].keys.shape[1]

    def advance(self, start: int, end: int, greedy: bool) -> None:
        self._entered().advance(start, end, greedy)

    def give(self, tokens: Tensor, delays: Sequence[int]) -> None:
        self._entered()
        super().give(tokens, delays)

    def take_over(self, sequence: Tensor, log_probs: Tensor) -> None:
        self._entered()
        super().take_over(sequence, log_probs)

    def skip(self, end: int) -> None:
        self._entered()
        super().skip(end)

    def finish(self) -> None:
        """Leave the lane to others; tokens and log-probabilities become the part's own."""
        if self._lane is not None:
            self.sequence, self.log_probs = self.sequence.clone(), self.log_probs.clone()
            self.past, self._lane = self._outside, None
            self._leave()

    def _entered(self) -> Lane:
        if self._lane is None:
            self._lane = self.lanes.take(self)
            self._lane.enter(self)
            # also where a decoding is dropped before its end
            self._leave = weakref.finalize(self, self.lanes.give_back, self._lane)
            self._leave.atexit = False
        return self._lane


def _ceil(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _room(text: Text, length: int) -> Text:
    """Memory for texts of up to that many tokens, [prompts * heads, length, ..]."""
    rows, _, dim = text.keys.shape
    keys, values = (text.keys.new_zeros(rows, length, dim) for _ in range(2))
    return Text(keys, values, text.keys.new_zeros(rows, 1, length))


def _fill(room: Text, text: Text) -> None:
    """Copy a text that may be shorter; what is beyond it has weight zero."""
    length = text.keys.shape[1]
    assert room.bias is not None
    room.keys.zero_()[:, :length] = text.keys
    room.values.zero_()[:, :length] = text.values
    room.bias.fill_(-torch.inf)[:, :, :length] = 0 if text.bias is None else text.bias
