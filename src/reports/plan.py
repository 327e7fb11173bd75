"""Which search a budget is best spent on, from one scored pool.

    python -m src.reports.plan POOL --budget_frames 2000 --sums tags+pmi
    python -m src.reports.plan POOL --budget_seconds 10 --seconds_per_clip 0.05

Every setting that the budget of a prompt pays for is tried on the pool's clips: best-of-n and soft
best-of-n exactly, halving (the better part is kept at the pool's prefixes) and waves (best-of-n
that stops when one more is not worth its price) by simulating them. Nothing is generated. A judge
chooses on one half of the prompts, and what it chose is reported on the other half, over the best
best-of-n chosen in the same way. Into the pool's folder or --output:

    plan.csv          every setting by its own number and by every judge, over all prompts
    plan_chosen.csv   what was chosen, on prompts that did not choose it, with verdicts
    plan.png          the judge's gain against the budget: settings, and what choosing gives
"""

import argparse
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from src.budget import PlanError
from src.data.files import WriteError, make_folder
from src.methods import BEST_OF_N
from src.reports.figure import COLOURS, GREY, intervals, look, panels, save, styled
from src.reports.figure import notes as notes_of
from src.reports.plan_settings import in_frames, in_seconds
from src.reports.plan_study import BOTH, KEEPS, PRICES, SOFTENS, Planner
from src.reports.table import (
    HOLM,
    INTERVALS,
    Row,
    Texts,
    brackets,
    describe,
    document,
    few_prompts,
    interval_of,
    layout,
    shown,
    write_tables,
)
from src.runs.arguments import given
from src.runs.ending import Exit, say
from src.runs.measures import Measure
from src.runs.pool import Pool, PoolError, load_pool
from src.runs.records import RunFolderError
from src.stats.intervals import StatsError, mean_interval

MARKERS = {"halving": "o", "soft_best_of_n": "^", "waves": "D", BEST_OF_N: "s"}


def report(planner: Planner, budget: float, output: Path | None = None) -> str:
    """Write the tables and the figure; returns the text that says what they show.

    output: a folder instead of the pool's. Raises PlanError, WriteError.
    """
    chosen, folder = planner.chosen(budget), output or planner.pool.folder
    make_folder(folder)
    write_tables(folder, {"plan": list(planner.valued(budget)), "plan_chosen": chosen})
    save(_figure(planner), folder / "plan.png", planner.pool.folder)
    return _text(planner, budget, chosen)


