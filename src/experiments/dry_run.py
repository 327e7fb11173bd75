"""What a run will cost, said before it is begun: --dry_run. Nothing is generated, no folder made.

    jobs = search_jobs([("sbs", key, plan)], prompts, finished(folder), 64, verifier, files)
    print(estimate(folder, done, priced(jobs, parts, prompts, settings), generator))

Frames and clips are exact, of what is left: a plan's cost (src/budget.py) for every prompt of every
group in which a prompt is not finished. Seconds are those times the rates of an earlier run
(rates.py) or of a trial (trial.py). Memory is that of the weights and of the most keys and values
that are held at once; disk is audio, tokens and records.
"""

import io
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from src.budget import Plan
from src.data.audio import Clip, encode_wav
from src.data.prompts import Prompt
from src.experiments.rates import (
    Known,
    PastRun,
    Rates,
    Work,
    past_runs,
    search_rates,
    side_by_side,
    work_of,
)
from src.experiments.searching import groups
from src.experiments.trial import measure
from src.generator import Generator, Renderer
from src.reports.table import ABSENT, document, figures, layout
from src.runs.build import Parts, checkpoints_of
from src.runs.records import Key, key_of, read_records
from src.runs.settings import SaveAudio, Settings

NOTES = (
    "Frames and clips are exact. Time is an estimate: a machine that does something else at the "
    "same time is slower, and loading, tables and figures are not counted.",
    "Memory: weights, keys and values; what the verifier server and the judges hold is not "
    "counted. Disk: audio, tokens and records.",
)


@dataclass(frozen=True)
class Job:
    """A row of the estimate: one kind of work, so many times over.

    left: prompts (or searches) that are not finished. one: what each takes; times: how often that
    is done, since a group is searched again with those of its prompts that are finished. extra:
    what comes once besides. files: bytes of audio and tokens of each. plan, rows: what is decoded,
    and candidates side by side; None and 0 where nothing is.
    """

    name: str
    left: int
    one: Work
    times: int
    extra: Work = field(default_factory=Work)
    files: int = 0
    plan: Plan | None = None
    rows: int = 0

    @property
    def work(self) -> Work:
        return self.one * self.times + self.extra

    def disk(self, rates: Rates) -> float:
        return self.left * (self.files + self.one.clips * rates.record_bytes)

    def memory(self, generator: Generator) -> float:
        """Bytes of keys and values."""
        if self.plan is None or not self.left:
            return 0.0
        decoder = generator.decoder
        a_position = decoder.transformer.position_bytes(decoder.guided)
        return self.plan.positions(max(decoder.delays)) * a_position * self.rows


Priced = tuple[Job, Rates]


def finished(folder: Path) -> set[Hashable]:
    """The keys (`key_of`) of what a run has done; none where there is no such folder yet."""
    return {key for key, record in read_records(folder).items() if record["status"] == "ok"}


def max_rows(settings: Settings) -> int:
    """Candidates that will be decoded side by side."""
    return settings.max_rows


def search_job(
    name: str,
    keys: Sequence[Key],
    plan: Plan,
    prompts: Sequence[Prompt],
    done: Collection[Hashable],
    most_rows: int,
    audio: bool,
    judged: bool = False,
    files: int = 0,
) -> Job:
    """A method's searches of all prompts, once for each key. audio: whether the verifier hears."""
    left = times = 0
    for key in keys:
        todo = {p.id for p in prompts if key_of(key, p.id) not in done}
        left += len(todo)
        times += sum(map(len, groups(prompts, plan.candidates, most_rows, todo)))
    together = side_by_side(plan.candidates, most_rows, len(prompts))
    rows = rows_held(plan, together, most_rows)
    extra = Work(judged=left * judged)
    return Job(name, left, work_of(plan, audio), times, extra, files, plan, rows)


def rows_held(plan: Plan, together: int, most_rows: int) -> int:
    """Candidates whose past is held at once, of so many prompts: whole clips beyond the most that
    go side by side are decoded part after part, those that are pruned are all held."""
    rows = plan.candidates * together
    return rows if plan.method.prunes else min(rows, most_rows)


