"""What a unit of work takes on this machine, measured in some seconds: nothing is searched or kept.

    rates = Trial(generator, prompts, seconds=5).decoding([(plan, 64), (other, 16)])

Decoding is timed around the middle of a clip, since attention grows with the past: what comes
before is skipped, and for a tree search shared as after a prune. Whatever is timed has run once
before. What is rendered are random tokens, and what is scored and judged is that noise: speed does
not depend on what is heard.
"""

import logging
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from src.budget import Plan
from src.client import PromptRefused, ServerClient
from src.data.audio import Clip
from src.data.files import as_json
from src.data.prompts import Prompt
from src.experiments.rates import Rates
from src.generator import Generator, Renderer
from src.judges.base import Judge
from src.protocol import Score
from src.runs.build import Parts
from src.runs.evaluation import judge_clip
from src.scoring import ScoreInput, Verifier
from src.search import children
from src.tree import Node

log = logging.getLogger(__name__)

SECONDS = 5.0
SOURCE = "a trial on this machine just now"
RECORD_BYTES = 1000  # about what a search's record has besides its tree
MOST_STEPS, MOST_CLIPS = 50, 8  # timed at once

Decoding = Callable[[Plan, int], float]  # seconds a frame, of so many candidates side by side


class Trial:
    """seconds: about how long one measurement may take, once everything has run."""

    def __init__(self, prompts: Sequence[Prompt], seconds: float) -> None:
        self.prompts, self.seconds = prompts, seconds

    def conditions(self, generator: Generator) -> float:
        """Seconds to encode a text."""
        for _ in range(2):
            generator.forget_conditions()
            spent = _seconds(lambda: generator.condition(self.prompts[0].text), generator)
        return spent

    def decoding(self, generator: Generator, shapes: Sequence[tuple[Plan, int]]) -> Decoding:
        """Of plans with so many rows each. Measured are the fewest and the most rows of those that
        decode whole clips, and of those that prune; in between it is a line."""
        lines: dict[bool, dict[int, float]] = {False: {}, True: {}}
        for prunes, line in lines.items():
            own = sorted((s for s in shapes if s[0].method.prunes == prunes), key=lambda s: s[1])
            for plan, rows in (*own[:1], *own[-1:]):
                line[rows] = line.get(rows) or self.step(generator, plan, rows)

        def rate(plan: Plan, rows: int) -> float:
            line = lines[plan.method.prunes]
            at = sorted(line)
            return float(np.interp(rows, at, [line[x] for x in at])) / rows

        return rate

    def step(self, generator: Generator, plan: Plan, rows: int) -> float:
        """Seconds of one position of that many rows, in the middle of a clip."""
        together = max(1, rows // plan.candidates)
        group = [self.prompts[i % len(self.prompts)] for i in range(together)]
        texts, keys = [p.text for p in group], [p.key for p in group]
        batch = generator.begin(texts, keys, rows // together, plan.frames, seed=0)
        if plan.method.prunes and (before := plan.steps[: len(plan.steps) // 2]):
            batch.skip(sum(before))
            kept = children(range(plan.kept), plan.beam_width)
            batch.select([i * plan.candidates + row for i in range(together) for row in kept])
            batch.skip(plan.steps[len(before)] // 2)
        else:
            batch.skip(plan.frames // 2)

        def advance(steps: int) -> float:
            mark = batch.mark()
            spent = _seconds(lambda: batch.advance(steps), generator)
            batch.rewind(mark)
            return spent

        advance(1)
        most = min(batch.frames - batch.finished, MOST_STEPS)
        steps = max(1, min(most, int(self.seconds / 2 / advance(1))))
        advance(steps)  # makes room, as a search does before a step
        return advance(steps) / steps

    def rendering(self, renderer: Renderer, frames: int) -> tuple[float, list[Clip]]:
        """Seconds a frame, and clips of that many frames."""
        codec = renderer.codec
        shape = (MOST_CLIPS, codec.num_codebooks, frames)
        tokens = torch.randint(codec.cardinality, shape)
        renderer.render(tokens[:1])
        count = self._count(_seconds(lambda: renderer.render(tokens[:1])))
        began = time.perf_counter()
        clips = renderer.render(tokens[:count])
        return (time.perf_counter() - began) / count / frames, clips

    def scoring(
        self, ask: Callable[[list[str], list[Clip]], object], clips: Sequence[Clip], name: str
    ) -> float:
        """Seconds a clip. ask: scores clips with their texts; raises PromptRefused."""
        for prompt in self.prompts[:MOST_CLIPS]:

            def some(count: int, text: str = prompt.text) -> object:
                return ask([text] * count, [*clips[:count]])

            try:
                some(1)
            except PromptRefused:
                continue
            count = min(len(clips), self._count(_seconds(partial(some, 1))))
            return _seconds(partial(some, count)) / count
        log.warning("%s refuses the first prompts: its time is not counted", name)
        return 0.0

    def judging(self, judges: Sequence[Judge], clips: Sequence[Clip], methods: int) -> float:
        """Seconds that all judges take for a clip. Each prompt's reference is heard once, for all
        of so many methods."""
        with tempfile.TemporaryDirectory() as folder:
            referenced = sorted(self.prompts, key=lambda prompt: not prompt.is_referenced)
            first, last = (referenced * 2)[:2]
            one, two, three = (replace(clip) for clip in [*clips, *clips, *clips][:3])

            def judge(prompt: Prompt, clip: Clip, name: str) -> float:
                return _seconds(lambda: judge_clip(clip, prompt, name, judges, Path(folder)))

            judge(first, one, "first")
            new, again = judge(last, two, "second"), judge(last, three, "third")
        return again + max(0.0, new - again) / methods

    def _count(self, once: float) -> int:
        return max(1, min(MOST_CLIPS, int(self.seconds / once)))


def asking(verifier: Verifier) -> Callable[[list[str], list[Clip]], list[Score]]:
    """A search's verifier, given texts and clips alone."""

    def ask(texts: list[str], clips: list[Clip]) -> list[Score]:
        inputs = [ScoreInput(*both, -3.0, -4.0) for both in zip(texts, clips, strict=True)]
        scores = verifier.score(inputs)
        verifier.take_usage()
        return scores

    return ask


def asking_server(client: ServerClient, name: str) -> Callable[[list[str], list[Clip]], object]:
    """One verifier of the server."""
    return lambda texts, clips: client.score([name], texts, clips)


def measure(
    parts: Parts, prompts: Sequence[Prompt], shapes: Sequence[tuple[Plan, int]], methods: int
) -> list[Rates]:
    """Of searches with these plans and so many rows each, about SECONDS in all.

    methods: how many hear each prompt's reference.
    """
    generator, verifier, judges = parts.generator, parts.verifier, parts.judges
    trial = Trial(prompts, SECONDS / (3 + 2 * len({plan.method.prunes for plan, _ in shapes})))
    log.info("measuring for some seconds how fast this machine is")
    decoding = trial.decoding(generator, shapes)
    rendered, clips = trial.rendering(generator, shapes[0][0].frames)
    a_clip = trial.scoring(asking(verifier), clips, verifier.name) if verifier.needs_audio else 0.0
    rates = Rates(
        prompts=trial.conditions(generator),
        rendered=rendered,
        heard=a_clip / shapes[0][0].frames,
        judged=trial.judging(judges, clips, methods) if judges else 0.0,
        source=SOURCE,
    )
    node = _node_bytes(verifier)
    return [
        replace(
            rates,
            frames=decoding(plan, rows),
            record_bytes=node + RECORD_BYTES / plan.expected().clips,
        )
        for plan, rows in shapes
    ]


def _node_bytes(verifier: Verifier) -> int:
    """What a scored clip takes in a record, its score and its place in the tree."""
    number = -3.4321237564086914
    parts = dict.fromkeys(verifier.checkpoints, number)
    node = Node(0, 0, 0, Score(value=number, components=parts), number)
    return len(as_json({**vars(node), "score": node.score.model_dump()}))


def _seconds(do: Callable[[], object], generator: Generator | None = None) -> float:
    began = time.perf_counter()
    do()
    if generator is not None:
        generator.synchronize()
    return max(time.perf_counter() - began, 1e-9)
