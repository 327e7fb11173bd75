"""How a run's results are written: a table and sentences for people, CSV files for programs.

    python -m src.reports.benchmark_tables results/benchmark-builtin-tags-n8-1a2b3c4d

prints the table of a finished run and writes its summary.csv and per_clip.csv anew.
"""

import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from src.reports.benchmark_summary import (
    ALPHA,
    BASELINE,
    MIN_PROMPTS,
    Cell,
    Difference,
    Measure,
    SetDifference,
    Summary,
    summarise,
    value_of,
)
from src.reports.command import again
from src.reports.text import columns, wrapped, write_csv
from src.stats.best_of_n import PERMUTATIONS

__all__ = [
    "decimals",
    "difference_text",
    "findings",
    "summarise",
    "text_table",
    "write_per_clip",
    "write_summary",
]

LONGEST_REASON = 200  # characters; records.jsonl and per_clip.csv have it whole
FEW_PROMPTS = 10  # a bootstrap over fewer gives intervals that are too narrow
CSV_COLUMNS = (
    *("method", "measure", "role", "kind", "higher_is_better", "checkpoint"),
    *("prompts", "windows", "mean", "paired_prompts", "difference", "low", "high", "p"),
    *("frames", "clips", "seconds"),
)


def text_table(summary: Summary) -> str:
    """Under each measure the methods with their differences to the baseline; then what each cost.

    Not over 100 columns, but for names that are longer.
    """
    if not summary.methods:
        return "\n".join([summary.title, "No prompt is finished.", *wrapped(findings(summary))])
    rows: list[tuple[str, ...]] = []
    headings: dict[int, str] = {}
    for measure in summary.measures:
        headings[len(rows)] = f"{measure.name} {measure.arrow}  {_label(measure)}"
        for method in summary.methods:
            cell = summary.cells[method, measure.name]
            rows.append(
                (
                    *(method, f"{cell.clips}", _number(summary, measure, cell.value)),
                    difference_text(summary, measure, cell.difference),
                )
            )
    aligned = columns([("", "clips", "value", "to the baseline"), *rows], left=(0, 3))
    lines = aligned[:1]
    for index, line in enumerate(aligned[1:]):
        if index in headings:
            lines += ["", headings[index]]
        lines.append(line)
    spent = [
        (m, f"{c.prompts}", f"{c.frames:,.0f}", f"{c.clips:,.0f}", f"{c.seconds:.1f}")
        for m, c in ((method, summary.costs[method]) for method in summary.methods)
    ]
    header = ("cost per prompt", "prompts", "frames", "clips scored", "seconds")
    lines += ["", *columns([header, *spent], left=(0,))]
    rule = "-" * max(map(len, lines))
    notes = [*weights(summary), *findings(summary)]
    return "\n".join([summary.title, rule, *lines, rule, *wrapped(notes)])


def weights(summary: Summary) -> list[str]:
    """Which weights each measure is made with."""
    named = [f"  {m.name}: {m.checkpoint}" for m in summary.measures if m.checkpoint]
    return ["Weights, and how their SHA-256 begins:", *named] if named else []


def findings(summary: Summary) -> list[str]:
    """What the table shows and does not, in sentences."""
    lines = _of_differences(summary)
    for method in summary.methods:
        if method != BASELINE:
            lines += _verdict(summary, method)
    for measure in summary.measures:
        lines += _to_know(summary, measure)
    if summary.failed:
        lines.append(f"Failed: {len(summary.failed)} (method and prompt, see records.jsonl):")
        lines += [
            f"  {record['method']} {record['prompt_id']}: {record['reason']}"
            for record in summary.failed[:5]
        ]
    return lines


def decimals(summary: Summary, measure: Measure) -> int:
    """Digits after the point that show three of the measure's largest difference (else value)."""
    cells = [summary.cells[method, measure.name] for method in summary.methods]
    sizes = [abs(cell.shift) for cell in cells if cell.shift is not None]
    largest = max(sizes or [abs(cell.value) for cell in cells if cell.value is not None] or [0])
    return min(6, max(0, 2 - math.floor(math.log10(largest)))) if largest else 2


def difference_text(summary: Summary, measure: Measure, difference: Difference | None) -> str:
    """Such as "+0.650 [+0.500, +0.813]", of a measure of sets "-0.41, p = 0.012"."""
    if difference is None:
        return ""
    digits = decimals(summary, measure)
    if isinstance(difference, SetDifference):
        return f"{difference.value:+.{digits}f}, p = {difference.p:.3f}"
    mean, low, high = (f"{x:+.{digits}f}" for x in difference)
    return f"{mean} [{low}, {high}]"


def write_summary(summary: Summary, path: Path) -> None:
    """The table as CSV, one row per method and measure. `mean`: of a measure of sets its number."""
    rows: list[Sequence[Any]] = [CSV_COLUMNS]
    for method in summary.methods:
        cost = summary.costs[method]
        for m in summary.measures:
            cell = summary.cells[method, m.name]
            made_from = [cell.clips, cell.windows if m.kind == "set" else ""]
            value = "" if cell.value is None else f"{cell.value:.6g}"
            paired = cell.paired_clips if cell.difference else ""
            rows.append(
                [
                    *(method, m.name, m.role, m.kind, m.higher_is_better, m.checkpoint),
                    *(*made_from, value, paired, *_numbers(cell)),
                    *(f"{cost.frames:g}", f"{cost.clips:g}", f"{cost.seconds:.3f}"),
                ]
            )
    write_csv(path, rows)