def priced(
    jobs: Sequence[Job], parts: Parts, prompts: Sequence[Prompt], settings: Settings
) -> list[Priced]:
    """Searches with their rates: of earlier runs in --output, or else measured now."""
    known = Known(
        checkpoints_of(parts),
        *(parts.generator.device, parts.generator.dtype),
        guided=settings.guidance != 1,
        frame_rate=parts.generator.frame_rate,
        verifier=parts.verifier.name,
        judges=[judge.name for judge in parts.judges],
    )
    runs = past_runs(settings.output)
    audio = parts.verifier.needs_audio
    found = [rates_before(job, runs, known, audio) for job in jobs]
    unknown = [job for job, rates in zip(jobs, found, strict=True) if rates is None]
    shapes = [(job.plan, job.rows) for job in unknown if job.plan is not None]
    new = iter(measure(parts, prompts, shapes, len(jobs)) if shapes else ())
    return [(job, rates or next(new)) for job, rates in zip(jobs, found, strict=True)]


def rates_before(job: Job, runs: Sequence[PastRun], known: Known, audio: bool) -> Rates | None:
    """Of earlier runs; of what is finished none are needed."""
    if not job.left or job.plan is None:
        return Rates()
    return search_rates(job.plan, job.rows, audio, runs, known)


def audio_bytes(renderer: Renderer, plan: Plan, save_audio: SaveAudio) -> int:
    """Of the clips that are kept of a search."""
    samples = round(plan.frames / renderer.frame_rate * renderer.sample_rate)
    silence = Clip(np.zeros((renderer.channels, samples), np.float32), renderer.sample_rate)
    kept = {"none": 0, "winners": 1, "all": 1 + plan.candidates}[save_audio]
    return kept * len(encode_wav(silence))


def token_bytes(candidates: int, codebooks: int, frames: int) -> int:
    """Of a prompt's file of tokens."""
    with io.BytesIO() as file:
        np.save(file, np.zeros((candidates, codebooks, frames), np.int16))
        return file.getbuffer().nbytes


def estimate(
    title: str,
    folders: Iterable[tuple[Path, int]],
    work: Sequence[Priced],
    generator: Generator | None,
    notes: Sequence[str] = (),
) -> str:
    """The text. folders: where the run goes, with how many prompts are finished there."""
    weights = generator.weight_bytes if generator else 0
    held = [weights + job.memory(generator) if generator else 0.0 for job, _ in work]
    rows = []
    for (job, rates), memory in zip(work, held, strict=True):
        each = as_time(rates.seconds(job.work) / job.left) if job.left else ABSENT
        rows.append({"": job.name, **_cells([(job, rates)], [memory]), "each": each})
    rows.append({"": "in all", **_cells(work, held), "each": ""})
    head = [f"Dry run: {title}", *(_place(*folder) for folder in folders)]
    return document(head, layout({"": rows}), [*_sources(work), *notes, *NOTES])


def _cells(work: Sequence[Priced], memory: Sequence[float]) -> dict[str, str]:
    in_all = sum((job.work for job, _ in work), Work())
    return {
        "left": f"{sum(job.left for job, _ in work):,}",
        "frames": f"{in_all.frames:,}",
        "clips": f"{in_all.clips:,}",
        "time": as_time(sum(rates.seconds(job.work) for job, rates in work)),
        "memory": as_size(max(memory)) if any(memory) else ABSENT,
        "disk": as_size(sum(job.disk(rates) for job, rates in work)),
    }


def _place(folder: Path, done: int) -> str:
    return f"{folder}: " + (f"{done} finished, not counted" if done else "not begun")


def _sources(work: Sequence[Priced]) -> list[str]:
    """Which rates each row has, a sentence for each source."""
    named: dict[str, list[str]] = {}
    for job, rates in work:
        if rates.source:
            named.setdefault(rates.source, []).append(job.name)
    if len(named) == 1:
        return [f"Rates: {next(iter(named))}."]
    return [f"Rates of {', '.join(names)}: {source}." for source, names in named.items()]


def as_time(seconds: float) -> str:
    """Such as 0.52 s, 42 s, 2.5 min, 12 min, 3.4 h."""
    if seconds < 120:
        return f"{figures(seconds, 2)} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.{minutes < 10:d}f} min" if hours < 2 else f"{hours:,.1f} h"


def as_size(size: float) -> str:
    """Such as 0.52 MB, 39 MB, 1.2 GB."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{figures(size / 1e6, 2)} MB"
