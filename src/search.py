"""The methods: sample, score, prune, expand, over a group of prompts side by side.

    baseline          one sample
    best_of_n         N samples, the verifier's best
    soft_best_of_n    N samples, one of them drawn by softmax(score / lambda)
    waves             N samples at most, in waves: it stops when one more is not worth its price
    sbs               beam search: N first steps; score; keep the best K = N/M; M continuations of
                      each; and again; the best of the N leaves
    lookahead         the same, each candidate scored at the end of a greedy rollout of k steps
    dvts              K = N/M subtrees that never compete: each keeps the best of its own M
                      candidates; the best of the N leaves
    halving           N0 samples; score after each step and go on with the better part alone; the
                      best of those that are left
    smc               N particles, weighed by how their scores grow; where few weigh most, resample
    power             the same, weighed by how likely the generator finds them: no verifier until
                      the end

Sources: beam search and lookahead, Snell et al., arXiv 2408.03314, section 5.2 (beam search is
lookahead with k = 0). Diverse verifier tree search: Beeching et al., Scaling test-time compute with
open models, Hugging Face 2024. Halving: as speculative rejection, Sun et al., arXiv 2410.20290.
Soft best-of-N: arXiv 2506.19248. Waves: Pandora's rule, arXiv 2510.01394 (Weitzman
1979). Particles: Puri et al., arXiv 2502.01618; power: arXiv 2510.14901.

Slots. Each prompt holds N candidates in slots 0..N-1, and what a slot samples depends on seed,
prompt, slot and position alone. So best_of_n's pool of n is the first n of any larger pool, and
the baseline is its slot 0. In a tree search a kept candidate's first child stays in its parent's
slot: it is the very continuation that the pool's candidate would have had, and beam search with M
= 1 is best_of_n. The other children fill the freed slots in ascending order, parents by rank.
Equal scores rank by slot. A subtree begins with M slots side by side (0..M-1, M..2M-1, ..), and
descendants belong to that of their first ancestor. Particles that are not resampled and samples
that halving goes on with stay in their slots: they are what best_of_n's pool has there. What is
drawn besides (a winner, which particles are copied) follows from seed and prompt as well.

A candidate without a score is out: never kept, never the winner. Where fewer than K are scored, the
K families of M are dealt to those in turn, the best first. A subtree whose candidates are all out
takes part no more, and its family goes to the others in the same way. Where fewer are scored than
halving goes on with, those that are out fill the places, by slot: they cost what is planned, but
are not heard any more. Particles are resampled where one is out. A prompt of which no candidate has
a score fails, and its rows stay where they are (halving's first slots), so that every other prompt
keeps its place.
"""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from src.budget import Cost, Plan
from src.data.prompts import Prompt
from src.scoring import Verifier
from src.stats.stopping import is_enough
from src.tree.generation import Generator
from src.tree.group import Array, Group, Results
from src.tree.node import Node, children, copies, joined


def search(
    plan: Plan,
    prompts: Sequence[Prompt],
    generator: Generator,
    verifier: Verifier,
    seed: int,
    keep_leaves: bool = False,
    value: Verifier | None = None,
) -> Results:
    """Search one group of prompts by the plan's method; results are in the prompts' order.

    keep_leaves: give the clips of all candidates of the last step, not the winner's alone. value:
    by which candidates are kept before the last step, in the verifier's place.
    A prompt without any score becomes a Failure and the others go on. Raises BudgetError when the
    cost is not the plan's, and VerifierError when the verifier itself fails.
    """
    group = Group(plan, prompts, generator, verifier, seed, keep_leaves, value=value)
    return plan.method.run(group)


Keep = Callable[[Group, int, list[Node]], list[Node]]


def best(group: Group, prompt: int, ranked: list[Node]) -> list[Node]:  # noqa: ARG001
    """Prune to the best K. (prompt: its place in the group; ranked: its scored candidates, best
    first.)"""
    return ranked[: group.plan.kept]


