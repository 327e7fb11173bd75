"""What choosing among a pool's clips gains by a measure: prompt by prompt, exact, paired.

Means are by prompt, over all that could be drawn from the pool, and higher where better, whichever
way the measure counts. A gain is one mean less another over the prompts that have both: for the
table in the measure's unit, in the measure's pooled within-prompt standard deviation, and in each
prompt's own, all with 95% intervals over prompts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from src.reports.table import (
    Row,
    Texts,
    brackets,
    describe,
    digits_of,
    ends,
    interval_of,
    shown,
)
from src.runs.measures import Measure
from src.runs.pool import Pool, Pools, of_both
from src.stats.best_of_n import best_of_n, in_own_sd, in_sd
from src.stats.intervals import mean_interval, mean_p

Means = Mapping[str, float]


def oriented(pool: Pool, measure: Measure) -> Pools:
    return {p: measure.sign * x for p, x in pool.values(measure.name).items()}


def one_sample(pool: Pool, measure: Measure) -> Means:
    """Of one clip, or of one chosen at random from any number."""
    return {p: float(np.nanmean(x)) for p, x in oriented(pool, measure).items()}


def best_of(pool: Pool, selector: Measure, measure: Measure, n: int) -> Means:
    """Of the clip that the selector scores highest of n. Raises StatsError if the pool has less."""
    prompts, scores, seen = of_both(oriented(pool, selector), oriented(pool, measure))
    return dict(zip(prompts, best_of_n(scores, seen, (n,))[:, 0].tolist(), strict=True))


def gain(better: Means, usual: Means, spreads: Pools, verdict: str = "") -> dict[str, Any]:
    """Columns of a mean's gain over the usual one, with p of no gain, and a verdict: a claim for
    `adjusted` of src/reports/table.py to test, unless there is one already.

    spreads: the measure's [m] by prompt that deviations are of. Raises StatsError where no prompt
    has both means.
    """
    both = [prompt for prompt in better if prompt in usual]
    gains = np.array([better[prompt] - usual[prompt] for prompt in both])
    pools = [spreads[prompt] for prompt in both]
    sd, own_sd = in_sd(gains, pools), in_own_sd(gains, pools)
    return (
        {"prompts": len(both)}
        | ends("gain", mean_interval(gains))
        | ends("gain_sd", None if sd is None else mean_interval(sd), "sd_")
        | ends("gain_own_sd", mean_interval(own_sd) if own_sd.size else None, "own_")
        | {"p": mean_p(gains), "verdict": verdict or ("better" if gains.mean() > 0 else "worse")}
    )


def no_evidence(selector: Measure | None, measure: Measure) -> str:
    """The verdict on what a selector gains by a measure that cannot show that clips are better."""
    if measure.is_control:
        return "control"
    return "not independent" if selector and measure.relation(selector) else ""


def by_measure(
    rows: Sequence[Row], measures: Sequence[Measure], key: Callable[[Row], Texts]
) -> dict[str, list[Texts]]:
    """Under each measure its rows as text: what `key` makes of a row, then its gain and verdict."""
    return {
        f"{measure.name} {measure.arrow}  {describe(measure)}": [
            {**key(row), **_gain_texts(row)} for row in rows if row["measure"] == measure.name
        ]
        for measure in measures
    }


def _gain_texts(row: Row) -> dict[str, str]:
    """The columns of `gain` and `adjusted` as text."""
    digits = digits_of([row["gain"], row["high"], row["low"]])
    return {
        "prompts": f"{row['prompts']}",
        "gain": brackets(interval_of(row, "gain"), f"+.{digits}f"),
        "in sd": brackets(interval_of(row, "gain_sd", "sd_")),
        "in own sd": brackets(interval_of(row, "gain_own_sd", "own_")),
        "p": shown(row["p"], ".2g"),
        "p (Holm)": shown(row["p_holm"], ".2g"),
        "verdict": row["verdict"],
    }
