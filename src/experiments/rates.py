"""Work in its units, and what a unit takes: seconds and bytes, from the records of earlier runs.

    rates = search_rates(job, past_runs(output), known)

An earlier run says how fast a search is where both have the same weights, verifier, judges, device,
dtype and machine, the same kind of method, about as many candidates side by side, and clips about
as long. No torch here.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from src.budget import Plan
from src.data.files import as_json
from src.methods import BEST_OF_N, METHODS, SearchCell
from src.protocol import Checkpoint
from src.runs.pool import WHOLE
from src.runs.provenance import machine
from src.runs.records import MANIFEST, Record, RunFolderError, read_manifest, read_records

log = logging.getLogger(__name__)

NEAR = 2  # so many times as many candidates side by side, or as long a clip, is still comparable
SCORING = ("wav", "http", "queue", "compute")


@dataclass(frozen=True)
class Work:
    """What is to be done. prompts: texts encoded. frames: generated. clips: scored. rendered,
    heard: frames of the clips rendered, and of those scored from audio. judged: clips judged."""

    prompts: int = 0
    frames: int = 0
    clips: int = 0
    rendered: int = 0
    heard: int = 0
    judged: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))

    def __mul__(self, times: int) -> "Work":
        return Work(*(getattr(self, f.name) * times for f in fields(self)))


def work_of(plan: Plan, audio: bool) -> Work:
    """Of one prompt's search. audio: whether its verifier hears; else the winner alone is
    rendered."""
    cost = plan.expected()
    heard = plan.candidates * sum(plan.heard()) if audio else 0
    return Work(1, cost.frames, cost.clips, heard or plan.frames, heard)


@dataclass(frozen=True)
class Rates:
    """Seconds a unit of each kind of work (`Work`), and bytes of records a scored clip.

    source: where they come from, in words.
    """

    prompts: float = 0.0
    frames: float = 0.0
    rendered: float = 0.0
    heard: float = 0.0
    judged: float = 0.0
    record_bytes: float = 0.0
    source: str = ""

    def seconds(self, work: Work) -> float:
        kinds = (f.name for f in fields(work) if f.name != "clips")  # counted by their frames
        return float(sum(getattr(self, kind) * getattr(work, kind) for kind in kinds))


@dataclass(frozen=True)
class Known:
    """What an earlier run must share.

    checkpoints: those of `checkpoints_of`. verifier: None where any will do, since nothing is
    scored. judges: their names. frame_rate: frames a second.
    """

    checkpoints: Mapping[str, Checkpoint]
    device: str
    dtype: str
    guided: bool
    frame_rate: float
    verifier: str | None = None
    judges: Sequence[str] = ()
    here: Mapping[str, Any] = field(default_factory=lambda: here())


def here() -> dict[str, Any]:
    """This machine, as manifests describe it."""
    return {name: value for name, value in machine().items() if name != "command"}


class Seen(NamedTuple):
    """One search of an earlier run. rows: candidates side by side."""

    plan: Plan
    rows: int
    seconds: Mapping[str, float]
    record_bytes: int


class PastRun:
    """A run's folder, read. Raises RunFolderError."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        try:
            self.identity: dict[str, Any] = self.manifest["identity"]
            self.starts: list[dict[str, Any]] = self.manifest["starts"]
            self.began: str = self.starts[-1]["time"]
        except (KeyError, TypeError, IndexError) as error:
            raise RunFolderError(f"{folder / MANIFEST} is no run's manifest") from error
        # A benchmark's and a latency run's settings are one entry, a pool's and a sweep's many.
        self.settings: dict[str, Any] = self.identity.get("settings", self.identity)

    @cached_property
    def records(self) -> list[Record]:
        """Those of what is finished; none where they are damaged."""
        try:
            return [r for r in read_records(self.folder).values() if r["status"] == "ok"]
        except RunFolderError as error:
            log.warning("%s", error)
            return []

    @property
    def source(self) -> str:
        return f"{self.folder.name} of {self.began[:10]}"

    def on(self, known: Known) -> list[int]:
        """The numbers of its starts on the same machine, device and dtype."""
        found = []
        for number, start in enumerate(self.starts):
            # A latency run's device and dtype are those asked for.
            device = str(self.settings.get("device")).split(":")[0]
            if device == "auto":
                device = "cuda" if start.get("gpus") else "cpu"
            usual = "float16" if device == "cuda" else "float32"
            same = (device, self.settings.get("dtype") or usual) == (known.device, known.dtype)
            if same and all(start.get(name) == value for name, value in known.here.items()):
                found.append(number)
        return found

    def tells(self, known: Known) -> bool:
        """Whether its weights, verifier, judges and guidance are those that matter."""
        of_run = self.identity.get("checkpoints", {})
        same = all(
            of_run.get(name, {}).get("sha256") == checkpoint.sha256
            for name, checkpoint in known.checkpoints.items()
        )
        judges = list(self.settings.get("judges") or ())
        return (
            same
            and known.verifier in (None, self.settings.get("verifier"))
            and (not known.judges or sorted(judges) == sorted(known.judges))
            and (self.settings.get("guidance") != 1) == known.guided
        )

    def searches(self, known: Known) -> Iterator[Seen]:
        """Every search or pool of candidates of a registered method whose size is known."""
        starts = self.on(known)
        for record in self.records if starts else ():
            plan = self._plan(record, known.frame_rate)
            if plan is None or record["start"] not in starts:
                continue
            most = self.starts[record["start"]].get("max_rows")  # not in early versions
            group = record.get("group") or (
                most and side_by_side(plan.candidates, most, self.identity["prompts"]["count"])
            )
            if group:
                size = len(as_json(record)) + 1
                rows = group * plan.candidates
                yield Seen(plan, rows, record["ledger"]["seconds"], size)

    def _plan(self, record: Record, frame_rate: float) -> Plan | None:
        given = {"duration": 0.0, "step_size": 1.0} | self.settings
        shape = (given["duration"], given["step_size"], frame_rate)
        if record["kind"] == "candidates":
            return METHODS[BEST_OF_N].make_plan(given["candidates"], *shape, {})
        if record["kind"] != "search" or record["method"] not in METHODS:
            return None
        if "cell" in record:
            return SearchCell.from_record(record["cell"]).plan(*shape)
        return METHODS[record["method"]].make_plan(given["candidates"], *shape, given)


