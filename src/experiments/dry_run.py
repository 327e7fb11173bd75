"""What a run will cost, said before it is begun: --dry_run. Nothing is generated or written.

    trial = Trial(generator, prompts, frames=500)
    rows = [search_row("sbs", plan, [todo], parts, trial)]
    print(report([run], rows))

Frames and clips are exact, of what is left: a plan's cost (src/budget.py) for every prompt of every
group in which a prompt is not finished. Seconds are those of a trial on this machine.
"""

import itertools
import logging
import tempfile
import time
from collections.abc import Callable, Hashable, Iterator, Sequence, Set
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial
from operator import mul
from pathlib import Path

import numpy as np
import torch

from src.budget import Plan, Span
from src.data.audio import Clip, encode_wav
from src.data.prompts import Prompt
from src.decoding.decoder import Decoding
from src.decoding.renderer import Renderer
from src.experiments.searching import group_size, groups
from src.generator import Generator
from src.judges.base import Judge
from src.protocol import NoScore, Score
from src.reports.table import ABSENT, document, figures, layout
from src.runs.build import Parts
from src.runs.evaluation import judge_clip
from src.runs.run import Run
from src.runs.settings import SaveAudio
from src.scoring import ScoreInput, Verifier
from src.tree.node import children

log = logging.getLogger(__name__)

SECONDS = 0.5  # for each thing that is timed
CLIPS = 4  # rendered and scored at once
# Of a search's record: what the committed results take, without a tree and a node of it.
RECORD_BYTES, NODE_BYTES = 1000, 210
NOTES = (
    "Frames and clips are exact; of a method that may stop before, the most. Time is an estimate: "
    "decoding, rendering, scoring and judging were timed here just now, for about a second each. "
    "Loading, references that judges hear, tables and figures are not counted.",
    "Memory: weights, keys and values; what the verifier server and the judges hold is not "
    "counted. Disk: audio, tokens and records.",
)


@dataclass
class Row:
    """One kind of work. left: prompts (or searches) that are not finished. frames: to be generated.
    clips: to be scored. memory, disk: bytes."""

    name: str
    left: int = 0
    frames: int = 0
    clips: int = 0
    seconds: float = 0.0
    memory: float = 0.0
    disk: float = 0.0


