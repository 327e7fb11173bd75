"""What benchmark.py leaves in a run's folder besides records: tables, a figure, a listening page.

summary.csv, per_clip.csv, benchmark.png and index.html are written anew, from the records alone.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from src.data.audio import SILENT
from src.methods import BASELINE, colour_of
from src.reports.benchmark_study import (
    Study,
    difference_text,
    direction,
    study_benchmark,
    value_of,
)
from src.reports.figure import GREY, intervals, name_panel, notes, panels, save, styled
from src.reports.page import write_page
from src.reports.table import (
    HOLM,
    INTERVALS,
    Row,
    describe,
    document,
    few_prompts,
    layout,
    shortened,
    shown,
    write_tables,
)
from src.runs.measures import Claim, Measure
from src.stats.identification import detectable
from src.stats.intervals import Array, mean_interval

PANELS_IN_A_ROW = 5
PANEL_WIDTH = 2.1  # inches
SHOWN_FAILURES = 5
OWN_MINUS_WRONG = "own minus wrong"
DIFFERENCES = (
    f"Differences are to the baseline, one sample, over the same prompts, with {INTERVALS}; of a "
    f"measure of sets with p, of a paired permutation test. Better, worse: p {HOLM}. Not "
    "independent: the selector's own number, or trained on its data."
)
CONTRASTS = (
    "Own minus wrong: by how much more the number by the own reference changed than that by other "
    "prompts' references: the part that belongs to the prompt, of which the verdict is."
)
NO_BASELINE = "No differences are given: baseline is not among the methods (--method baseline ..)."
# What the primary judge does where the selector's own number is better.
FOLLOWS: dict[Claim, str] = {
    "better": ": it follows",
    "unclear": ": whether it follows is not shown",
    "worse": ": it contradicts",
}


def report(folder: Path | str) -> tuple[str, bool]:
    """Write a run's tables, figure and page. Returns the text, and whether prompts failed.

    Raises RunFolderError.
    """
    folder = Path(folder)
    study = study_benchmark(folder)
    write_tables(folder, tables(study))
    if study.methods:
        save(benchmark_figure(study), folder / "benchmark.png", folder)
    write_page(folder, study, findings(study))
    return benchmark_text(study), bool(study.failed)


def tables(study: Study) -> dict[str, list[Row]]:
    """summary: a row a method and measure; `mean` is of a measure of sets its number.

    per_clip: every clip's number under every measure that clips have one of, and why one is
    lacking: `unjudged`, also of measures of sets; of a failed prompt, why it failed.
    """
    measures = [m for m in study.measures if m.kind == "clip"]
    clips: list[Row] = []
    for record in (*study.done, *study.failed):
        ok = record["status"] == "ok"
        row = {name: record[name] for name in ("method", "prompt_id", "status")}
        values = {m.name: value_of(record, m) if ok else None for m in measures}
        row |= {name: None if x is None else repr(x) for name, x in values.items()}
        reasons = [f"{k}: {v}" for k, v in record["unjudged"].items()] if ok else [record["reason"]]
        clips.append(row | {"unjudged": "; ".join(reasons)})
    rows = [study.rows[method, m.name] for method in study.methods for m in study.measures]
    return {"summary": rows, "per_clip": clips}


def benchmark_text(study: Study) -> str:
    """Under each measure the methods with their differences to the baseline; costs; findings."""
    head, lines = [study.manifest["title"]], []
    if study.methods:
        groups = {_heading(study, m): _texts(study, m) for m in study.shown}
        costs = [
            {
                "cost per prompt": method,
                "prompts": shown(cost["prompts"]),
                "frames": shown(cost["frames"], ",.0f"),
                "clips scored": shown(cost["clips"], ",.0f"),
                "seconds": shown(cost["seconds"], ".1f"),
            }
            for method, cost in study.costs.items()
        ]
        table = layout(groups, left=("to the baseline", OWN_MINUS_WRONG, "verdict"))
        lines = [*table, "", *layout({"": costs})]
    else:
        head.append("No prompt is finished.")
    return document(head, lines, findings(study))


def _heading(study: Study, measure: Measure) -> str:
    """A measure with what it is worth: where its contrast is the primary judge, it says so."""
    contrast = study.contrast(measure)
    told = replace(measure, role=contrast.role) if contrast else measure
    return f"{measure.name} {measure.arrow}  {describe(told)}"


def _texts(study: Study, measure: Measure) -> list[dict[str, str]]:
    digits, contrast = study.digits(measure.name), study.contrast(measure)
    texts = []
    for row in study.of(measure.name):
        text = {
            "": row["method"],
            "clips": shown(row["prompts"]),
            "value": shown(row["mean"], f".{digits}f"),
            "to the baseline": difference_text(row, digits),
        }
        own = study.rows[row["method"], contrast.name] if contrast else None
        if any(map(study.contrast, study.measures)):
            text[OWN_MINUS_WRONG] = difference_text(own, digits) if own else ""
        texts.append(text | {"verdict": (own or row)["verdict"]})
    return texts


def findings(study: Study) -> list[str]:
    """What the tables do not say, or what matters most in them, in sentences."""
    lines = list(study.manifest.get("caveats", ()))
    if len(study.methods) > 1 and BASELINE in study.methods:
        lines += [DIFFERENCES, few_prompts(min(c["prompts"] for c in study.costs.values()))]
        lines += [CONTRASTS] * any(map(study.contrast, study.measures))
    elif study.methods and BASELINE not in study.methods:
        lines.append(NO_BASELINE)
    lines += [*_of_clips(study), *_of_selector(study)]
    for measure in study.measures:
        lines += _of_measure(study, measure)
    if study.failed:
        first = [f"{r['method']} {r['prompt_id']}: {r['reason']}" for r in study.failed]
        named = "; ".join(map(shortened, first[:SHOWN_FAILURES]))
        many = f"{len(study.failed)} (method and prompt, see records.jsonl)"
        lines.append(f"Failed: {many}: {named}")
    return list(filter(None, lines))


def _of_selector(study: Study) -> Iterable[str]:
    """Whether the primary judge follows the selector, by its prompt-specific part where there is
    one: a sentence for methods with one answer."""
    selector, primary = study.selector, study.primary
    primary = primary and (study.contrast(primary) or primary)
    searched = [method for method in study.methods if method != BASELINE]
    if primary is None:
        lacking = "is independent of it" if len(study.measures) > 1 else "was asked"
        if searched:
            yield (
                f"{selector.name} chose these clips and no judge {lacking}: its own number does "
                "not show that they are better."
            )
        return
    answers: dict[tuple[Claim, Claim], list[str]] = defaultdict(list)
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
    yield from _power(study, primary, searched)


def _power(study: Study, primary: Measure, searched: Sequence[str]) -> Iterable[str]:
    """What so few prompts can show at all, by the spread of their differences."""
    if BASELINE not in study.methods or primary.kind == "set":
        return
    differences = [study.points(m, primary.name, paired=True) for m in searched]
    known = [found for found in differences if len(found) > 1]
    if not known:
        return
    prompts = min(map(len, known))
    least = detectable(float(np.mean([found.var(ddof=1) for found in known])), prompts)
    digits = study.digits(primary.name)
    yield (
        f"What {prompts} prompts can show: by {primary.name} a difference of {least:.{digits}f} in "
        "four of five such runs (before Holm); of a smaller one most runs say unclear."
    )


def _of_clips(study: Study) -> Iterable[str]:
    """Winners that are silent, and candidates that had no score."""
    if silent := [r for r in study.done if r["winner"].get("silent")]:
        of = "; ".join(f"{r['method']} {r['prompt_id']}" for r in silent[:SHOWN_FAILURES])
        count = f"{len(silent)} of {len(study.done)}"
        yield f"{count} winners are silent (RMS below {SILENT:g} dB of full scale): {of}."
    if reasons := [reason for record in study.done for reason in record["unscored"]]:
        told = (f"{shortened(reason)} ({n})" for reason, n in Counter(reasons).most_common(3))
        yield f"{len(reasons)} candidate(s) had no score and were out: {'; '.join(told)}"


def _of_measure(study: Study, measure: Measure) -> Iterable[str]:
    """What to know when reading one measure."""
    name = measure.name
    if measure.note:
        yield f"{name}: {measure.note}."
    if measure.kind == "set":
        yield from _of_chance(study, measure)
    if reasons := study.unjudged[name]:
        yield f"{name}: no number for {len(reasons)} clip(s): {shortened(reasons[0])}"
    if left := study.manifest.get("unread", {}).get(name):
        yield (
            f"{name} reads only the start of {left['captions']} of {left['of']} captions "
            f"({left['tokens']} tokens unread)."
        )


def _of_chance(study: Study, measure: Measure) -> Iterable[str]:
    """What a measure of sets would be without any difference."""
    digits = study.digits(measure.name)
    rows = [row for row in study.of(measure.name) if row.get("null") is not None]
    if rows and measure.statistic == "spread":
        yield f"{measure.name}: {rows[0]['null']:.{digits}f} between the references."
    elif rows:
        each = [
            "{method} {null:.{digits}f} ({null_low:.{digits}f} to {null_high:.{digits}f})".format(
                digits=digits, **row
            )
            for row in rows
        ]
        yield (
            f"{measure.name} by chance, if clips were no different from references (mean and 95% "
            f"range, each prompt's two exchanged at random): {', '.join(each)}."
        )


@styled
def benchmark_figure(study: Study) -> Figure:
    """A panel a measure, better to the right, and one of costs.

    With a baseline: each prompt's difference to it (dots), their mean and 95% interval. Without:
    the clips' own values, their mean and interval. A measure of sets has one number and no dots.
    """
    paired = BASELINE in study.methods and len(study.methods) > 1
    methods = [m for m in study.methods if not (paired and m == BASELINE)]
    measures = [m for m in study.measures if not m.is_control]
    count = len(measures) + 1
    across = math.ceil(count / math.ceil(count / PANELS_IN_A_ROW))
    figure, axes = panels(
        *(count, study.manifest["title"], _caption(study)),
        height=0.9 + 0.45 * len(methods),
        width=PANEL_WIDTH * across + 0.3,
        columns=PANELS_IN_A_ROW,
        sharey=True,
    )
    for ax, measure in zip(axes, measures, strict=False):
        _panel(ax, study, measure, methods, paired)
    _costs(axes[-1], methods, study, paired)
    axes[0].set_yticks(range(len(methods)), methods)
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    for ax in axes:
        ax.tick_params(axis="y", length=0)
    return figure


def _caption(study: Study) -> str:
    lines = f"Dots: prompts. Bars: mean, {INTERVALS}."
    if any(m.kind == "set" for m in study.measures):
        lines += " Diamonds: one number for all clips; p of a paired permutation test."
    made_with = [f"{m.name}: {m.checkpoint}" for m in study.measures if m.checkpoint]
    return lines + notes(study.measures) + f"\nWeights: {'; '.join(made_with)}" * bool(made_with)


def _panel(ax: Axes, study: Study, measure: Measure, methods: list[str], paired: bool) -> None:
    name_panel(ax, measure)
    if paired:
        ax.axvline(0, color=GREY, linewidth=0.8, linestyle="--", zorder=0)
    if not measure.higher_is_better:
        ax.invert_xaxis()
    own = "value" if measure.kind == "set" else "mean"
    ax.set_xlabel(f"{'difference to baseline' if paired else own}\nbetter →")
    for y, method in enumerate(methods):
        row = study.rows[method, measure.name]
        value = row["difference"] if paired else row["mean"]
        if value is None:
            continue
        if measure.kind == "set":
            ax.plot(value, y, "D", color=colour_of(method), markersize=5, markeredgecolor="white")
            text = difference_text(row, study.digits(measure.name))
            ax.annotate(
                text, (value, y), (0, 7), textcoords="offset points", fontsize=6, ha="center"
            )
            ax.margins(x=0.4)
        else:
            _points(ax, y, study.points(method, measure.name, paired), colour_of(method))


def _points(ax: Axes, y: int, values: Array, colour: str) -> None:
    # A fixed spread in height, so that equal values can be told apart and a figure repeats itself.
    heights = y + 0.22 * np.sin(2.4 * np.arange(len(values)))
    ax.scatter(values, heights, s=5, color=colour, alpha=0.35, linewidths=0)
    mean = mean_interval(values)
    style: dict[str, Any] = {"markersize": 4.5, "elinewidth": 1.6, "capsize": 3}
    intervals(ax, [y], [mean], colour, sideways=True, **style, markeredgecolor="white")


def _costs(ax: Axes, methods: list[str], study: Study, paired: bool) -> None:
    frames = [study.costs[method]["frames"] for method in methods]
    colours = [colour_of(method) for method in methods]
    ax.barh(range(len(methods)), frames, height=0.5, color=colours, alpha=0.8)
    for y, method in enumerate(methods):
        ax.text(0, y + 0.28, f" {_spent(study.costs[method])}", fontsize=6, va="top")
    ax.set_title("cost\nper prompt")
    ax.set_xlabel("frames generated")
    if paired:
        spent = _spent(study.costs[BASELINE])
        ax.set_xlabel(f"frames generated\nbaseline: {spent}", fontsize=6)


def _spent(cost: Row) -> str:
    return f"{cost['frames']:,.0f} frames, {cost['clips']:,.0f} scored, {cost['seconds']:.3g} s"
