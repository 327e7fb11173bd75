"""A critic of beginnings: is a clip's final score predicted better than by its prefix's own score?

    python -m src.experiments.critic POOL --sums tags+pmi
    python -m src.experiments.critic POOL --train tags      # and write critic.json, for --value

For each of the pool's verifiers and each prefix that it was scored at, a ridge regression within
prompts predicts the score of the whole clip from what a search knows of the beginning at no further
cost: the verifier's own score there, the mean log-probabilities so far with and without the text
and, of an expression, its parts. A second row adds statistics of the tokens, which a search does
not look at. Nothing is generated. Into the pool's folder or --output:

    critic.csv          by selector, seconds and features: R2 within prompts and Kendall's tau with
                        the final score, of the critic and of the prefix's own score, with the
                        paired differences
    critic_halving.csv  what halving gains by the critic and by the prefix's own score, simulated on
                        subsets of the pool, by the selector's own number and by the primary judge
    critic.json         with --train, a critic of that verifier, trained on all prompts
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from src.data.files import make_folder, write_whole
from src.reports.command import parser_of, printed
from src.reports.critic_study import DRAWS, FOLDS, OVER_PREFIX, CriticStudy
from src.reports.gains import by_measure
from src.reports.table import (
    HOLM,
    INTERVALS,
    Row,
    brackets,
    document,
    few_prompts,
    interval_of,
    layout,
    shown,
    write_tables,
)
from src.runs.arguments import given
from src.runs.pool import load_pool

FILE = "critic.json"


def report(study: CriticStudy, output: Path | None = None, train: str | None = None) -> str:
    """Write the tables and, of the verifier `train`, a critic; returns what the tables show.

    output: a folder instead of the pool's. Raises PoolError, WriteError.
    """
    folder = output or study.pool.folder
    make_folder(folder)
    if train:
        write_whole(folder / FILE, study.trained(train).model_dump_json(indent=2) + "\n")
    rows, halving = study.rows(), study.halving_rows()
    write_tables(folder, {"critic": rows, "critic_halving": halving})
    return _text(study, rows, halving)


def _text(study: CriticStudy, rows: Sequence[Row], halving: Sequence[Row]) -> str:
    pool = study.pool
    better = [f"{r['selector']} at {r['seconds']:g} s" for r in rows if r["verdict"] == "better"]
    answer = "No critic ranks beginnings clearly better than their own score does: prune by that."
    if better:
        answer = (
            f"A critic ranks beginnings clearly better than their own score: {', '.join(better)}."
        )
    ranking = {
        f"{selector}, first {seconds:g} s": [
            {
                "final score by": f"  {row['features']}",
                "R2": brackets(interval_of(row, "r2", "r2_"), ".3f"),
                "over prefix": brackets(
                    interval_of(row, "r2_difference", "r2_difference_"), "+.3f"
                ),
                "tau": brackets(interval_of(row, "tau", "tau_"), ".3f"),
                "tau over prefix": brackets(
                    interval_of(row, "tau_difference", "tau_difference_"), "+.4f"
                ),
                "p (Holm)": shown(row["p_holm"], ".2g"),
                "verdict": row["verdict"],
            }
            for row in rows
            if (row["selector"], row["seconds"]) == (selector, seconds)
        ]
        for selector, seconds in dict.fromkeys((r["selector"], r["seconds"]) for r in rows)
    }
    over_prefix = [row for row in halving if row["compared"] == OVER_PREFIX]
    measures = [pool.measures[name] for name in dict.fromkeys(row["measure"] for row in halving)]
    buys = by_measure(
        over_prefix,
        measures,
        lambda row: {"halving": f"  {row['alive'].replace(' ', ', ')} by {row['selector']}"},
    )
    head = [f"{pool.manifest.get('title', pool.folder.name)}: a critic of beginnings", answer]
    notes = [
        f"R2 and tau: within prompts, of prompts held out ({FOLDS} folds); prefix: its own score, "
        f"in R2 with a slope of its own. Means with {INTERVALS}, differences paired.",
        f"Halving: what the critic gains over the prefix, simulated on {DRAWS} random subsets of a "
        f"prompt's {pool.size} clips, the last step by the verifier itself.",
        f"Better or worse: p of the difference {HOLM}. Secondary: no claim.",
        few_prompts(len(study.prompts)),
    ]
    lines = [*layout(ranking), "", *layout(buys)]
    return document(head, lines, [note for note in notes if note])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("src.experiments.critic", __doc__)
    parser.add_argument("pool", type=Path, metavar="POOL", help="with scores of beginnings")
    parser.add_argument("--sums", nargs="+", default=[], help="of the pool's verifiers: tags+pmi")
    parser.add_argument("--train", metavar="VERIFIER", help=f"write a critic of it: {FILE}")
    parser.add_argument("--output", type=Path, help="a folder instead of the pool's")
    asked = parser.parse_args(given(arguments, parser.prog))
    return printed(
        lambda: report(CriticStudy(load_pool(asked.pool, asked.sums)), asked.output, asked.train)
    )


if __name__ == "__main__":
    sys.exit(main())
