"""The state of a search: a group of prompts side by side, their candidates, trees and ledgers.

    group = Group(plan, prompts, generator, verifier, seed)
    group.sample(100)                       # the methods (src/search.py) are made of these verbs
    group.score()
    group.expand(lambda prompt: [0, 0, 1, 1])
    ...
    results = group.results()

The generator and the verifier are known here by what they do, not by their classes.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from src.budget import Ledger, Plan, Stage, timed
from src.data.prompts import Prompt
from src.protocol import NoScore, Score
from src.scoring import ScoreInput, Verifier
from src.tree.generation import Generator
from src.tree.node import Failure, Node, SearchResult, Winner

if TYPE_CHECKING:
    from src.data.audio import Clip

Array = NDArray[np.float64]
Results = list[SearchResult | Failure]

OVERFLOWED = NoScore(
    reason="the model's output is not a number: it overflowed in this --dtype; "
    "try --dtype bfloat16 or float32"
)


class Group:
    """Several prompts' candidates, of each the slots from `first` on.

    value: scores candidates of all steps but the last in the verifier's place. keep_leaves: results
    have the clips of all candidates of the last step, not the winner's alone. live: by prompt (its
    place in the group) the ledgers of those that have not failed.
    """

    def __init__(
        self,
        plan: Plan,
        prompts: Sequence[Prompt],
        generator: Generator,
        verifier: Verifier,
        seed: int,
        keep_leaves: bool = False,
        first: int = 0,
        value: Verifier | None = None,
    ) -> None:
        self.plan, self.prompts, self.generator, self.verifier = plan, prompts, generator, verifier
        self.value, self.seed, self.keep_leaves = value, seed, keep_leaves
        slots = range(first, first + plan.candidates)
        self.live = {index: Ledger() for index in range(len(prompts))}
        self.failures: dict[int, Failure] = {}
        self.nodes: list[list[Node]] = [[] for _ in prompts]
        self.parents: list[dict[int, int | None]] = [dict.fromkeys(slots) for _ in prompts]
        self.slots = [list(slots) for _ in prompts]  # of a prompt's rows, in order
        self.chosen: dict[int, Node] = {}  # a prompt's winner, where it is not the best
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
                first,
                [p.given for p in prompts if p.given is not None] or None,
            )

    def following(self, prompts: Iterable[int], plan: Plan, first: int) -> Self:
        """More candidates of these prompts, in the slots from `first` on: a group of their own."""
        left = [self.prompts[prompt] for prompt in prompts]
        known = (self.generator, self.verifier, self.seed, self.keep_leaves)
        return type(self)(plan, left, *known, first, self.value)

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

    @property
    def scoring(self) -> Verifier:
        """What scores the candidates of this step."""
        is_last = self.step == len(self.plan.steps) - 1
        return self.verifier if is_last or self.value is None else self.value

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
        if self.scoring.needs_audio and rows:
            with self._timed("render"):
                heard = self._hear(rows)
        inputs = [
            ScoreInput(
                self.prompts[places[row][0]].text,
                heard.get(row),
                log_probs[row],
                without[row],
                self.candidates.finished,
                self.prompts[places[row][0]].key,
            )
            for row in rows
        ]
        outcomes = dict(zip(rows, self.scoring.score(inputs) if rows else (), strict=True))
        self._book_scoring()
        own = self.own_log_probs or log_probs
        for prompt, ledger in list(self.live.items()):
            ledger.clips += len(self.slots[prompt])  # those without a score included
            for slot in self.slots[prompt]:
                row, parent = self._row(prompt, slot), self.parents[prompt][slot]
                score = outcomes.get(row, self.out.get((prompt, slot), OVERFLOWED))
                self.nodes[prompt].append(Node(self.step, slot, parent, score, own[row]))
            if not self.ranked(prompt):
                self._drop(prompt)

    def note(self, values: Array) -> None:
        """Note numbers in the trees without asking the verifier, [prompts, slots]; one that is not
        finite is a candidate in which the model overflowed."""
        own = self.candidates.mean_log_prob().tolist()
        for prompt in list(self.live):
            for slot, value in zip(self.slots[prompt], values[prompt].tolist(), strict=True):
                score = Score(value=value, components={}) if math.isfinite(value) else OVERFLOWED
                log_prob, parent = own[self._row(prompt, slot)], self.parents[prompt][slot]
                self.nodes[prompt].append(Node(self.step, slot, parent, score, log_prob))
            if not self.ranked(prompt):
                self._drop(prompt)

    def expand(self, choose: Callable[[int], Sequence[int]]) -> None:
        """Each slot becomes a copy of its parent. choose: of a prompt, the parents of its slots."""
        with self._timed("selection"):
            rows = list(range(self.candidates.rows))
            for prompt in self.live:
                parents = choose(prompt)
                self.parents[prompt] = dict(zip(self.slots[prompt], parents, strict=True))
                for node in self.current(prompt):
                    node.kept = node.slot in parents
                for slot, parent in zip(self.slots[prompt], parents, strict=True):
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
                ranked = self.ranked(prompt)
                for node in ranked[:held]:
                    node.kept = True
                scored = [node.slot for node in ranked]
                others = [slot for slot in slots if slot not in scored]
                left.append(sorted([*scored, *others][:held]))
                for node in self.current(prompt):
                    if isinstance(node.score, NoScore):
                        self.out[prompt, node.slot] = node.score
                self.parents[prompt] = {slot: slot for slot in slots}
            rows = [self._row(prompt, slot) for prompt, own in enumerate(left) for slot in own]
            self.candidates.keep(rows)
            self._hand_down(rows)
            self.slots = left
        self.step += 1

    def current(self, prompt: int) -> list[Node]:
        """A prompt's candidates of this step, once they are scored."""
        return [node for node in self.nodes[prompt] if node.step == self.step]

    def ranked(self, prompt: int) -> list[Node]:
        """Those of them that have a score, best first."""
        scored = [node for node in self.current(prompt) if isinstance(node.score, Score)]
        return sorted(scored, key=lambda node: (-node.value, node.slot))

    def values(self) -> Array:
        """Their scores, float64 [prompts, slots]: -inf for one without, NaN for failed prompts."""
        found = np.full((len(self.prompts), len(self.slots[0])), np.nan)
        for prompt in self.live:
            found[prompt] = [node.value for node in self.current(prompt)]
        return found

    def log_likelihood(self) -> Array:
        """The logarithm of the probability with which each candidate's tokens were drawn so far:
        guided, at the temperature, of the k best. float64 [prompts, slots], in nats."""
        return self._sums(self.candidates.mean_log_sampled())

    def mutual_information(self) -> Array:
        """log p(x|c) - log p(x) of each candidate's tokens so far, likewise; before guidance."""
        with_text, without = (self.candidates.mean_log_prob(conditional=c) for c in (True, False))
        return self._sums(with_text - without)

    def ancestor(self, prompt: int, node: Node) -> Node:
        """The candidate of the first step that a node descends from."""
        nodes = {(n.step, n.slot): n for n in self.nodes[prompt]}
        while node.parent is not None:
            node = nodes[node.step - 1, node.parent]
        return node

    def results(self) -> Results:
        """Each prompt's best leaf, or the one that was chosen; its cost held against the plan."""
        winners = {p: self.chosen.get(p) or self.ranked(p)[0] for p in self.live}
        rows = {prompt: self._row(prompt, node.slot) for prompt, node in winners.items()}
        with self._timed("render"):
            self._render(rows.values())
        leaves = self.slots if self.keep_leaves else [[] for _ in self.prompts]  # not its cost
        self._render(self._row(prompt, slot) for prompt in self.live for slot in leaves[prompt])
        tokens = self.candidates.tokens()
        results: Results = []
        for index, prompt in enumerate(self.prompts):
            if index in self.failures:
                results.append(self.failures[index])
                continue
            node, row = winners[index], rows[index]
            assert isinstance(node.score, Score)
            node.kept = True
            self.live[index].check(self.plan.expected(), self.plan.stops)
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

    def _sums(self, means: Any) -> Array:
        """Of a mean over tokens, float32 [rows]."""
        tokens = self.candidates.tokens()[0].numel()
        found: Array = np.asarray(means.tolist(), dtype=np.float64) * tokens
        return found.reshape(len(self.prompts), -1)

    def _row(self, prompt: int, slot: int) -> int:
        return prompt * len(self.slots[prompt]) + self.slots[prompt].index(slot)

    def _drop(self, prompt: int) -> None:
        """Let a prompt fail whose candidates of this step are all out; the first says why."""
        first = self.current(prompt)[0]
        assert isinstance(first.score, NoScore)
        self.failures[prompt] = Failure(
            prompt=self.prompts[prompt],
            method=self.plan.method.name,
            step=self.step,
            slot=first.slot,
            verifier="generator" if first.score is OVERFLOWED else self.scoring.name,
            reason=first.score.reason,
            ledger=self.live.pop(prompt),
            nodes=self.nodes[prompt],
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
        usage = self.scoring.take_usage()
        for ledger in self.live.values():
            ledger.uploaded_bytes += usage.uploaded_bytes // len(self.live)
            for stage, seconds in usage.seconds.items():
                ledger.seconds[stage] += seconds / len(self.live)

    @contextmanager
    def _timed(self, stage: Stage) -> Iterator[None]:
        with timed(self.live, stage):
            yield
            self.generator.synchronize()
