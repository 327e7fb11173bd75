"""What verifier_experiment.py leaves beside a pool and sweeps: tables, figures, and a text.

scaling.csv, matrix.csv and the other tables of src/reports/pool_study.py with their figures go into
the pool's folder, with diversity.csv where its embeddings are there, and those of
src/reports/sweep.py, with the pool's best-of-n beside them, into each sweep's, anew from the
records alone.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from src.data.files import make_folder
from src.reports import pool_figures, sweep
from src.reports.diversity import diversity
from src.reports.diversity import findings as diversity_findings
from src.reports.figure import save
from src.reports.pool_study import Study, study_pool
from src.reports.table import (
    HOLM,
    INTERVALS,
    Row,
    brackets,
    describe,
    digits_of,
    document,
    few_prompts,
    interval_of,
    layout,
    shortened,
    write_tables,
)
from src.reports.validity import validity_figure, validity_text
from src.runs.pool import Pool

RELATIONS = {"own": "own number", "shares data": "shares data"}
SHOWN_BUDGETS = 4  # the first, and the largest; scaling.csv has all
LEGEND = (
    "Gains are in within-prompt standard deviations, positive where better, with "
    f"{INTERVALS}. Better, worse: p {HOLM}. Own number: the measure is the selector's, no "
    "evidence. Shares data: trained on the selector's data, not independent."
)


def report(
    pool: Pool | None,
    sweeps: Sequence[Path | str],
    budgets: Sequence[int],
    output: Path | str | None = None,
) -> str:
    """Write tables and figures of a pool and of sweeps; returns the text that says what they show.

    sweeps: folders. output: one folder for all, instead of their own.
    Raises StatsError, RunFolderError, WriteError.
    """
    output = None if output is None else Path(output)
    if output is not None:
        make_folder(output)
    texts = []
    if pool is not None:
        study, folder = study_pool(pool, budgets), output or pool.folder
        write_tables(folder, study.tables)
        for name, draw in pool_figures.FIGURES.items():
            save(draw(study), folder / f"{name}.png", pool.folder)
        if rows := diversity(study):  # kept where the pool's embeddings are not there
            write_tables(folder, {"diversity": rows})
        texts.append(pool_text(study, rows))
        if heard := study.tables["validity"]:
            save(validity_figure(heard, study.title), folder / "validity.png", pool.folder)
            texts.append(validity_text(heard))
    texts += [sweep.report(folder, pool, budgets, output) for folder in sweeps]
    return "\n\n".join(texts)


def pool_text(study: Study, diverse: Sequence[Row] = ()) -> str:
    """Under each measure the selectors: means by N, and the gain in deviations; then sentences.

    diverse: rows of diversity.csv.
    """
    prompts, size = len(study.pool.prompts), study.pool.size
    head = (
        f"{prompts} prompts x {size} candidates of {study.pool.duration:g} s, {prompts * size:,} "
        "clips: all of what follows comes from them, exactly."
    )
    notes = (*findings(study), *diversity_findings(diverse))
    return document([study.title, head], _gains(study), notes)


def _gains(study: Study) -> list[str]:
    budgets = dict.fromkeys((*study.budgets[:1], *study.budgets[1 - SHOWN_BUDGETS :]))
    groups: dict[str, list[dict[str, str]]] = defaultdict(list)
    for name in study.shown:
        measure, scaling = study.measures[name], study.rows("scaling", measure=name)
        digits = digits_of(row["mean"] for row in scaling)
        means = {(row["selector"], row["n"]): f"{row['mean']:.{digits}f}" for row in scaling}
        for row in study.rows("matrix", measure=name):
            selector = row["selector"]
            groups[f"{name} {measure.arrow}  {describe(measure)}"].append(
                {"selector": f"  {selector}", "prompts": f"{row['prompts']}"}
                | {f"N={n}": means[selector, n] for n in budgets}
                | {f"gain at {study.largest} (sd)": brackets(interval_of(row, "gain_sd"))}
                | {"verdict": RELATIONS.get(row["relation"], row["verdict"] or "")}
            )
    return layout(groups)


def findings(study: Study) -> Iterator[str]:
    """What the table does not say, in sentences."""
    prompts, size = len(study.pool.prompts), study.pool.size
    yield LEGEND
    yield from _over_optimised(study)
    for selector in study.selectors:
        own = study.row("matrix", selector=selector, measure=selector)
        if own is None or own["gain_sd"] is None:
            yield f"{selector} gives all clips of a prompt the same score: it selects nothing."
    if not study.judges:
        yield "No judge has scored this pool: nothing here shows that selected clips are better."
    yield from study.pool.manifest.get("caveats", ())
    yield few_prompts(prompts)
    if study.largest * 2 > size > 1:
        yield (
            f"A pool of {size} is small for N = {study.largest}: unbiased, but few clips decide. "
            "Take twice the largest N or more."
        )
    if study.dropped:
        larger = ", ".join(map(str, study.dropped))
        yield f"N = {larger} is left out: the pool has {size} candidates a prompt."
    for name, reasons in study.refused.items():
        yield (
            f"{name}: no numbers for {len(reasons)} of {prompts} prompts; its cells are over the "
            f"others. {shortened(reasons[0])}"
        )
    for name in (name for name in study.shown if name in study.pool.measures):
        pools = study.pool.values(name).values()
        if out := sum(int(np.isnan(pool).sum()) for pool in pools):
            yield (
                f"{name}: no number for {out} of {len(pools) * size} candidates. With it, they are "
                "never chosen; draws in which all are so do not count."
            )
    yield from (f"{m.name}: {m.note}." for m in study.measures.values() if m.note)


def _over_optimised(study: Study) -> Iterator[str]:
    """Where more search serves a judge less and less, and where it does harm."""

    def clearly_less(row: Row, name: str, prefix: str) -> bool:
        found = interval_of(row, name, prefix)
        return row["measure"] in study.judges and found is not None and found.side < 0

    transfers = study.rows("transfer", n=study.largest)
    transfers = [row for row in transfers if row["relation"] != "own"]
    falls = [row for row in transfers if clearly_less(row, "change_rank", "change_rank_")]
    matrix = study.tables["matrix"]
    losses = [row for row in matrix if clearly_less(row, "since_best", "since_")]
    if falls:
        yield (
            "Over-optimisation, the transfer in ranks falls clearly with N: "
            f"{in_brief(study, falls, transfers)} (transfer.csv). One pair in forty would by "
            "chance. In sd a selector whose scores have a long upper tail falls without any."
        )
    if losses:
        yield (
            f"More search does harm, from the best N to {study.largest}: "
            f"{in_brief(study, losses, matrix)} (since_best in matrix.csv)."
        )


def in_brief(study: Study, found: Sequence[Row], of: Sequence[Row]) -> str:
    """Selectors by the primary judge, and how many pairs by others. of: what rows there are."""
    primary = study.judges[0]
    own, every = ([r["selector"] for r in rows if r["measure"] == primary] for rows in (found, of))
    others = len(found) - len(own)
    named = f"all {len(own)} selectors" if own == every and len(own) > 1 else ", ".join(own)
    return "; ".join(
        [f"by {primary} of {named}"] * bool(own)
        + [f"by other judges of {others} pair{'s' * (others > 1)}"] * bool(others)
    )