class Trial:
    """What things take on this machine, each timed when it is first asked for.

    Random tokens are rendered, and that noise is scored and judged: speed does not depend on what
    is heard. frames: of a whole clip.
    """

    def __init__(self, renderer: Renderer, prompts: Sequence[Prompt], frames: int) -> None:
        self.renderer, self.prompts, self.frames = renderer, prompts, frames
        self._known: dict[Hashable, float] = {}

    def search(self, plan: Plan, rows: int, parts: Parts) -> float:
        """Seconds of one prompt's search, where so many candidates are decoded side by side."""
        heard = sum(map(mul, plan.held, plan.heard())) if parts.verifier.needs_audio else 0
        scoring = heard / self.frames * self.scoring(parts.verifier) if heard else 0.0
        rendered = heard or plan.frames
        if heard and self.renderer.context is not None:  # then each frame about once
            rendered = sum(map(mul, plan.held, plan.steps))
        rendering = rendered / self.frames * self.rendering
        decoding = 0.0
        for step, (held, frames) in enumerate(zip(plan.held, plan.steps, strict=True)):
            made, together = held * (frames + plan.rollout(step)), min(held, plan.candidates)
            there, left = replace(plan, candidates=together), rows * together // plan.candidates
            decoding += made * self.step(parts.generator, there, left) / left
        for step, frames in plan.fed(parts.generator.windows(plan.length)):
            held = plan.held[step]
            left = rows * min(held, plan.candidates) // plan.candidates
            decoding += held * self.feeding(parts.generator, frames, left) / left
        return decoding + rendering + scoring

    def step(self, generator: Generator, plan: Plan, rows: int) -> float:
        """Seconds of one position of that many rows, in the middle of a clip: attention grows with
        the past, which is shared as after a prune."""
        key = plan.method.prunes, plan.beam_width, rows
        return self._once(key, lambda: self._time_step(generator, plan, rows))

    def feeding(self, generator: Generator, frames: int, rows: int) -> float:
        """Seconds of the frames with which that many rows begin, which are there already."""
        given = np.repeat(self.tokens[:1, :, :frames].numpy(), rows, 0)
        texts = [self.prompts[0].text] * rows

        def feed() -> None:
            generator.begin(texts, texts, 1, frames, 0, given=list(given))
            generator.synchronize()

        return self._once(("fed", frames, rows), lambda: seconds_of(feed))

    def scoring(self, verifier: Verifier) -> float:
        """Seconds a whole clip."""
        return self._once(verifier.name, lambda: self._time_scoring(verifier))

    def judging(self, judges: Sequence[Judge], again: bool = False) -> float:
        """Seconds that all of them take for a whole clip; again: for one that they have heard."""
        key = again, *(judge.name for judge in judges)
        return self._once(key, lambda: self._time_judging(judges, again)) if judges else 0.0

    def _once(self, key: Hashable, measure: Callable[[], float]) -> float:
        if key not in self._known:
            self._known[key] = measure()
        return self._known[key]

    def _time_step(self, generator: Generator, plan: Plan, rows: int) -> float:
        # A clip of several windows by its first: attention reaches no further.
        span = generator.windows(plan.length)
        plan = plan.cut(0, span.length if span else plan.length)
        together = max(1, rows // plan.candidates)
        group = [self.prompts[i % len(self.prompts)] for i in range(together)]
        texts, keys = [p.text for p in group], [p.key for p in group]
        batch = generator.begin(texts, keys, rows // together, plan.length, seed=0)
        assert isinstance(batch, Decoding)
        middle = len(plan.steps) // 2
        if middle:
            batch.skip(sum(plan.steps[:middle]))
            kept = children(range(plan.kept), plan.kept, plan.beam_width)
            batch.select([i * plan.candidates + row for i in range(together) for row in kept])
        batch.skip(plan.steps[middle] // 2)

        def step() -> None:
            mark = batch.mark()
            batch.advance(1)
            batch.rewind(mark)
            generator.synchronize()

        return seconds_of(step)

    @cached_property
    def clips(self) -> list[Clip]:
        return self.renderer.render(self.tokens)

    @cached_property
    def rendering(self) -> float:
        """Seconds a whole clip."""
        return seconds_of(lambda: self.renderer.render(self.tokens)) / CLIPS

    @cached_property
    def tokens(self) -> torch.Tensor:
        codec = self.renderer.codec
        return torch.randint(codec.cardinality, (CLIPS, codec.num_codebooks, self.frames))

    def _new_clips(self) -> Iterator[Clip]:
        """The clips, ever again and each time quieter: models remember what they have heard."""
        for volume in itertools.count(1):
            for clip in self.clips:
                yield replace(clip, samples=clip.samples / np.float32(volume))

    def _time_scoring(self, verifier: Verifier) -> float:
        clips = self._new_clips()

        def score(text: str) -> list[Score | NoScore]:
            heard = itertools.islice(clips, CLIPS)
            return verifier.score([ScoreInput(text, clip, -3.0, -4.0) for clip in heard])

        for prompt in self.prompts:
            if any(isinstance(outcome, Score) for outcome in score(prompt.text)):
                return seconds_of(partial(score, prompt.text)) / CLIPS
        log.warning("%s has no score for any prompt: its time is not counted", verifier.name)
        return 0.0

    def _time_judging(self, judges: Sequence[Judge], again: bool) -> float:
        prompt = max(self.prompts, key=lambda prompt: prompt.is_referenced)
        clips = self._new_clips()
        with tempfile.TemporaryDirectory() as folder:

            def judge() -> None:
                clip = self.clips[0] if again else next(clips)
                judge_clip(clip, prompt, "trial", judges, Path(folder))

            return seconds_of(judge)


def seconds_of(work: Callable[[], object]) -> float:
    """The mean of as many calls as SECONDS are for, after one that may set things up."""
    work()
    calls, began = 0, time.perf_counter()
    while not calls or time.perf_counter() - began < SECONDS:
        work()
        calls += 1
    return (time.perf_counter() - began) / calls


def search_row(
    name: str,
    plan: Plan,
    todo: Sequence[Set[str]],
    parts: Parts,
    trial: Trial,
    save_audio: SaveAudio = "none",
    size: int = 0,
    besides: Sequence[Plan] = (),
) -> Row:
    """Searches by one plan, judged and recorded.

    todo: ids of the prompts that are not finished, for each time that all are searched. size: of a
    group; by default as many prompts as are decoded side by side. besides: plans of further
    searches of which nothing is kept.
    """
    row, most = Row(name, sum(map(len, todo))), parts.generator.max_rows
    if not row.left:
        return row
    size = min(size or group_size(plan, parts.generator), len(trial.prompts))
    rows = plan.candidates * size
    if not plan.method.prunes:  # rows that are pruned are all held, others part after part
        rows = min(rows, most)
    again = sum(len(group) for ids in todo for group in groups(trial.prompts, size, ids))
    own, others = plan.expected(), [other.expected() for other in besides]
    row.frames = again * own.frames + sum(other.frames for other in others)
    row.clips = again * own.clips + sum(other.clips for other in others)
    row.seconds = row.frames / own.frames * trial.search(plan, rows, parts)
    row.seconds += row.left * trial.judging(parts.judges)
    row.memory = memory_of(parts.generator, plan, rows)
    row.disk = row.left * (RECORD_BYTES + own.clips * NODE_BYTES)
    if save_audio != "none":
        kept = 1 if save_audio == "winners" else 1 + plan.held[-1]
        row.disk += row.left * kept * len(encode_wav(trial.clips[0]))
    return row


def memory_of(generator: Generator, plan: Plan, rows: int) -> float:
    """Bytes of the weights, and of the most keys and values that so many rows hold."""
    decoder = generator.decoder
    a_position = decoder.transformer.position_bytes(decoder.sampling.guided)
    positions = positions_of(plan, generator.windows(plan.length), max(decoder.delays))
    return generator.weight_bytes + positions * a_position * rows


def positions_of(plan: Plan, span: Span | None, lag: int) -> float:
    """The most positions that are kept, a candidate; of windows at most so many.

    Two windows are kept where a rollout goes beyond the end of one.
    """
    if span is None:
        return plan.positions(lag)
    first = plan.cut(0, span.length).positions(lag) if not plan.given else span.length + lag
    most = max(first, plan.cut(span.overlap, span.length).positions(lag))
    return 2 * most if any(map(plan.rollout, range(len(plan.steps)))) else most


def report(runs: Sequence[Run], rows: Sequence[Row]) -> str:
    """The text. runs: where it goes, and what is finished there."""
    head = [f"Dry run: {run.folder}, {run.done} finished" for run in runs] or ["Dry run"]
    names = [field.name for field in fields(Row)][1:]
    total = Row("in all", **{name: sum(getattr(row, name) for row in rows) for name in names})
    total.memory = max((row.memory for row in rows), default=0.0)
    cells = [
        {
            "": row.name,
            **{name: f"{getattr(row, name):,}" for name in ("left", "frames", "clips")},
            "time": as_time(row.seconds),
            "memory": as_size(row.memory),
            "disk": as_size(row.disk),
        }
        for row in (*rows, total)
    ]
    return document(head, layout({"": cells}), NOTES)


def as_time(seconds: float) -> str:
    """Such as 0.52 s, 42.0 s, 2.5 min, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{figures(seconds, 2)} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.{minutes < 10:d}f} min" if hours < 2 else f"{hours:,.1f} h"


def as_size(size: float) -> str:
    """Such as 0.52 MB, 39.0 MB, 1.2 GB."""
    if not size:
        return ABSENT
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{figures(size / 1e6, 2)} MB"
