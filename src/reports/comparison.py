"""Pools of the same prompts under other settings, beside choosing among the clips of one of them.

    python -m src.reports.comparison POOL [POOL ..] --selectors perplexity pmi tags+pmi --n 8

The first pool has the usual setting. By each judge: one sample of every setting, which for the
usual one is also the random choice; best-of-n of the usual pool by each selector; and best-of-n by
the judge itself, the oracle: what a selector could reach, no evidence. All of it exact, from the
pools' records alone. Tables and a figure, into the first pool's folder:

    comparison.csv    gain: over one sample of the usual setting
    over_settings.csv gain: of best-of-n in the usual setting over one sample of another setting
    comparison.png    gains in within-prompt standard deviations
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from src.data.files import make_folder
from src.reports.command import parser_of, printed
from src.reports.figure import gain_panels, intervals, look, save, styled
from src.reports.gains import Means, best_of, by_measure, gain, no_evidence, one_sample, oriented
from src.reports.table import (
    Row,
    Texts,
    adjusted,
    document,
    few_prompts,
    figures,
    interval_of,
    layout,
    write_tables,
)
from src.runs.arguments import given
from src.runs.measures import Measure
from src.runs.pool import Pool, PoolError, load_pool

ONE, ORACLE = "one sample", "oracle"
USUAL, UPPER_BOUND = "usual", "upper bound"  # verdicts
SAME = ("prompts", "duration", "checkpoints")  # of all pools
LEGEND = (
    "Means: in the judge's unit. Gains: positive where better, paired by prompt, with 95% "
    "intervals over prompts; sd: within prompts, of the usual setting. One sample of the usual "
    "setting is also what choosing at random gives. Verdicts: p adjusted for all of a table's "
    "comparisons (Holm). Oracle: chosen by the judge itself, an upper bound and no evidence. Not "
    "independent: the judge is the selector's own number or was trained on its data. Control: "
    "other prompts' references."
)


class Choice(NamedTuple):
    """A row of the figure: where a clip comes from. verdict: where it can be none on evidence."""

    setting: str
    name: str
    means: Means
    verdict: str


def report(
    pools: Sequence[Pool], selectors: Sequence[str], n: int, output: Path | None = None
) -> str:
    """Write the tables and the figure; returns the text that says what they show.

    selectors: verifiers or sums of the first pool; none: its verifiers. output: a folder instead of
    the first pool's. Raises PoolError for pools that do not belong together or lack what is asked
    for, StatsError, WriteError.
    """
    usual, folder = pools[0], output or pools[0].folder
    pools = [usual, *sorted(pools[1:], key=_temperature_and_guidance)]
    judges = _judges(pools)
    names = selectors or [m.name for m in usual.measures.values() if m.role == "verifier"]
    choosing = [usual.sum_of(name) for name in names]
    names = [measure.name for measure in choosing]
    gains: list[Row] = []
    over: list[Row] = []
    for judge in judges:
        choices = [c for c in _choices(pools, choosing, judge, n) if c.means]
        spreads, base = oriented(usual, judge), choices[0]
        for choice in choices:
            key = {"measure": judge.name, "choice": choice.name, "setting": choice.setting}
            mean = judge.sign * float(np.mean(list(choice.means.values())))
            found = gain(choice.means, base.means, spreads, choice.verdict)
            gains.append({**key, "mean": mean, **found})
            for other in choices if choice.name in names else ():
                if other.name == ONE and other is not base:
                    verdict = choice.verdict or other.verdict
                    found = gain(choice.means, other.means, spreads, verdict)
                    over.append({**key, "over": other.setting, **found})
    tables = {"comparison": adjusted(gains), "over_settings": adjusted(over)}
    make_folder(folder)
    write_tables(folder, tables)
    save(_figure(usual, judges, tables["comparison"], n), folder / "comparison.png", usual.folder)
    return _text(pools, judges, tables, n)


def setting_of(pool: Pool) -> str:
    return "T {:g}, guidance {:g}".format(*_temperature_and_guidance(pool))


def _temperature_and_guidance(pool: Pool) -> tuple[float, float]:
    identity = pool.manifest["identity"]
    return identity["temperature"], identity["guidance"]


def _judges(pools: Sequence[Pool]) -> list[Measure]:
    """Of the same weights and definition in all pools. Raises PoolError."""
    usual = pools[0]
    for pool in pools[1:]:
        for key in SAME:
            if pool.manifest["identity"][key] != usual.manifest["identity"][key]:
                raise PoolError(f"{pool.folder} and {usual.folder} do not have the same {key}")
    if len({setting_of(pool) for pool in pools}) < len(pools):
        raise PoolError("two of the pools have the same temperature and guidance")
    judges = [
        measure
        for measure in usual.measures.values()
        if measure.is_judge
        and all(
            measure.name in pool.measures and pool.measures[measure.name].origin == measure.origin
            for pool in pools
        )
    ]
    if not judges:
        raise PoolError("no judge has scored all of the pools with the same weights and definition")
    return judges


def _choices(
    pools: Sequence[Pool], selectors: Sequence[Measure], judge: Measure, n: int
) -> Iterator[Choice]:
    """The usual setting's sample first."""
    usual = pools[0]
    for pool in pools:
        verdict = USUAL if pool is usual else no_evidence(None, judge)
        yield Choice(setting_of(pool), ONE, one_sample(pool, judge), verdict)
    for selector in selectors:
        means = best_of(usual, selector, judge, n)
        yield Choice(setting_of(usual), selector.name, means, no_evidence(selector, judge))
    yield Choice(setting_of(usual), ORACLE, best_of(usual, judge, judge, n), UPPER_BOUND)


