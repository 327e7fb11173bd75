"""What benchmark.py leaves in a run's folder besides records: tables, a figure, a listening page.

    text, failed = report(Path("results/benchmark-builtin-tags-n8-1a2b3c4d"))

writes summary.csv, per_clip.csv, benchmark.png and index.html anew, from the records alone.
"""

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from src.methods import BASELINE
from src.reports import sentences
from src.reports.benchmark_figure import FIGURE, benchmark_figure
from src.reports.benchmark_study import (
    Study,
    describe,
    difference_text,
    direction,
    study_benchmark,
    value_of,
)
from src.reports.figure import DIGEST_KEY, save
from src.reports.page import write_page
from src.reports.table import Column, Row, layout, ruled, shown, wrapped, write_csv
from src.runs.measures import Measure, Verdict
from src.runs.records import Record, records_digest

COSTS = (
    Column("cost per prompt", shown("method"), left=True),
    Column("prompts", shown("prompts")),
    Column("frames", shown("frames", ",.0f")),
    Column("clips scored", shown("clips", ",.0f")),
    Column("seconds", shown("seconds", ".1f")),
)
DIFFERENCES = (
    "Differences are to the baseline over the same prompts, with 95% intervals; of a measure of "
    "sets with p, of a paired permutation test. Better, worse: the interval excludes zero, or p is "
    "0.05 at most. Not independent: the selector's own number, or trained on its data."
)
NO_BASELINE = "No differences are given: baseline is not among the methods (--method baseline ..)."
# What the primary judge does where the selector's own number is better.
FOLLOWS: dict[Verdict, str] = {
    "better": ": it follows",
    "unclear": ": it does not follow",
    "worse": ": it contradicts",
}


def report(folder: Path) -> tuple[str, bool]:
    """Write a run's tables, figure and page. Returns the text, and whether prompts failed.

    Raises RunFolderError.
    """
    study = study_benchmark(folder)
    write_tables(study, folder)
    if study.methods:
        save(benchmark_figure(study), folder / FIGURE, {DIGEST_KEY: records_digest(folder)})
    write_page(folder, study, findings(study))
    return benchmark_text(study), bool(study.failed)


def write_tables(study: Study, output: Path) -> None:
    """summary.csv: a row a method and measure; `mean` is of a measure of sets its number.

    per_clip.csv: every clip's number under every measure that clips have one of, and why one is
    lacking: `unjudged`, also of measures of sets; of a failed prompt, why it failed.
    """
    rows = [study.rows[method, m.name] for method in study.methods for m in study.measures]
    write_csv(output / "summary.csv", rows)
    write_csv(output / "per_clip.csv", [_clip_row(study, r) for r in (*study.done, *study.failed)])


def _clip_row(study: Study, record: Record) -> Row:
    measures = [m for m in study.measures if m.kind == "clip"]
    row: Record = {name: record[name] for name in ("method", "prompt_id", "status")}
    if record["status"] != "ok":
        return row | dict.fromkeys(m.name for m in measures) | {"unjudged": record["reason"]}
    values = {m.name: value_of(record, m) for m in measures}
    row |= {name: None if value is None else repr(value) for name, value in values.items()}
    reasons = [f"{name}: {reason}" for name, reason in record["unjudged"].items()]
    return row | {"unjudged": "; ".join(reasons)}


def benchmark_text(study: Study) -> str:
    """Under each measure the methods with their differences to the baseline; costs; findings."""
    title, notes = study.manifest["title"], wrapped(findings(study))
    if not study.methods:
        return "\n".join([title, "No prompt is finished.", *notes])
    groups = {f"{m.name} {m.arrow}  {describe(m)}": study.of(m.name) for m in study.measures}
    digits = {m.name: study.digits(m.name) for m in study.measures}
    table = [
        Column("", shown("method"), left=True),
        Column("clips", shown("prompts")),
        Column("value", lambda row: shown("mean", f".{digits[row['measure']]}f")(row)),
        Column("to the baseline", lambda row: difference_text(row, digits[row["measure"]]), True),
        Column("verdict", shown("verdict"), left=True),
    ]
    lines = [*layout(groups, table), "", *layout(list(study.costs.values()), COSTS)]
    return "\n".join([title, *ruled(lines), *notes])


def findings(study: Study) -> list[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    lines = [*_of_differences(study), *_of_selector(study)]
    for measure in study.measures:
        lines += _of_measure(study, measure)
    return [*lines, *sentences.failed(study.failed)]


def _of_differences(study: Study) -> Iterable[str]:
    if len(study.methods) > 1 and BASELINE in study.methods:
        yield DIFFERENCES
        if few := sentences.few_prompts(min(cost["prompts"] for cost in study.costs.values())):
            yield few
    elif study.methods and BASELINE not in study.methods:
        yield NO_BASELINE


def _of_selector(study: Study) -> Iterable[str]:
    """Whether the primary judge follows the selector: one sentence for methods with one answer."""
    selector, primary = study.selector, study.primary
    searched = [method for method in study.methods if method != BASELINE]
    if primary is None:
        lacking = "is independent of it" if len(study.measures) > 1 else "was asked"
        if searched:
            yield (
                f"{selector.name} chose these clips and no judge {lacking}: its own number does "
                "not show that they are better."
            )
        return
    answers: dict[tuple[Verdict, Verdict], list[str]] = defaultdict(list)
    for method in searched:
        own, judged = (study.rows[method, m.name] for m in (selector, primary))
        if own["difference"] is not None and judged["difference"] is not None:
            answers[direction(selector, own), direction(primary, judged)].append(method)
    for (chosen, says), methods in answers.items():
        follows = FOLLOWS[says] if chosen == "better" else ""
        yield (
            f"{', '.join(methods)}: {chosen} by {selector.name}, which chose the clips; {says} by "
            f"the primary judge {primary.name}{follows}."
        )


def _of_measure(study: Study, measure: Measure) -> Iterable[str]:
    """What to know when reading one measure."""
    name = measure.name
    if measure.note:
        yield f"{name}: {measure.note}."
    if reasons := study.unjudged[name]:
        yield f"{name}: no number for {len(reasons)} clip(s): {sentences.shortened(reasons[0])}"
    if left := study.manifest.get("unread", {}).get(name):
        yield (
            f"{name} reads only the start of {left['captions']} of {left['of']} captions "
            f"({left['tokens']} tokens unread)."
        )
