"""The methods: sample, score, prune, expand, over a group of prompts side by side.

    baseline    one sample
    best_of_n   N samples, the verifier's best
    sbs         beam search: N first steps; score; keep the best K = N/M; M continuations of each;
                and again; the best of the N leaves
    lookahead   the same, each candidate scored at the end of a greedy rollout of k further steps
    dvts        K = N/M subtrees that never compete: each keeps the best of its own M candidates;
                the best of the N leaves
    halving     N0 samples; score after each step and go on with the better part alone; the best of
                those that are left

(Snell et al., arXiv 2408.03314, section 5.2; beam search is lookahead with k = 0. Diverse verifier
tree search: Beeching et al., Scaling test-time compute with open models, Hugging Face 2024.
Halving: as speculative rejection, Sun et al., arXiv 2410.20290. Nothing branches, so that its
winner is a plain sample of the model.)

Slots. Each prompt holds N candidates in slots 0..N-1, and what a slot samples depends on seed,
prompt, slot and position alone. So best_of_n's pool of n is the first n of any larger pool, and
the baseline is its slot 0. In a tree search a kept candidate's first child stays in its parent's
slot: it is the very continuation that the pool's candidate would have had, and beam search with M
= 1 is best_of_n. The other children fill the freed slots in ascending order, parents by rank.
Equal scores rank by slot. A subtree begins with M slots side by side (0..M-1, M..2M-1, ..), and
descendants belong to that of their first ancestor. Halving leaves every candidate in its slot: who
is left is what best_of_n's pool has there, and with nothing dropped it is best_of_n.

A candidate without a score is out: never kept, never the winner. Where fewer than K are scored, the
K families of M are dealt to those in turn, the best first. A subtree whose candidates are all out
takes part no more, and its family goes to the others in the same way. Where fewer are scored than
halving goes on with, those that are out fill the places, by slot: they cost what is planned, but
are not heard any more. A prompt of which no candidate has a score fails, and its rows stay where
they are (halving's first slots), so that every other prompt keeps its place.

The generator and the verifier are known here by what they do, not by their classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from src.budget import Ledger, Plan, Stage, timed
from src.data.prompts import Prompt
from src.protocol import NoScore, Score
from src.scoring import ScoreInput, Verifier
from src.tree import Failure, Node, SearchResult, Winner, children

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from src.data.audio import Clip

OVERFLOWED = NoScore(
    reason="the model's output is not a number: it overflowed in this --dtype; "
    "try --dtype bfloat16 or float32"
)


class Candidates(Protocol):
    """A batch of unfinished clips, prompt-major: row = prompt * candidates + slot, until `keep`.

    `tokens()` is int64 [rows, codebooks, finished frames]; `mean_log_prob()` float32 [rows], over
    codebooks and finished frames: with the text or, where `guided`, without it; NaN for a row in
    which the model overflowed. `select`: row i becomes the old row rows[i], in its own slot.
    `keep`: go on with these rows alone, in order, equally many of each prompt.
    """

    @property
    def guided(self) -> bool: ...
    @property
    def rows(self) -> int: ...
    @property
    def finished(self) -> int: ...
    def advance(self, frames: int, greedy: bool = False) -> None: ...
    def select(self, rows: Sequence[int]) -> None: ...
    def keep(self, rows: Sequence[int]) -> None: ...
    def mark(self) -> Any: ...
    def rewind(self, mark: Any) -> None: ...
    def tokens(self) -> Any: ...
    def mean_log_prob(self, conditional: bool = True) -> Any: ...


class Generator(Protocol):
    """Begins candidates and renders tokens int64 [B, codebooks, frames] to clips.

    given: of each prompt, the tokens with which all its candidates begin, [codebooks, frames].
    `settled`: the beginning of a clip that nothing but its first so many frames has a part in, or
    None; `render_rest`: as `render`, where such beginnings, all of one length, are there already.
    """

    def begin(
        self,
        prompts: Sequence[str],
        keys: Sequence[str],
        candidates: int,
        frames: int,
        seed: int,
        given: "Sequence[NDArray[np.int16]] | None" = None,
    ) -> Candidates: ...
    def render(self, tokens: Any) -> "list[Clip]": ...
    def render_rest(self, tokens: Any, beginnings: "Sequence[Clip]") -> "list[Clip]": ...
    def settled(self, clip: "Clip", frames: int) -> "Clip | None": ...
    def synchronize(self) -> None: ...


def search(
    plan: Plan,
    prompts: Sequence[Prompt],
    generator: Generator,
    verifier: Verifier,
    seed: int,
    keep_leaves: bool = False,
) -> list[SearchResult | Failure]:
    """Search one group of prompts by the plan's method; results are in the prompts' order.

    keep_leaves: give the clips of all candidates of the last step, not the winner's alone.
    A prompt without any score becomes a Failure and the others go on. Raises BudgetError when the
    cost is not the plan's, and VerifierError when the verifier itself fails.
    """
    group = Group(plan, prompts, generator, verifier, seed)
    plan.method.run(group)
    return group.results(keep_leaves)


Keep = Callable[["Group", int, list[Node]], list[Node]]


def best(group: "Group", prompt: int, ranked: list[Node]) -> list[Node]:  # noqa: ARG001
    """Prune to the best K. (prompt: its place in the group; ranked: its scored candidates, best
    first.)"""
    return ranked[: group.plan.kept]


def best_of_each(group: "Group", prompt: int, ranked: list[Node]) -> list[Node]:
    """Prune to the best of each subtree, these best first."""
    first: dict[int, Node] = {}
    for node in ranked:
        first.setdefault(group.ancestor(prompt, node).slot // group.plan.beam_width, node)
    return list(first.values())


def best_of_n(group: "Group") -> None:
    """N whole clips, scored once. The baseline is the best of one."""
    group.sample(group.plan.frames)
    group.score()


def tree_search(group: "Group", keep: Keep = best) -> None:
    """Beam search, which sees each candidate as far as its rollout goes (k = 0: not beyond it).

    keep: chooses a prompt's K parents among its scored candidates.
    """
    *earlier, last = group.plan.steps
    for step, frames in enumerate(earlier):
        group.sample(frames)
        with group.rollout(group.plan.rollout(step)):
            group.score()
        group.prune_and_expand(keep)
    group.sample(last)
    group.score()


def diverse_search(group: "Group") -> None:
    """Beam search in subtrees that do not compete with each other."""
    tree_search(group, best_of_each)


def halving(group: "Group") -> None:
    """Samples that leave the batch as soon as others are better."""
    *earlier, last = group.plan.steps
    for frames in earlier:
        group.sample(frames)
        group.score()
        group.prune()
    group.sample(last)
    group.score()


class Group:
    """The state of a search: candidates of several prompts, their trees, scores and ledgers."""

    def __init__(
        self,
        plan: Plan,
        prompts: Sequence[Prompt],
        generator: Generator,
        verifier: Verifier,
        seed: int,
    ) -> None:
        self.plan, self.prompts, self.generator, self.verifier = plan, prompts, generator, verifier
        self.seed = seed
        self.live = {index: Ledger() for index in range(len(prompts))}
        self.failures: dict[int, Failure] = {}
        self.nodes: list[list[Node]] = [[] for _ in prompts]
        self.parents: list[list[int | None]] = [[None] * plan.candidates for _ in prompts]
        self.slots = [list(range(plan.candidates)) for _ in prompts]  # of a prompt's rows, in order
        self.out: dict[tuple[int, int], NoScore] = {}  # prompt and slot, once without a score
        self.step = 0
        self.clips: dict[int, Clip] = {}  # by row: of now, rendered in one piece
        self.settled: dict[int, Clip] = {}  # by row: the beginning that later frames leave as it is
        self.own_frames: int | None = None  # without the rollout's, during one
        self.own_log_probs: list[float] | None = None
        with self._timed("conditions"):
            self.candidates = generator.begin(
                [p.text for p in prompts],
                [p.key for p in prompts],
                plan.candidates,
                plan.length,
                seed,
                [p.given for p in prompts if p.given is not None] or None,
            )

    def sample(self, frames: int, greedy: bool = False) -> None:
        """Continue every candidate by that many frames."""
        if not self.live:
            return
        before = self.candidates.finished
        with self._timed("decode"):
            self.candidates.advance(frames, greedy=greedy)
        made = self.candidates.finished - before
        for ledger in self.live.values():
            ledger.frames += made * self.candidates.rows // len(self.prompts)

    @contextmanager
    def rollout(self, frames: int) -> Iterator[None]:
        """Inside: every candidate continued greedily by `frames`. Afterwards: as if nothing was."""
        if not frames:
            yield
            return
        self.own_frames = self.candidates.finished
        self.own_log_probs = self.candidates.mean_log_prob().tolist()
        mark = self.candidates.mark()
        self.sample(frames, greedy=True)
        yield
        with self._timed("decode"):
            self.candidates.rewind(mark)
        self.own_frames = self.own_log_probs = None

    def score(self) -> None:
        """Score every candidate as it is now, and note it in its prompt's tree.

        One in which the model overflowed is not heard: its tokens mean nothing. Nor is one that
        only fills a place.
        """
        if not self.live:
            return
        log_probs: list[float] = self.candidates.mean_log_prob().tolist()
        without: list[float | None] = [None] * self.candidates.rows
        if self.candidates.guided:
            without = self.candidates.mean_log_prob(conditional=False).tolist()
        places = {
            self._row(prompt, slot): (prompt, slot)
            for prompt in self.live
            for slot in self.slots[prompt]
        }
        rows = [
            row
            for row, place in places.items()
            if math.isfinite(log_probs[row]) and place not in self.out
        ]
        self.clips = {}
        heard: dict[int, Clip] = {}
        if self.verifier.needs_audio and rows:
            with self._timed("render"):
                heard = self._hear(rows)
        inputs = [
            ScoreInput(
                self.prompts[places[row][0]].text,
                heard.get(row),
                log_probs[row],
                without[row],
            )
            for row in rows
        ]
        outcomes = dict(zip(rows, self.verifier.score(inputs) if rows else (), strict=True))
        self._book_scoring()
        own = self.own_log_probs or log_probs
        for prompt, ledger in list(self.live.items()):
            ledger.clips += len(self.slots[prompt])  # those without a score included
            for slot in self.slots[prompt]:
                row, parent = self._row(prompt, slot), self.parents[prompt][slot]
                score = outcomes.get(row, self.out.get((prompt, slot), OVERFLOWED))
                self.nodes[prompt].append(Node(self.step, slot, parent, score, own[row]))
            if not self._ranked(prompt):
                self._drop(prompt)

    def prune_and_expand(self, keep: Keep = best) -> None:
        """Keep K of each prompt's candidates and put M copies of each in its slots."""
        with self._timed("selection"):
            rows = list(range(self.candidates.rows))
            for prompt in self.live:
                kept = keep(self, prompt, self._ranked(prompt))
                for node in kept:
                    node.kept = True
                slots = [node.slot for node in kept]
                parents = children(slots, self.plan.kept, self.plan.beam_width)
                self.parents[prompt] = list(parents)
                for slot, parent in enumerate(parents):
                    rows[self._row(prompt, slot)] = self._row(prompt, parent)
            self.candidates.select(rows)
            self._hand_down(rows)
        self.step += 1

    def prune(self) -> None:
        """Go on with the better part of each prompt's candidates alone, each in its slot."""
        if not self.live:
            return
        with self._timed("selection"):
            held, left = self.plan.held[self.step + 1], []
            for prompt, slots in enumerate(self.slots):
                ranked = self._ranked(prompt)
                for node in ranked[:held]:
                    node.kept = True
                scored = [node.slot for node in ranked]
                others = [slot for slot in slots if slot not in scored]
                left.append(sorted([*scored, *others][:held]))
                for node in self._current(prompt):
                    if isinstance(node.score, NoScore):
                        self.out[prompt, node.slot] = node.score
                self.parents[prompt] = list(range(self.plan.candidates))
            rows = [self._row(prompt, slot) for prompt, own in enumerate(left) for slot in own]
            self.candidates.keep(rows)
            self._hand_down(rows)
            self.slots = left
        self.step += 1

    def ancestor(self, prompt: int, node: Node) -> Node:
        """The candidate of the first step that a node descends from."""
        nodes = {(n.step, n.slot): n for n in self.nodes[prompt]}
        while node.parent is not None:
            node = nodes[node.step - 1, node.parent]
        return node

    def results(self, keep_leaves: bool = False) -> list[SearchResult | Failure]:
        """Each prompt's best leaf, its cost held against the plan."""
        winners = {prompt: self._ranked(prompt)[0] for prompt in self.live}
        rows = {prompt: self._row(prompt, node.slot) for prompt, node in winners.items()}
        with self._timed("render"):
            self._render(rows.values())
        leaves = self.slots if keep_leaves else [[] for _ in self.prompts]  # no cost of the search
        self._render(self._row(prompt, slot) for prompt in self.live for slot in leaves[prompt])
        tokens = self.candidates.tokens()
        results: list[SearchResult | Failure] = []
        for index, prompt in enumerate(self.prompts):
            if index in self.failures:
                results.append(self.failures[index])
                continue
            node, row = winners[index], rows[index]
            assert isinstance(node.score, Score)
            node.kept = True
            self.live[index].check(self.plan.expected())
            own = np.asarray(tokens[row].cpu(), dtype=np.int16)
            results.append(
                SearchResult(
                    prompt=prompt,
                    method=self.plan.method.name,
                    winner=Winner(node.slot, node.score, node.log_prob, own, self.clips[row]),
                    nodes=self.nodes[index],
                    ledger=self.live[index],
                    leaves={slot: self.clips[self._row(index, slot)] for slot in leaves[index]},
                )
            )
        return results

    def _row(self, prompt: int, slot: int) -> int:
        return prompt * len(self.slots[prompt]) + self.slots[prompt].index(slot)

    def _current(self, prompt: int) -> list[Node]:
        """The current step's candidates."""
        return [node for node in self.nodes[prompt] if node.step == self.step]

    def _ranked(self, prompt: int) -> list[Node]:
        """Those of them that have a score, best first."""
        scored = [node for node in self._current(prompt) if isinstance(node.score, Score)]
        return sorted(scored, key=lambda node: (-node.value, node.slot))

    def _drop(self, prompt: int) -> None:
        """Let a prompt fail whose candidates of this step are all out; the first says why."""
        first = self._current(prompt)[0]
        assert isinstance(first.score, NoScore)
        self.failures[prompt] = Failure(
            prompt=self.prompts[prompt],
            method=self.plan.method.name,
            step=self.step,
            slot=first.slot,
            verifier="generator" if first.score is OVERFLOWED else self.verifier.name,
            reason=first.score.reason,
            ledger=self.live.pop(prompt),
        )

    def _hear(self, rows: Sequence[int]) -> "dict[int, Clip]":
        """The rows' audio as it is now, by row; only what is not settled yet is rendered."""
        tokens = self.candidates.tokens()[rows]
        if all(row in self.settled for row in rows):
            clips = self.generator.render_rest(tokens, [self.settled[row] for row in rows])
            heard = dict(zip(rows, clips, strict=True))
        else:
            heard = dict(zip(rows, self.generator.render(tokens), strict=True))
            self.clips = heard
        frames = self.own_frames or self.candidates.finished
        settled = {row: self.generator.settled(clip, frames) for row, clip in heard.items()}
        self.settled = {row: clip for row, clip in settled.items() if clip is not None}
        return heard

    def _hand_down(self, parents: Sequence[int]) -> None:
        """Row i has become a copy of the old row parents[i], and has its settled beginning."""
        self.settled = {
            row: self.settled[parent]
            for row, parent in enumerate(parents)
            if parent in self.settled
        }

    def _render(self, rows: Iterable[int]) -> None:
        """Render those of the rows, each in one piece, that are not rendered so yet."""
        if lacking := [row for row in rows if row not in self.clips]:
            clips = self.generator.render(self.candidates.tokens()[lacking])
            self.clips.update(zip(lacking, clips, strict=True))

    def _book_scoring(self) -> None:
        usage = self.verifier.take_usage()
        for ledger in self.live.values():
            ledger.uploaded_bytes += usage.uploaded_bytes // len(self.live)
            for stage, seconds in usage.seconds.items():
                ledger.seconds[stage] += seconds / len(self.live)

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        with timed(self.live, stage):
            yield
            self.generator.synchronize()