def write_per_clip(summary: Summary, path: Path) -> None:
    """Every clip's number under every measure that clips have one of, and why one is lacking.

    Columns: method, prompt_id, status ("ok" or "failed"), the measures, unjudged (reasons, also of
    measures of sets; of a failed prompt, why it failed).
    """
    measures = [m for m in summary.measures if m.kind == "clip"]
    rows: list[Sequence[Any]] = [
        ["method", "prompt_id", "status", *(m.name for m in measures), "unjudged"]
    ]
    for record in summary.done:
        values = [value_of(record, measure) for measure in measures]
        reasons = [f"{name}: {reason}" for name, reason in record["unjudged"].items()]
        rows.append([record["method"], record["prompt_id"], "ok", *values, "; ".join(reasons)])
    for record in summary.failed:
        nothing = [""] * len(measures)
        rows.append([record["method"], record["prompt_id"], "failed", *nothing, record["reason"]])
    write_csv(path, rows)


def _numbers(cell: Cell) -> list[str]:
    """difference, low, high, p: what of them there is."""
    d = cell.difference
    if d is None:
        return [""] * 4
    if isinstance(d, SetDifference):
        return [f"{d.value:.6g}", "", "", f"{d.p:.6g}"]
    return [*(f"{x:.6g}" for x in d), ""]


def _number(summary: Summary, measure: Measure, value: float | None) -> str:
    return "-" if value is None else f"{value:.{decimals(summary, measure)}f}"


def _label(measure: Measure) -> str:
    if measure.role == "selector":
        return "own verifier (selector)"
    if measure.role == "own verifier":
        return "own verifier (no evidence)"
    return measure.role + (", one number for a method's clips" if measure.kind == "set" else "")


def _of_differences(summary: Summary) -> list[str]:
    searched = [method for method in summary.methods if method != BASELINE]
    if searched and BASELINE not in summary.methods:
        return [
            "No differences are given: baseline is not among the methods (--method baseline ..)."
        ]
    differences = [cell.difference for cell in summary.cells.values() if cell.difference]
    if not differences:
        few = f"No intervals are given: they need {MIN_PROMPTS} finished prompts or more."
        return [few] if searched else []
    lines = ["Differences to the baseline, over the same prompts, with 95% intervals."]
    if any(isinstance(difference, SetDifference) for difference in differences):
        lines.append(
            "p: of a measure of sets, how often a difference as large comes about when the two "
            f"clips of each prompt change places by chance ({PERMUTATIONS:,} times)."
        )
    fewest = min(cost.prompts for cost in summary.costs.values())
    if fewest < FEW_PROMPTS:
        lines.append(f"{fewest} prompts are too few to rely on these intervals.")
    return lines


def _verdict(summary: Summary, method: str) -> list[str]:
    """Whether the primary judge follows the selector."""
    selector, primary = summary.selector, summary.primary
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
    by = difference_text(summary, primary, judged)
    unclear = f"over {ALPHA:g}" if isinstance(judged, SetDifference) else "includes zero"
    chosen = {
        "better": f"{method} beats the baseline on {selector.name}, which chose its clips",
        "worse": f"{method} is below the baseline on {selector.name}, which chose its clips",
        "unclear": f"{method} is not shown to differ from the baseline on {selector.name}, "
        "which chose its clips",
    }[selector.direction(own)]
    direction = primary.direction(judged)
    if selector.direction(own) != "better":  # there is no gain to agree with
        says = {"better": "better by", "worse": "worse by", "unclear": "no difference shown:"}
        tail = f" {unclear}" if direction == "unclear" else ""
        return [f"{chosen}; the judge {primary.name}: {says[direction]} {by}{tail}."]
    follows = {
        "better": f"and the judge {primary.name} agrees: better by {by}",
        "worse": f"but the judge {primary.name} disagrees: worse by {by}",
        "unclear": f"but the judge {primary.name} does not follow: {by} {unclear}",
    }[direction]
    return [f"{chosen}; {follows}."]


def _to_know(summary: Summary, measure: Measure) -> list[str]:
    """What to know when reading one measure."""
    name, lines = measure.name, []
    if measure.role == "own verifier":
        lines.append(
            f"{name}: its number is that of {summary.selector.name}, which chose these clips, "
            "or of a part of it: no evidence."
        )
    if measure.kind == "set":
        made = {m: summary.cells[m, name] for m in summary.methods}
        counts = {m: f"{cell.clips} clips ({cell.windows} windows)" for m, cell in made.items()}
        if len(set(counts.values())) > 1:
            lines.append(f"{name}: from {', '.join(f'{m} {n}' for m, n in counts.items())}.")
        elif counts:
            lines.append(f"{name}: from {next(iter(counts.values()))} of each method.")
        if any(cell.value is None for cell in made.values()):
            lines.append(f"{name}: no distance for fewer than {MIN_PROMPTS} clips of a method.")
    if measure.note:
        lines.append(f"{name}: {measure.note}.")
    if reasons := summary.unjudged.get(name):
        reason = textwrap.shorten(reasons[0], LONGEST_REASON, placeholder=" ..")
        lines.append(f"{name}: no number for {len(reasons)} clip(s): {reason}")
    if left := summary.unread.get(name):
        lines.append(
            f"{name} reads only the start of {left['captions']} of {left['of']} captions "
            f"({left['tokens']} tokens unread)."
        )
    return lines


def write_tables(summary: Summary, folder: Path) -> str:
    """Write a run's summary.csv and per_clip.csv and return its table."""
    write_summary(summary, folder / "summary.csv")
    write_per_clip(summary, folder / "per_clip.csv")
    return text_table(summary)


if __name__ == "__main__":
    what = "Print a run's table and write its CSV files."
    sys.exit(
        again(
            "src.reports.benchmark_tables",
            what,
            lambda folder: write_tables(summarise(folder), folder),
        )
    )