def _text(planner: Planner, budget: float, chosen: Sequence[Row]) -> str:
    pool, judge, rates = planner.pool, planner.judge, planner.schedules.rates
    better = dict.fromkeys(row["setting"] for row in chosen if row["verdict"] == "better")
    answer = f"Clearly better than best-of-n at this budget: {'; '.join(better)}."
    if not better:
        answer = "Nothing is clearly better than best-of-n at this budget."
    head = [
        f"{pool.manifest.get('title', pool.folder.name)}: {budget:,g} {rates.unit} a prompt",
        f"{len(planner.schedules.settings(budget))} settings by {', '.join(planner.selectors)}",
        f"chosen by {judge.name} {judge.arrow}  {describe(judge)}",
        answer,
    ]
    halves = [row for row in chosen if row["chosen_on"] != BOTH]
    both = [row for row in chosen if row["chosen_on"] == BOTH]
    texts: dict[str, list[Texts]] = defaultdict(list)
    for row in halves:
        heading = f"chosen on the {row['chosen_on']}, shown on the other ({row['prompts']} prompts)"
        texts[heading].append(
            {
                "setting": f"  {row['setting']}",
                f"mean {rates.unit}": f"{row['cost']:,.5g}",
                "clips": f"{row['clips']:.3g}",
                "own number": brackets(interval_of(row, "own", "own_")),
                **_tested(row),
            }
        )
    together = f"first choices, each on the half that did not choose it: {both[0]['setting']}"
    measures = [{"measure": f"  {row['measure']}", **_tested(row)} for row in both]
    commands = {row["setting"]: [f"  {row['setting']}", f"    {row['command']}"] for row in halves}
    lines = [*layout(texts), "", *layout({together: measures}), "", "commands"]
    lines += [line for pair in commands.values() for line in pair]
    notes = [
        "Gain: over one sample. Over best-of-n: the setting less the reference, best-of-n at this "
        "budget by the selector that the choosing half finds best for it. Own number: the "
        "selector's, over best-of-n by the same selector; no evidence. All in within-prompt "
        f"standard deviations, positive where better, with {INTERVALS}.",
        f"Better or worse: p of {judge.name} over the reference {HOLM}. Secondary: not what was "
        "chosen by. Control: other prompts' references.",
        "Best-of-n and soft best-of-n are exact; halving and waves are simulated on "
        f"{planner.draws} random orders of a prompt's {pool.size} clips, which adds a standard "
        f"error of about {(planner.draws * len(planner.prompts)) ** -0.5:.1g} sd to a mean of all "
        f"prompts. N is the largest that the budget pays for, of waves on average, {pool.size} at "
        "most.",
        few_prompts(len(planner.prompts)),
    ]
    if rates.unit == "seconds":
        clips = ", ".join(f"{name} {rates.per_clip[name]:.3g}" for name in planner.selectors)
        notes.append(f"Seconds: {rates.per_frame:.3g} a frame; a clip scored: {clips}.")
    if not pool.prefixes:
        notes.append("No halving: the pool has no scores of beginnings (--prefixes).")
    if related := [name for name in planner.selectors if name not in planner.choosable]:
        notes.append(f"Never chosen, since {judge.name} is no evidence: {', '.join(related)}.")
    if lacking := len(pool.prompts) - len(planner.prompts):
        notes.append(f"{lacking} prompts lack some number and are left out.")
    return document(head, lines, [note for note in notes if note])


def _tested(row: Row) -> dict[str, str]:
    return {
        "gain": brackets(interval_of(row, "gain_sd")),
        "over best-of-n": brackets(interval_of(row, "over_best_of_n", "over_")),
        "p": shown(row["p"], ".2g"),
        "p (Holm)": shown(row["p_holm"], ".2g"),
        "verdict": row["verdict"],
    }


