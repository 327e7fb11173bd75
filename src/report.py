"""What a run found, from its records alone: means, paired differences, costs, and plain words.

    summary = summarise(Path("results/benchmark-builtin-tags-n8-1a2b3c4d"))
    print(text_table(summary))

The selector (the verifier that chose the clips) and the judges (which no search saw) are told apart
everywhere: a selector's own number says that the search worked, not that the music is better.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from src.records import Record, read_manifest, read_records, write_whole
from src.stats import Interval, paired_interval

Role = Literal["selector", "primary judge", "judge"]
BASELINE = "baseline"
MIN_PROMPTS = 2  # fewer have no interval
FEW_PROMPTS = 10  # a bootstrap over fewer gives intervals that are too narrow
CSV_COLUMNS = (
    *("method", "measure", "role", "higher_is_better", "prompts", "mean"),
    *("paired_prompts", "difference", "low", "high", "frames", "clips", "seconds"),
)


@dataclass(frozen=True)
class Measure:
    """A number that each clip has. note: what to know when reading it."""

    name: str
    role: Role
    higher_is_better: bool
    note: str = ""

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    def direction(self, difference: Interval) -> Literal["better", "worse", "unclear"]:
        """Which side of zero the whole interval lies on, by what this measure calls better."""
        if difference.low <= 0 <= difference.high:
            return "unclear"
        return "better" if (difference.low > 0) == self.higher_is_better else "worse"


@dataclass(frozen=True)
class Cell:
    """One method under one measure. values: by prompt id. difference: paired, to the baseline."""

    values: dict[str, float]
    paired: dict[str, float]
    difference: Interval | None

    @property
    def mean(self) -> float | None:
        """None when no clip has a value."""
        return float(np.mean(list(self.values.values()))) if self.values else None


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

    methods: those with a finished prompt, in the order they were asked for. unjudged: by judge, why
    a clip has no number.
    """

    title: str
    methods: tuple[str, ...]
    measures: tuple[Measure, ...]
    cells: dict[tuple[str, str], Cell]
    costs: dict[str, CostPerPrompt]
    failed: tuple[Record, ...]
    unjudged: dict[str, tuple[str, ...]]

    @property
    def primary(self) -> Measure | None:
        return next((m for m in self.measures if m.role == "primary judge"), None)


def summarise(folder: Path) -> Summary:
    """Read a run's folder. Raises RunFolderError."""
    manifest = read_manifest(folder)
    records = list(read_records(folder).values())
    done = [record for record in records if record["status"] == "ok"]
    asked = manifest["identity"]["settings"]["method"]
    methods = tuple(m for m in asked if any(record["method"] == m for record in done))
    measures = tuple(Measure(**entry) for entry in manifest["measures"])
    cells, costs = {}, {}
    for method in methods:
        own = [record for record in done if record["method"] == method]
        costs[method] = _cost(own)
        for measure in measures:
            values = _values(own, measure)
            base = _values([r for r in done if r["method"] == BASELINE], measure)
            paired = {key: x - base[key] for key, x in values.items() if key in base}
            cells[method, measure.name] = Cell(
                values, paired, None if method == BASELINE else interval(list(paired.values()))
            )
    failed = tuple(record for record in records if record["status"] != "ok")
    unjudged = {
        m.name: tuple(r["unjudged"][m.name] for r in done if m.name in r["unjudged"])
        for m in measures
        if m.role != "selector"
    }
    return Summary(manifest["title"], methods, measures, cells, costs, failed, unjudged)


def interval(values: Sequence[float]) -> Interval | None:
    """The mean of per-prompt values with its bootstrap interval; None for too few prompts."""
    return paired_interval(values) if len(values) >= MIN_PROMPTS else None


def text_table(summary: Summary) -> str:
    """Rows of methods; under each mean its paired difference to the baseline."""
    if not summary.methods:
        return "\n".join([summary.title, "No prompt is finished.", *findings(summary)])
    rows: list[list[str]] = [
        ["", *(f"{m.name} {m.arrow}" for m in summary.measures), "frames", "clips", "seconds", ""],
        ["", *(_label(m) for m in summary.measures), *["/prompt"] * 3, "prompts"],
    ]
    for method in summary.methods:
        cost, means, differences = summary.costs[method], [], []
        for measure in summary.measures:
            cell = summary.cells[method, measure.name]
            digits = decimals(summary, measure)
            means.append("-" if cell.mean is None else f"{cell.mean:.{digits}f}")
            differences.append(_difference(summary, measure, cell.difference))
        spent = [
            f"{cost.frames:,.0f}",
            f"{cost.clips:,.0f}",
            f"{cost.seconds:.1f}",
            f"{cost.prompts}",
        ]
        rows.append([method, *means, *spent])
        if any(differences):
            rows.append(["", *differences, "", "", "", ""])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            text.ljust(width) if i <= len(summary.measures) else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([summary.title, rule, *lines[:2], rule, *lines[2:], rule, *findings(summary)])