def side_by_side(candidates: int, max_rows: int, prompts: int) -> int:
    """Prompts that are searched together: those of a whole group of `searching.groups`."""
    return max(1, min(max_rows // candidates, prompts))


def past_runs(output: Path) -> list[PastRun]:
    """The runs in a folder, the newest first; what cannot be read is left out."""
    found = []
    for manifest in output.glob(f"*/{MANIFEST}"):
        try:
            found.append(PastRun(manifest.parent))
        except RunFolderError as error:
            log.warning("%s", error)
    return sorted(found, key=lambda run: run.began, reverse=True)


def search_rates(
    plan: Plan, rows: int, audio: bool, runs: Sequence[PastRun], known: Known
) -> Rates | None:
    """Of the newest run that has comparable searches; None where none has.

    The same method's, or else those of methods that decode in the same way, step by step or whole.
    """
    for run in runs:
        if not run.tells(known):
            continue
        seen = [
            one
            for one in run.searches(known)
            if one.plan.method.prunes == plan.method.prunes
            and _near(one.rows, rows)
            and _near(one.plan.frames, plan.frames)
        ]
        if seen:
            own = [one for one in seen if one.plan.method == plan.method]
            return _mean(own or seen, audio, run.source)
    return None


def score_rates(
    name: str, checkpoint: Checkpoint, runs: Sequence[PastRun], known: Known
) -> Rates | None:
    """Of what a verifier or judge takes to score a pool's clips; None where no pool tells."""
    for run in runs:
        starts = run.on(known)
        spent = clips = frames = 0.0
        for record in run.records if starts and run.identity.get("script") == "pool" else ():
            same = record.get("measure") == name and record["checkpoint"] == checkpoint.model_dump()
            if not same or record["start"] not in starts:
                continue
            for key, seconds in record["seconds"].items():
                count = len(record["values"][key])
                length = run.settings["duration"] if key == WHOLE else float(key)
                spent, clips = spent + seconds * count, clips + count
                frames += count * length * known.frame_rate
        if clips:
            return Rates(heard=spent / frames, judged=spent / clips, source=run.source)
    return None


def _mean(seen: Sequence[Seen], audio: bool, source: str) -> Rates:
    work = sum((work_of(one.plan, audio) for one in seen), Work())
    spent = {stage: sum(one.seconds[stage] for one in seen) for stage in seen[0].seconds}
    scoring = sum(spent[stage] for stage in SCORING)
    return Rates(
        prompts=spent["conditions"] / len(seen),
        frames=(spent["decode"] + spent["selection"]) / work.frames,
        rendered=spent["render"] / work.rendered,
        heard=scoring / work.heard if work.heard else 0.0,
        judged=median(one.seconds["judge"] for one in seen),  # the first loads the judges
        record_bytes=sum(one.record_bytes for one in seen) / work.clips,
        source=source,
    )


def _near(a: float, b: float) -> bool:
    return max(a, b) <= NEAR * min(a, b)