@styled
def _figure(planner: Planner) -> Figure:
    """Every setting as a point, what choosing gives as a line."""
    judge, schedules, budgets = planner.judge, planner.schedules, planner.schedules.curve()
    figure, (ax,) = panels(
        1,
        f"{planner.pool.manifest.get('title', planner.pool.folder.name)}: what a budget buys",
        "Points: settings, means over all prompts. Lines: what is chosen on either half of the "
        "prompts, on the other half, among all settings and among best-of-n alone; "
        f"bars: {INTERVALS}." + notes_of([judge]),
        height=3.0,
        width=5.5,
    )
    points: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for setting in (s for at in budgets for s in schedules.settings(at)):
        if (gains := planner.gain((setting, setting), judge.name)) is not None:
            point = setting.cost, float(gains.mean())
            points[setting.selector, setting.cell.method].append(point)
    for (selector, method), found in points.items():
        colour = look(planner.selectors.index(selector))[0]
        marks = ax.plot(*np.transpose(found), MARKERS[method], c=colour, alpha=0.6, markersize=3.5)
        marks[0].set(mfc=colour if method == BEST_OF_N else "none")
    for index, selector in enumerate(planner.selectors):
        ax.plot([], [], "s", c=look(index)[0], label=selector)
    for method in (m for m in MARKERS if any(m == other for _, other in points)):
        inside = GREY if method == BEST_OF_N else "none"
        ax.plot([], [], MARKERS[method], c=GREY, mfc=inside, markersize=3.5, label=method)
    choices = [planner.choices(at) for at in budgets]
    for which, form, colour, label in (
        (1, "s--", GREY, "chosen best-of-n"),
        (0, "o-", COLOURS[-1], "chosen"),
    ):
        terms = [planner.gain(policies[which], judge.name) for policies in choices]
        means = [mean_interval(gains) for gains in terms if gains is not None]
        at = [budget * (0.98 + 0.04 * which) for budget in budgets]  # so that bars stand apart
        intervals(ax, at[: len(means)], means, colour, fmt=form, label=label)
    ax.set_xscale("log", base=2)
    ax.set_xticks(budgets, [f"{budget:,.4g}" for budget in budgets])
    ax.axhline(0, color=GREY, linewidth=0.6, zorder=0)
    ax.set(xlabel=f"{schedules.rates.unit} a prompt", ylabel=f"gain by {judge.name} (sd)")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def chooser(pool: Pool, name: str | None) -> Measure:
    """The judge to choose by, by default the pool's primary one. Raises PoolError."""
    judges = {n: m for n, m in pool.measures.items() if m.is_judge and not m.is_control}
    found = judges.get(name or next(iter(judges), ""))
    if found is None:
        known = ", ".join(judges) or "no judge"
        raise PoolError(f"{pool.folder}: cannot choose by {name or 'a judge'}; it has {known}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.reports.plan", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("pool", type=Path, metavar="POOL", help="of verifier_experiment.py")
    budget = parser.add_mutually_exclusive_group(required=True)
    budget.add_argument("--budget_frames", type=float, help="of a prompt")
    budget.add_argument("--budget_seconds", type=float, help="of a prompt")
    parser.add_argument("--seconds_per_frame", type=float, help="default: as the pool was timed")
    parser.add_argument("--seconds_per_clip", type=float, help="of scoring; default: as timed")
    parser.add_argument("--sums", nargs="+", default=[], help="of the pool's verifiers: tags+pmi")
    parser.add_argument("--choose_by", help="a judge; default: the pool's primary one")
    for name, default, text in (
        ("keeps", KEEPS, "parts that go on in halving"),
        ("softens", SOFTENS, "LAMBDAs of soft best-of-n, in the selector's within-prompt sd"),
        ("prices", PRICES, "of one more sample in waves, in sd of those before"),
    ):
        parser.add_argument(f"--{name}", type=float, nargs="*", default=default, help=text)
    parser.add_argument("--output", type=Path, help="a folder instead of the pool's")
    asked = parser.parse_args(given(arguments, parser.prog))
    if not all(0 < keep < 1 for keep in asked.keeps):
        parser.error("--keeps are between 0 and 1")
    if not all(0 < x < math.inf for x in (*asked.softens, *asked.prices)):
        parser.error("--softens and --prices are above 0")
    rated = [x for x in (asked.seconds_per_frame, asked.seconds_per_clip) if x is not None]
    if rated and (asked.budget_seconds is None or not all(0 <= x < math.inf for x in rated)):
        parser.error(
            "--seconds_per_frame and --seconds_per_clip are 0 or more, of --budget_seconds"
        )
    try:
        pool = load_pool(asked.pool, asked.sums)
        rates = in_frames(pool)
        if asked.budget_seconds is not None:
            rates = in_seconds(pool, asked.seconds_per_frame, asked.seconds_per_clip)
        kinds = asked.keeps, asked.softens, asked.prices
        planner = Planner(pool, chooser(pool, asked.choose_by), rates, *kinds)
        amount = asked.budget_frames if asked.budget_seconds is None else asked.budget_seconds
        say(report(planner, amount, asked.output))
    except (RunFolderError, PoolError, StatsError, PlanError, WriteError) as error:
        sys.stderr.write(f"{error}\n")
        return Exit.USAGE if isinstance(error, PlanError) else Exit.FOLDER
    return Exit.DONE


if __name__ == "__main__":
    sys.exit(main())