def findings(summary: Summary) -> list[str]:
    """What the table shows and does not, in sentences."""
    lines = []
    searched = [method for method in summary.methods if method != BASELINE]
    if searched and BASELINE not in summary.methods:
        lines.append(
            "No differences are given: baseline is not among the methods (--method baseline ..)."
        )
    elif any(cell.difference for cell in summary.cells.values()):
        lines.append("Differences to the baseline, over the same prompts, with 95% intervals.")
        fewest = min(cost.prompts for cost in summary.costs.values())
        if fewest < FEW_PROMPTS:
            lines.append(f"{fewest} prompts are too few to rely on these intervals.")
    elif searched:
        lines.append(f"No intervals are given: they need {MIN_PROMPTS} finished prompts or more.")
    for method in searched:
        lines += _verdict(summary, method)
    for measure in summary.measures:
        if measure.note:
            lines.append(f"{measure.name}: {measure.note}.")
        if reasons := summary.unjudged.get(measure.name):
            lines.append(f"{measure.name}: no number for {len(reasons)} clip(s): {reasons[0]}")
    if summary.failed:
        lines.append(f"Failed: {len(summary.failed)} (method and prompt, see records.jsonl):")
        lines += [
            f"  {record['method']} {record['prompt_id']}: {record['reason']}"
            for record in summary.failed[:5]
        ]
    return lines


def decimals(summary: Summary, measure: Measure) -> int:
    """Digits after the point that show three of the measure's largest difference (else mean)."""
    cells = [summary.cells[method, measure.name] for method in summary.methods]
    sizes = [abs(cell.difference.mean) for cell in cells if cell.difference]
    largest = max(sizes or [abs(cell.mean) for cell in cells if cell.mean is not None] or [0])
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2


def write_summary(summary: Summary, path: Path) -> None:
    """The table as CSV, one row per method and measure."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for method in summary.methods:
        cost = summary.costs[method]
        for measure in summary.measures:
            cell = summary.cells[method, measure.name]
            d = cell.difference
            writer.writerow(
                [method, measure.name, measure.role, measure.higher_is_better]
                + [len(cell.values), "" if cell.mean is None else f"{cell.mean:.6g}"]
                + [len(cell.paired) if d else ""]
                + ([f"{x:.6g}" for x in (d.mean, d.low, d.high)] if d else ["", "", ""])
                + [f"{cost.frames:g}", f"{cost.clips:g}", f"{cost.seconds:.3f}"]
            )
    write_whole(path, text.getvalue())


def _values(records: Sequence[Record], measure: Measure) -> dict[str, float]:
    if measure.role == "selector":
        return {r["prompt_id"]: float(r["winner"]["score"]["value"]) for r in records}
    judged = [r for r in records if measure.name in r["judges"]]
    return {r["prompt_id"]: float(r["judges"][measure.name]) for r in judged}


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


def _label(measure: Measure) -> str:
    return "own verifier (selector)" if measure.role == "selector" else measure.role


def _difference(summary: Summary, measure: Measure, difference: Interval | None) -> str:
    if difference is None:
        return ""
    digits = decimals(summary, measure)
    numbers = (difference.mean, difference.low, difference.high)
    mean, low, high = (f"{x:+.{digits}f}" for x in numbers)
    return f"{mean} [{low}, {high}]"


def _verdict(summary: Summary, method: str) -> list[str]:
    """Whether the primary judge follows the selector."""
    selector = next(m for m in summary.measures if m.role == "selector")
    primary = summary.primary
    if primary is None:
        lacking = "was asked" if len(summary.measures) == 1 else "is independent of it"
        return [
            f"{method}: {selector.name} chose these clips and no judge {lacking}: its own number "
            "does not show that they are better."
        ]
    own = summary.cells[method, selector.name].difference
    judged = summary.cells[method, primary.name].difference
    if own is None or judged is None:
        return []
    by = _difference(summary, primary, judged)
    chosen = {
        "better": f"{method} beats the baseline on {selector.name}, which chose its clips",
        "worse": f"{method} is below the baseline on {selector.name}, which chose its clips",
        "unclear": f"{method} is not shown to differ from the baseline on {selector.name}",
    }[selector.direction(own)]
    follows = {
        "better": f"the judge {primary.name} agrees: better by {by}",
        "worse": f"the judge {primary.name} disagrees: worse by {by}",
        "unclear": f"the judge {primary.name} does not follow: {by} includes zero",
    }[primary.direction(judged)]
    link = "; and" if selector.direction(own) == primary.direction(judged) == "better" else "; but"
    return [f"{chosen}{link} {follows}."]