def _label(row: Row, n: int) -> str:
    return f"{ONE}, {row['setting']}" if row["choice"] == ONE else f"best of {n}: {row['choice']}"


def _text(
    pools: Sequence[Pool], judges: Sequence[Measure], tables: Mapping[str, list[Row]], n: int
) -> str:
    usual = pools[0]
    head = [
        f"{usual.manifest.get('title', usual.folder.name)}: choosing beside other settings",
        *(f"{setting_of(pool)}: m = {pool.size}, {pool.folder.name}" for pool in pools),
    ]
    lines: list[str] = []
    for name, rows in tables.items():

        def key(row: Row, name: str = name) -> Texts:
            more = {"mean": figures(row["mean"])} if "mean" in row else {"over": row["over"]}
            return {name.replace("_", " "): f"  {_label(row, n)}", **more}

        if rows:
            groups = by_measure(rows, judges, key)
            lines += [""] * bool(lines) + layout(groups, ("over", "verdict"))
    left_out = [m.name for m in usual.measures.values() if m.is_judge and m not in judges]
    notes = [LEGEND, few_prompts(len(usual.prompts))]
    if left_out:
        notes.append(f"Not in every pool with the same weights: {', '.join(left_out)}.")
    return document(head, lines, notes)


@styled
def _figure(usual: Pool, judges: Sequence[Measure], rows: Sequence[Row], n: int) -> Figure:
    """A panel a judge, a row a setting or selector."""
    labels = list(dict.fromkeys(_label(row, n) for row in rows))
    figure, axes = gain_panels(
        judges,
        labels,
        f"{usual.manifest.get('title', usual.folder.name)}: choosing beside other settings",
        "Gain over one sample of the usual setting, the first row, in within-prompt standard "
        "deviations of the judge, positive where better, with 95% interval over prompts. Orange: "
        f"the best of {n} clips of the usual setting by each selector. Hollow: no evidence; the "
        "oracle chooses by the judge itself, or the judge is the selector's own number, was "
        "trained on its data, or hears other prompts' references.",
    )
    for ax, judge in zip(axes, judges, strict=True):
        for row in rows:
            found = interval_of(row, "gain_sd", "sd_")
            if row["measure"] == judge.name and found is not None:
                colour, marker = look(int(row["choice"] != ONE))
                hollow = row["p_holm"] is None and row["verdict"] != USUAL
                at = [labels.index(_label(row, n))]
                intervals(ax, at, [found], colour, sideways=True, hollow=hollow, fmt=marker)
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("src.reports.comparison", __doc__)
    parser.add_argument("pools", type=Path, nargs="+", metavar="POOL", help="the usual one first")
    parser.add_argument("--selectors", nargs="+", default=[], help="default: all verifiers")
    parser.add_argument("--n", type=int, default=8, help="clips to choose among (default: 8)")
    parser.add_argument("--output", type=Path, help="a folder instead of the first pool's")
    asked = parser.parse_args(given(arguments, parser.prog))
    pools = map(load_pool, asked.pools)
    return printed(lambda: report([*pools], asked.selectors, asked.n, asked.output))


if __name__ == "__main__":
    sys.exit(main())
