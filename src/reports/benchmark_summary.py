"""What a run found, from its folder alone: means, paired differences and costs.

    summary = summarise(Path("results/benchmark-builtin-tags-n8-1a2b3c4d"))
    summary.cells["best_of_n", "msd_kld"].difference

The selector (the verifier that chose the clips) and the judges (which no search saw) are told apart
everywhere: a selector's own number says that the search worked, not that the music is better. How
it is written is src/reports/benchmark_tables.py's and src/reports/benchmark_figure.py's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.runs import embeddings
from src.runs.records import Record, read_manifest, read_records
from src.stats.best_of_n import paired_interval
from src.stats.frechet import References, p_of_difference
from src.stats.intervals import Interval

Role = Literal["selector", "own verifier", "primary judge", "judge"]
BASELINE = "baseline"
MIN_PROMPTS = 2  # fewer have no interval, and no p
ALPHA = 0.05  # as an interval of 95% has it
LOST = "its embedding, or that of its reference, is not in the run's folder"


class SetDifference(NamedTuple):
    """How a measure of sets differs from the baseline's; p: of a paired permutation test."""

    value: float
    p: float


Difference = Interval | SetDifference
Embeddings = dict[str, NDArray[np.float32]]  # by prompt id, [windows, D]


@dataclass(frozen=True)
class Measure:
    """A number that each clip has, or (kind "set") that all clips of a method have together.

    role: "selector" chose the clips; an "own verifier" has its number, or a part of it, and is no
    evidence either. note: what to know when reading it. checkpoint: the weights, and their hash.
    """

    name: str
    role: Role
    higher_is_better: bool
    note: str = ""
    kind: Literal["clip", "set"] = "clip"
    checkpoint: str = ""

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def is_evidence(self) -> bool:
        """Whether no search saw it."""
        return self.role not in ("selector", "own verifier")

    def direction(self, difference: Difference) -> Literal["better", "worse", "unclear"]:
        """Which side of zero it shows, by what this measure calls better."""
        if isinstance(difference, SetDifference):
            unclear, above = difference.p > ALPHA, difference.value > 0
        else:
            # an interval without ends (one prompt) lies on neither side
            unclear, above = not (difference.low > 0 or difference.high < 0), difference.low > 0
        if unclear:
            return "unclear"
        return "better" if above == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Cell:
    """One method under one measure.

    value: the mean over clips; of a set its one number; None where there is none. clips: how many
    it is made from. values, paired: by prompt id, each clip's number and its difference to the
    baseline's; empty for sets. difference: to the baseline, over the paired_clips prompts that both
    have. windows: of a set, the vectors that it is made from.
    """

    value: float | None
    clips: int
    values: dict[str, float]
    paired: dict[str, float]
    difference: Difference | None
    paired_clips: int
    windows: int = 0

    @property
    def shift(self) -> float | None:
        """The difference without what it is worth."""
        return None if self.difference is None else self.difference[0]


@dataclass(frozen=True)
class CostPerPrompt:
    """Means over the finished prompts, and how many those are."""

    prompts: int
    frames: float
    clips: float
    seconds: float


@dataclass(frozen=True)
class Summary:
    """A run's results.

    methods: those with a finished prompt, in the order they were asked for. done, failed: records.
    unjudged: by judge, why a clip has no number. unread: by measure, how many captions are longer
    than it reads ("captions", "of", "tokens").
    """

    title: str
    methods: tuple[str, ...]
    measures: tuple[Measure, ...]
    cells: dict[tuple[str, str], Cell]
    costs: dict[str, CostPerPrompt]
    done: tuple[Record, ...]
    failed: tuple[Record, ...]
    unjudged: dict[str, tuple[str, ...]]
    unread: dict[str, dict[str, int]]

    @property
    def primary(self) -> Measure | None:
        return next((m for m in self.measures if m.role == "primary judge"), None)

    @property
    def selector(self) -> Measure:
        return next(m for m in self.measures if m.role == "selector")