def best_of_each(group: Group, prompt: int, ranked: list[Node]) -> list[Node]:
    """Prune to the best of each subtree, these best first."""
    first: dict[int, Node] = {}
    for node in ranked:
        first.setdefault(group.ancestor(prompt, node).slot // group.plan.beam_width, node)
    return list(first.values())


def best_of_n(group: Group) -> Results:
    """N whole clips, scored once. The baseline is the best of one."""
    group.sample(group.plan.frames)
    group.score()
    return group.results()


def soft_best_of_n(group: Group) -> Results:
    """Best-of-N of scores with noise: the largest of score + lambda * Gumbel noise is drawn by
    softmax(score / lambda)."""
    group.sample(group.plan.frames)
    group.score()
    softness = group.plan.parameters["soften"]
    for prompt in group.live:
        ranked = group.ranked(prompt)
        noise = [-math.log(-math.log(uniform(group, prompt, node.slot))) for node in ranked]
        noisy = [node.value + softness * x for node, x in zip(ranked, noise, strict=True)]
        group.chosen[prompt] = ranked[int(np.argmax(noisy))]
    return group.results()


def waves(group: Group) -> Results:
    """Best-of-N, wave by wave: prompts of which one more sample is not worth its price stop.

    A prompt of which no candidate has a score goes on.
    """
    plan, results = group.plan, dict(enumerate(best_of_n(group)))
    for first in range(plan.candidates, plan.budget, plan.candidates):
        wanted = [p for p, result in results.items() if not has_enough(result.nodes, plan)]
        if not wanted:
            break
        wave = replace(plan, candidates=min(plan.candidates, plan.budget - first))
        found = best_of_n(group.following(wanted, wave, first))
        for prompt, result in zip(wanted, found, strict=True):
            results[prompt] = joined(results[prompt], result)
    for result in results.values():
        result.ledger.check(Cost(len(result.nodes) * plan.frames, len(result.nodes)))
    return list(results.values())


def has_enough(nodes: Sequence[Node], plan: Plan) -> bool:
    scores = [node.value for node in nodes if math.isfinite(node.value)]
    return bool(scores) and bool(is_enough(np.array(scores), plan.parameters["price"]))


def tree_search(group: Group, keep: Keep = best) -> Results:
    """Beam search, which sees each candidate as far as its rollout goes (k = 0: not beyond it).

    keep: chooses a prompt's K parents among its scored candidates.
    """
    *earlier, last = group.plan.steps
    for step, frames in enumerate(earlier):
        group.sample(frames)
        with group.rollout(group.plan.rollout(step)):
            group.score()
        group.expand(partial(parents_of, group, keep))
    group.sample(last)
    group.score()
    return group.results()


def parents_of(group: Group, keep: Keep, prompt: int) -> list[int]:
    """Of a prompt's slots, where M children of each that is kept take the places of all."""
    kept = [node.slot for node in keep(group, prompt, group.ranked(prompt))]
    return children(kept, group.plan.kept, group.plan.beam_width)


def diverse_search(group: Group) -> Results:
    """Beam search in subtrees that do not compete with each other."""
    return tree_search(group, best_of_each)


def halving(group: Group) -> Results:
    """Samples that leave the batch as soon as others are better."""
    *earlier, last = group.plan.steps
    for frames in earlier:
        group.sample(frames)
        group.score()
        group.prune()
    group.sample(last)
    group.score()
    return group.results()


def smc(group: Group) -> Results:
    """Particles of p(x) * exp(temper * score / spread), where p is the generator's distribution.

    spread: the standard deviation of a prompt's scores after the first step, before anything is
    resampled.
    """
    plan, particles = group.plan, Particles(group)
    scale = np.zeros((len(group.prompts), 1))
    for step, frames in enumerate(plan.steps):
        if step:
            particles.resample()
        group.sample(frames)
        group.score()
        values = group.values()
        for prompt in group.live if not step else ():
            scored = values[prompt][np.isfinite(values[prompt])]
            if np.ptp(scored) > 0:  # else their deviation is 0, or rounding
                scale[prompt] = plan.parameters["temper"] / np.std(scored)
        particles.weigh(np.multiply(scale, values, where=np.isfinite(values), out=values))
    if plan.parameters["draw"]:
        particles.draw()
    return group.results()


def power(group: Group) -> Results:
    """Particles of q(x)^alpha * (p(x|c) / p(x))^tilt.

    q: the distribution that tokens are drawn from (guided, at the temperature, of the k best); p:
    the model's own, with the text and without it. The verifier scores the finished clips.
    """
    plan, particles = group.plan, Particles(group)
    alpha, tilt = plan.parameters["alpha"], plan.parameters["tilt"]
    for step, frames in enumerate(plan.steps):
        group.sample(frames)
        potentials = (alpha - 1) * group.log_likelihood()
        potentials += tilt * group.mutual_information() if tilt else 0.0
        particles.weigh(np.where(np.isfinite(potentials), potentials, -np.inf))
        if step < len(plan.steps) - 1:
            group.note(potentials)
            particles.resample()
    group.score()
    if plan.parameters["draw"]:
        particles.draw()
    return group.results()


class Particles:
    """The weights of each prompt's candidates, logarithms, float64 [prompts, slots]."""

    def __init__(self, group: Group) -> None:
        self.group = group
        shape = len(group.prompts), group.plan.candidates
        self.log_weights, self.before = np.zeros(shape), np.zeros(shape)

    def weigh(self, potentials: Array) -> None:
        """potentials: the logarithms of what particles would weigh had none been resampled, up to a
        constant of each prompt; -inf for one that is out, NaN where a prompt has failed."""
        with np.errstate(invalid="ignore"):  # a failed prompt's
            self.log_weights += potentials - self.before
        self.before = potentials

    def resample(self) -> None:
        """Particles in proportion to their weights, of prompts whose effective sample size is less
        than half of them or where one is out."""
        self.group.expand(self._parents)

    def _parents(self, prompt: int) -> Sequence[int]:
        """In the clip's first half, by weights that are evened out: to the power 1 / max(1, (share
        of the clip that is left) / (effective share)), the entropic particle filter of its_hub."""
        of_prompt = self.log_weights[prompt]
        weights = normalised(of_prompt)
        effective = 1 / (len(weights) * np.square(weights).sum())
        if effective >= 0.5 and np.isfinite(of_prompt).all():
            return range(len(weights))
        plan = self.group.plan
        left = (plan.length - self.group.candidates.finished) / plan.frames
        if effective < 0.5 < left:
            weights = normalised(of_prompt / max(1.0, left / effective))
        parents = copies(systematic(weights, uniform(self.group, prompt, self.group.step)))
        self.log_weights[prompt] = 0.0
        self.before[prompt] = self.before[prompt][parents]
        return parents

    def draw(self) -> None:
        """Choose winners in proportion to the weights, among those with a score."""
        for prompt in self.group.live:
            nodes = self.group.current(prompt)
            scored = np.isfinite([node.value for node in nodes])
            weights = normalised(np.where(scored, self.log_weights[prompt], -np.inf))
            at = np.searchsorted(weights.cumsum(), uniform(self.group, prompt, "draw"))
            self.group.chosen[prompt] = nodes[min(at, np.flatnonzero(weights)[-1])]


def normalised(log_weights: Array) -> Array:
    """Weights that sum to 1."""
    weights = np.exp(log_weights - log_weights.max())
    return np.asarray(weights / weights.sum())


def systematic(weights: Array, start: float) -> list[int]:
    """How many copies each of n particles has: of n points at equal distances, the first at
    start / n, those that fall into its part of [0, 1) (systematic resampling).

    >>> systematic(np.array([0.5, 0.1, 0.4]), 0.5)
    [2, 0, 1]
    """
    ends = weights.cumsum()
    points = (np.arange(len(weights)) + start) / len(weights) * ends[-1]
    owners = np.searchsorted(ends, points, side="right")
    owners = np.minimum(owners, np.flatnonzero(weights)[-1])  # where rounding met the end
    return np.bincount(owners, minlength=len(weights)).tolist()


def uniform(group: Group, prompt: int, *what: object) -> float:
    """A random number in (0, 1) that belongs to seed, prompt and `what`."""
    key = json.dumps([group.seed, group.prompts[prompt].key, *what])
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return ((int.from_bytes(digest, "little") >> 12) + 0.5) * 2.0**-52
