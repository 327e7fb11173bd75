"""What benchmark.py leaves in a run's folder besides records: tables, a figure, a listening page.

    text, failed = report(Path("results/benchmark-builtin-tags-n8-1a2b3c4d"))

writes summary.csv, per_clip.csv, benchmark.png and index.html anew, from the records alone.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from src.methods import BASELINE
from src.reports import sentences
from src.reports.benchmark_figure import FIGURE, benchmark_figure
from src.reports.benchmark_study import (
    MIN_CLIPS,
    Study,
    difference_text,
    direction,
    study_benchmark,
    value_of,
)
from src.reports.figure import DIGEST_KEY, save
from src.reports.page import write_page
from src.reports.table import Column, Row, layout, ruled, shown, wrapped, write_csv
from src.runs.measures import Measure, Verdict
from src.runs.records import records_digest

LABELS = {
    "selector": "own verifier (selector)",
    "own verifier": "the selector's number or a part of it: no evidence",
}
COSTS = (
    Column("cost per prompt", shown("method"), left=True),
    Column("prompts", shown("prompts")),
    Column("frames", shown("frames", ",.0f")),
    Column("clips scored", shown("clips", ",.0f")),
    Column("seconds", shown("seconds", ".1f")),
)


def report(folder: Path) -> tuple[str, bool]:
    """Write a run's tables, figure and page. Returns the text, and whether prompts failed.

    Raises RunFolderError.
    """
    study = study_benchmark(folder)
    said = findings(study)
    write_tables(study, folder)
    if study.methods:
        save(benchmark_figure(study), folder / FIGURE, {DIGEST_KEY: records_digest(folder)})
    write_page(folder, study, said)
    return benchmark_text(study, said), bool(study.failed)


def write_tables(study: Study, output: Path) -> None:
    """summary.csv: a row a method and measure; `mean` is of a measure of sets its number.

    per_clip.csv: every clip's number under every measure that clips have one of, and why one is
    lacking: `unjudged`, also of measures of sets; of a failed prompt, why it failed.
    """
    rows = [study.rows[method, m.name] for method in study.methods for m in study.measures]
    write_csv(output / "summary.csv", rows)
    write_csv(output / "per_clip.csv", [_clip_row(study, r) for r in (*study.done, *study.failed)])


def benchmark_text(study: Study, said: Iterable[str]) -> str:
    """Under each measure the methods with their differences to the baseline; then costs.

    said: `findings`.
    """
    if not study.methods:
        return "\n".join([study.title, "No prompt is finished.", *wrapped(said)])
    groups = {_heading(m): study.of(m.name) for m in study.measures}
    digits = {m.name: study.digits(m.name) for m in study.measures}
    table = [
        Column("", shown("method"), left=True),
        Column("clips", shown("prompts")),
        Column("value", lambda row: shown("mean", f".{digits[row['measure']]}f")(row)),
        Column("to the baseline", lambda row: difference_text(row, digits[row["measure"]]), True),
        Column("verdict", shown("verdict"), left=True),
    ]
    lines = [*layout(groups, table), "", *layout(list(study.costs.values()), COSTS)]
    notes = [*sentences.weights(study.measures), *said]
    return "\n".join([study.title, *ruled(lines), *wrapped(notes)])


def findings(study: Study) -> list[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    lines = [*_of_differences(study), *_of_methods(study)]
    for measure in study.measures:
        lines += _of_measure(study, measure)
    return [*lines, *sentences.failed(study.failed)]


def _of_differences(study: Study) -> Iterable[str]:
    if len(study.methods) > 1 and BASELINE in study.methods:
        yield sentences.DIFFERENCES
        if any(row["p"] is not None for row in study.rows.values()):
            yield sentences.PERMUTED
        if few := sentences.few_prompts(min(cost["prompts"] for cost in study.costs.values())):
            yield few
    elif study.methods and BASELINE not in study.methods:
        yield sentences.NO_BASELINE


def _of_methods(study: Study) -> list[str]:
    """Whether the primary judge follows the selector: one sentence for methods with one answer."""
    searched = [m for m in study.methods if m != BASELINE]
    selector, primary = study.selector, study.primary
    if primary is None:
        asked = len(study.measures) > 1
        return [sentences.no_judge(selector, asked)] if searched else []
    answers: dict[tuple[Verdict, Verdict], list[str]] = {}
    for method in searched:
        own, judged = (study.rows[method, m.name] for m in (selector, primary))
        if own["difference"] is not None and judged["difference"] is not None:
            answer = direction(selector, own), direction(primary, judged)
            answers.setdefault(answer, []).append(method)
    return [
        sentences.follows(methods, selector, primary, *answer)
        for answer, methods in answers.items()
    ]


def _of_measure(study: Study, measure: Measure) -> Iterable[str]:
    """What to know when reading one measure."""
    name, rows = measure.name, study.of(measure.name)
    if measure.kind == "set" and rows:
        yield sentences.made_from(name, rows)
        if any(row["mean"] is None for row in rows):
            yield f"{name}: no distance for fewer than {MIN_CLIPS} clips of a method."
    if measure.note:
        yield f"{name}: {measure.note}."
    if reasons := study.unjudged[name]:
        yield sentences.unjudged(name, len(reasons), reasons[0])
    if left := study.unread.get(name):
        yield sentences.unread(name, **left)


def _heading(measure: Measure) -> str:
    label = LABELS.get(measure.role, measure.role)
    together = ", one number for a method's clips" if measure.kind == "set" else ""
    return f"{measure.name} {measure.arrow}  {label}{together}"


def _clip_row(study: Study, record: dict[str, Any]) -> Row:
    measures = [m for m in study.measures if m.kind == "clip"]
    row: dict[str, Any] = {n: record[n] for n in ("method", "prompt_id", "status")}
    if record["status"] != "ok":
        return row | dict.fromkeys(m.name for m in measures) | {"unjudged": record["reason"]}
    values = {m.name: value_of(record, m) for m in measures}
    row |= {name: None if value is None else repr(value) for name, value in values.items()}
    reasons = [f"{name}: {reason}" for name, reason in record["unjudged"].items()]
    return row | {"unjudged": "; ".join(reasons)}
