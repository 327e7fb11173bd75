"""What search costs in diversity, exactly, from a pool's embeddings.

    diversity(study)   # rows of diversity.csv

For each selector and N, of best-of-N clips of different prompts: `spread`, their mean Euclidean
distance, and `kernel`, their kernel distance to the prompts' references (src/stats/sets.py). Both
are means over pairs of clips of different prompts, drawn independently, so that their expectations
follow from how likely each candidate is to win. `change`: to N = 1, a random candidate.

Intervals are 95% over prompts. Of a mean over pairs, which a prompt enters in both places, twice
the mean of each prompt's own pairs less the mean of all is resampled (the first order of
Hoeffding's decomposition). To compare spreads with: `within`, the mean distance between candidates
of one prompt, and `references`, between references of different ones. `relation`: "shares data"
where the selector learnt from the data of the network that hears: no independent evidence.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist, pdist

from src.judges.registry import JUDGES
from src.reports.pool_study import Study
from src.reports.table import Row, brackets, digits_of, ends, interval_of
from src.runs.embeddings import load_pool_embedding, pool_embedding_file, pool_embeddings
from src.runs.measures import Measure
from src.stats.best_of_n import best_of_n_weights
from src.stats.intervals import Interval, mean_interval
from src.stats.sets import SCALE, expected_pairs, gaussian, mean_of_pairs, median_distance

Array = NDArray[np.float64]
MIN_PROMPTS = 3  # of two there is one pair


def diversity(study: Study) -> list[Row]:
    """The rows of every network that has heard the pool. Raises RunFolderError."""
    return [row for name in pool_embeddings(study.pool.folder) for row in _network(study, name)]


def findings(rows: Sequence[Row]) -> Iterator[str]:
    """What the rows say of the largest N, a sentence a network and statistic."""
    for key in dict.fromkeys((row["embeddings"], row["statistic"]) for row in rows):
        own = [row for row in rows if (row["embeddings"], row["statistic"]) == key]
        largest = [row for row in own if row["n"] == max(row["n"] for row in own)]
        digits = digits_of(row["value"] for row in own)
        changes = ", ".join(
            f"{row['selector']} {brackets(interval_of(row, 'change', 'change_'), f'+.{digits}f')}"
            + f" ({row['relation']})" * bool(row["relation"])
            for row in largest
        )
        first = own[0]
        told = f"{first['value']:.{digits}f} at N = 1"
        if key[1] == "spread":
            told += f" ({first['within']:.{digits}f} between candidates of one prompt"
            if first["references"] is not None:
                told += f", {first['references']:.{digits}f} between references"
            told += ")"
        what = "diversity" if key[1] == "spread" else "distance to the references (KAD)"
        yield f"{what}, {key[0]}: {told}; change at N = {largest[0]['n']}: {changes}."


def _network(study: Study, name: str) -> Iterator[Row]:
    pool = study.pool
    files = {p: pool_embedding_file(pool.folder, name, p) for p in pool.prompts}
    found = {p: load_pool_embedding(path) for p, path in files.items()}
    heard = {p: one for p, one in found.items() if one and np.isfinite(one["candidates"]).any()}
    if len(heard) < MIN_PROMPTS:
        return
    prompts = list(heard)
    checkpoint = ", ".join(sorted({str(one["checkpoint"]) for one in heard.values()}))
    clips = np.array([heard[p]["candidates"] for p in prompts], dtype=np.float64)
    known = np.isfinite(clips).all(-1)
    clips = np.where(known[..., None], clips, 0.0)  # never chosen
    shared = JUDGES[name].shares_data_with if name in JUDGES else ()
    judge = Measure(name, "judge", shares_data_with=shared)
    relation = {s: judge.relation(study.measures[s]) for s in study.selectors}
    cells = [(s, n) for s in study.selectors for n in study.budgets]
    weights = np.concatenate([_weights(study, s, prompts, known) for s in study.selectors])
    referenced = np.array([len(heard[p]["reference"]) > 0 for p in prompts])
    within = [float(pdist(c[k]).mean()) for c, k in zip(clips, known, strict=True) if k.sum() > 1]
    spread: dict[str, Any] = {"within": float(np.mean(within)), "references": None}
    measured = [("spread", expected_pairs(weights, clips, cdist), spread)]
    theirs = np.concatenate([one["reference"] for one in heard.values()]).astype(np.float64)
    if len(theirs) >= MIN_PROMPTS and median_distance(theirs) > 0:
        spread["references"] = float(pdist(theirs).mean())
        pairs = np.full_like(measured[0][1], np.nan)
        both_ways = referenced[:, None] & referenced
        pairs[:, both_ways] = _kernel_pairs(
            weights[:, referenced], clips[referenced], theirs
        ).reshape(len(cells), -1)
        measured.append(("kernel", SCALE * pairs, {"within": None, "references": None}))
    for statistic, pairs, beside in measured:
        for at, (selector, n) in enumerate(cells):
            first = pairs[at - at % len(study.budgets)]
            chosen = (weights[at].sum(-1) > 0) & (referenced | (statistic == "spread"))
            if chosen.sum() >= MIN_PROMPTS:
                value, change = (of[chosen][:, chosen] for of in (pairs[at], pairs[at] - first))
                yield (
                    {"embeddings": name, "checkpoint": checkpoint, "statistic": statistic}
                    | {"selector": selector, "relation": relation[selector]}
                    | {"n": n, "prompts": int(chosen.sum())}
                    | ends("value", _interval(value))
                    | ends("change", _interval(change), "change_")
                    | beside
                )


def _weights(study: Study, selector: str, prompts: list[str], known: NDArray[np.bool_]) -> Array:
    """How likely each candidate is to win, [budgets, prompts, m]; zeros for a prompt without a
    score."""
    values, sign = study.pool.values(selector), study.measures[selector].sign
    found = np.zeros((len(study.budgets), *known.shape))
    for at, prompt in enumerate(prompts):
        scores = np.where(known[at], sign * values.get(prompt, np.array(np.nan)), np.nan)
        if not np.isnan(scores).all():
            found[:, at] = best_of_n_weights(scores, study.budgets)
    return found


def _kernel_pairs(weights: Array, clips: Array, theirs: Array) -> Array:
    """The terms of the squared MMD, [selections, prompts, prompts]. theirs: [prompts, D]."""
    kernel = partial(gaussian, bandwidth=median_distance(theirs))
    own = expected_pairs(weights, clips, kernel)
    cross = np.einsum("spm,pmq->spq", weights, np.array([kernel(c, theirs) for c in clips]))
    return own + kernel(theirs, theirs) - cross - cross.swapaxes(-1, -2)


def _interval(pairs: Array) -> Interval:
    """Of the mean over pairs of different prompts; pairs: [prompts, prompts]."""
    prompts = len(pairs)
    mean = float(mean_of_pairs(pairs))
    own = (pairs.sum(1) - pairs.diagonal()) / (prompts - 1)
    return mean_interval(2 * own - mean)