def summarise(folder: Path) -> Summary:
    """Read a run's folder. Raises RunFolderError.

    A measure of sets is tested against the baseline by permutations: seconds for a hundred prompts,
    about a minute a method for thousands.
    """
    manifest = read_manifest(folder)
    records = list(read_records(folder).values())
    done = [record for record in records if record["status"] == "ok"]
    asked = manifest["identity"]["settings"]["method"]
    methods = tuple(m for m in asked if any(record["method"] == m for record in done))
    by_method = {method: [r for r in done if r["method"] == method] for method in methods}
    measures = tuple(_measure(entry, manifest) for entry in manifest["measures"])
    cells: dict[tuple[str, str], Cell] = {}
    unjudged: dict[str, tuple[str, ...]] = {}
    for measure in measures:
        reasons = [r["unjudged"][measure.name] for r in done if measure.name in r["unjudged"]]
        if measure.kind == "clip":
            found = {m: _clip_cell(by_method, m, measure) for m in methods}
        else:
            found = _set_cells(folder, by_method, measure)
            lost = len(done) - len(reasons) - sum(cell.clips for cell in found.values())
            reasons += [LOST] * lost
        cells |= {(method, measure.name): cell for method, cell in found.items()}
        unjudged[measure.name] = tuple(reasons)
    return Summary(
        title=manifest["title"],
        methods=methods,
        measures=measures,
        cells=cells,
        costs={method: _cost(own) for method, own in by_method.items()},
        done=tuple(done),
        failed=tuple(record for record in records if record["status"] != "ok"),
        unjudged=unjudged,
        unread=manifest.get("unread", {}),
    )


def interval(values: Sequence[float]) -> Interval | None:
    """The mean of per-prompt values with its bootstrap interval; None for too few prompts."""
    return paired_interval(values) if len(values) >= MIN_PROMPTS else None


def value_of(record: Record, measure: Measure) -> float | None:
    """A finished clip's number under a measure of clips; None where a judge has none."""
    if measure.role == "selector":
        return float(record["winner"]["score"]["value"])
    value = record["judges"].get(measure.name)
    return None if value is None else float(value)


def _measure(entry: dict[str, Any], manifest: dict[str, Any]) -> Measure:
    measure = Measure(**entry)
    known = manifest["identity"].get("checkpoints", {}).get(measure.name)
    if measure.checkpoint or not known:
        return measure
    # Manifests of the first release name checkpoints in a run's identity only.
    return Measure(**entry, checkpoint=f"{known['name']} ({known['sha256'][:8]})")


def _clip_cell(records: dict[str, list[Record]], method: str, measure: Measure) -> Cell:
    values, base = _values(records[method], measure), _values(records.get(BASELINE, []), measure)
    paired = {key: x - base[key] for key, x in values.items() if key in base}
    return Cell(
        value=float(np.mean(list(values.values()))) if values else None,
        clips=len(values),
        values=values,
        paired=paired,
        difference=None if method == BASELINE else interval(list(paired.values())),
        paired_clips=len(paired),
    )


def _values(records: Sequence[Record], measure: Measure) -> dict[str, float]:
    values = {record["prompt_id"]: value_of(record, measure) for record in records}
    return {key: value for key, value in values.items() if value is not None}


def _set_cells(folder: Path, records: dict[str, list[Record]], measure: Measure) -> dict[str, Cell]:
    """The Frechet distance of each method's clips to those prompts' references."""
    heard: dict[str, Embeddings] = {}
    for method, own in records.items():
        judged = [r["prompt_id"] for r in own if measure.name not in r["unjudged"]]
        heard[method] = embeddings.load(folder, measure.name, method, judged)
    everyone = dict.fromkeys(key for found in heard.values() for key in found)
    references = embeddings.load(folder, measure.name, embeddings.REFERENCE, everyone)
    cells = {}
    for method, found in heard.items():
        clips = {key: x for key, x in found.items() if key in references}
        base = {} if method == BASELINE else heard.get(BASELINE, {})
        shared = [key for key in clips if key in base]
        cells[method] = Cell(
            value=_distance(clips, references, list(clips)),
            clips=len(clips),
            values={},
            paired={},
            difference=_set_difference(clips, base, references, shared),
            paired_clips=len(shared),
            windows=sum(map(len, clips.values())),
        )
    return cells


def _distance(clips: Embeddings, references: Embeddings, prompts: Sequence[str]) -> float | None:
    if len(prompts) < MIN_PROMPTS:
        return None
    to = References(np.concatenate([references[key] for key in prompts]))
    return to.distance(np.concatenate([clips[key] for key in prompts]))


def _set_difference(
    clips: Embeddings, base: Embeddings, references: Embeddings, prompts: Sequence[str]
) -> SetDifference | None:
    own, other = _distance(clips, references, prompts), _distance(base, references, prompts)
    if own is None or other is None:
        return None
    p = p_of_difference(
        [clips[key] for key in prompts],
        [base[key] for key in prompts],
        References(np.concatenate([references[key] for key in prompts])),
    )
    return SetDifference(own - other, p)


def _cost(records: Sequence[Record]) -> CostPerPrompt:
    def mean(of: Any) -> float:
        return float(np.mean([of(record["ledger"]) for record in records]))

    return CostPerPrompt(
        prompts=len(records),
        frames=mean(lambda ledger: ledger["frames"]),
        clips=mean(lambda ledger: ledger["clips"]),
        seconds=mean(
            lambda ledger: sum(s for stage, s in ledger["seconds"].items() if stage != "judge")
        ),
    )
