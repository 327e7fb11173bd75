"""What a run of benchmark.py found, from its folder alone: means, paired differences and costs.

    study = study_benchmark(Path("results/benchmark-builtin-tags-n8-1a2b3c4d"))
    study.rows["best_of_n", "msd_kld"]["difference"]

Differences are to the baseline, one sample, over the prompts that both methods finished. Judges
alone have a verdict: the selector's own number says that the search worked, not that the music is
better. Better or worse: p is 0.05 at most after Holm's adjustment for all that have a verdict.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from src.methods import BASELINE
from src.reports.table import Row, adjusted, brackets, digits_of, ends, interval_of
from src.runs.evaluation import REFERENCE, load_embeddings
from src.runs.measures import Claim, Measure, in_short
from src.runs.records import Record, Records, read_manifest, read_records, without_tree
from src.stats.intervals import Array, StatsError, mean_interval, mean_p
from src.stats.sets import STATISTICS, null, p_of_difference

MIN_CLIPS = 2  # fewer are no set
LOST = "its embedding, or that of its reference, is not in the run's folder"

Embeddings = dict[str, NDArray[np.float32]]  # by prompt id, [windows, D]


@dataclass(frozen=True)
class Study:
    """A run's results.

    methods: those with a finished prompt, in the order they were asked for. costs: by method, means
    per prompt. records: whole ones; done, failed: without trees, with `unscored`, why candidates
    have no score. rows: by method and measure, as summary.csv has them; of measures of sets with
    `null`, what chance gives (src/stats/sets.py), and its 95% range. values: by method and measure,
    each clip's number by prompt id, NaN where there is none; empty for measures of sets. unjudged:
    by measure, why a clip has no number.
    """

    manifest: Mapping[str, Any]
    methods: tuple[str, ...]
    measures: tuple[Measure, ...]
    costs: Mapping[str, Row]
    records: Records
    done: tuple[Record, ...]
    failed: tuple[Record, ...]
    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    values: dict[tuple[str, str], pd.Series] = field(default_factory=dict)
    unjudged: dict[str, list[str]] = field(default_factory=dict)

    @property
    def primary(self) -> Measure | None:
        return next((m for m in self.measures if m.role == "primary judge"), None)

    @property
    def selector(self) -> Measure:
        return next(m for m in self.measures if m.role == "selector")

    def of(self, measure: str) -> list[Row]:
        """A measure's rows, by method."""
        return [self.rows[method, measure] for method in self.methods]

    def contrast(self, measure: Measure) -> Measure | None:
        """A judge's prompt-specific part, where it is among the measures."""
        return next((m for m in self.measures if m.name == measure.contrast), None)

    @property
    def shown(self) -> list[Measure]:
        """Without controls, and without what stands beside the judge that it is a part of."""
        parts = {m.contrast for m in self.measures}
        return [m for m in self.measures if not m.is_control and m.name not in parts]

    def points(self, method: str, measure: str, paired: bool) -> Array:
        """Each clip's number, or if `paired` its difference to the baseline's; float64 [clips]."""
        values = self.values[method, measure]
        if paired:
            base = self.values.get((BASELINE, measure), pd.Series(dtype=float))
            values = values - base.reindex(values.index)
        return values.dropna().to_numpy()

    def digits(self, measure: str) -> int:
        """Those after the point that show three of the largest difference (else value)."""
        rows = self.of(measure)
        differences = [row["difference"] for row in rows if row["difference"] is not None]
        return digits_of(differences or [row["mean"] for row in rows])


def study_benchmark(folder: Path | str) -> Study:
    """Read a run's folder. Raises RunFolderError.

    A measure of sets is tested against the baseline by permutations: seconds for a hundred prompts,
    about a minute a method for thousands.
    """
    manifest = read_manifest(folder)
    records = read_records(folder, _light)
    done, failed = (
        [record for record in records.heads.values() if (record["status"] == "ok") == ok]
        for ok in (True, False)
    )
    asked = manifest["identity"]["settings"]["method"]
    by_method = {m: own for m in asked if (own := [r for r in done if r["method"] == m])}
    study = Study(
        manifest=manifest,
        methods=tuple(by_method),
        measures=tuple(_measure(entry, manifest) for entry in manifest["measures"]),
        costs={method: _cost(own) for method, own in by_method.items()},
        records=records,
        done=tuple(done),
        failed=tuple(failed),
    )
    for measure in study.measures:
        name = measure.name
        reasons = [r["unjudged"][name] for r in done if name in r["unjudged"]]
        if measure.kind == "set":
            found = _set_numbers(folder, by_method, measure)
            heard = sum(numbers["prompts"] for numbers in found.values())
            reasons += [LOST] * (len(done) - len(reasons) - heard)
        else:
            for method, own in by_method.items():
                values = {r["prompt_id"]: value_of(r, measure) for r in own}
                study.values[method, name] = pd.Series(values, dtype=float)
            found = {method: _clip_numbers(study, method, name) for method in by_method}
        for method, numbers in found.items():
            study.rows[method, name] = _row(study, method, measure, numbers)
        study.unjudged[name] = reasons
    study.rows.update(zip(study.rows, adjusted([*study.rows.values()]), strict=True))
    return study


def _light(record: Record) -> Record:
    scores = [node["score"] for node in record.get("tree", ())]
    reasons = [score["reason"] for score in scores if "reason" in score]
    return without_tree(record) | {"unscored": reasons}


def value_of(record: Record, measure: Measure) -> float | None:
    """A finished clip's number under a measure of clips; None where a judge has none."""
    if measure.role == "selector":
        return float(record["winner"]["score"]["value"])
    value = record["judges"].get(measure.name)
    return None if value is None else float(value)


def difference_text(row: Row, digits: int) -> str:
    """Such as "+0.650 [+0.500, +0.813]", of a measure of sets "-0.41, p = 0.012"."""
    if row["kind"] == "set" and row["difference"] is not None:
        return f"{row['difference']:+.{digits}f}, p = {row['p']:.3f}"
    found = interval_of(row, "difference")
    return brackets(found, f"+.{digits}f") if found else ""


def direction(measure: Measure, row: Row) -> Claim:
    """What a difference shows, whoever measures it; adjusted where it is a claim of the table."""
    p = row["p"] if row["p_holm"] is None else row["p_holm"]
    return measure.verdict(row["difference"], p)


def _measure(entry: dict[str, Any], manifest: dict[str, Any]) -> Measure:
    known = manifest["identity"].get("checkpoints", {}).get(entry["name"])
    if known and not entry.get("checkpoint"):
        # Manifests of the first release name checkpoints in a run's identity only.
        entry = {**entry, "checkpoint": in_short(known)}
    return Measure.from_record(entry)


def _row(study: Study, method: str, measure: Measure, numbers: Row) -> Row:
    names = ("prompts", "windows", "mean", "paired_prompts", "difference", "low", "high")
    row: dict[str, Any] = {
        "method": method,
        "measure": measure.name,
        "role": measure.role,
        "kind": measure.kind,
        "higher_is_better": measure.higher_is_better,
        "checkpoint": measure.checkpoint,
        **dict.fromkeys((*names, "p", "p_holm")),
        **numbers,
        "verdict": "",
        **{name: study.costs[method][name] for name in ("frames", "clips", "seconds")},
    }
    if row["difference"] is not None:
        # Early manifests have what a judge shares with the selector in its note alone.
        shares = measure.relation(study.selector) or measure.note.startswith("not independent")
        evidence = measure.is_judge and not shares
        row["verdict"] = direction(measure, row) if evidence else "not independent"
        row["verdict"] = "control" if measure.is_control else row["verdict"]
    return row


def _clip_numbers(study: Study, method: str, measure: str) -> Row:
    own, paired = (study.points(method, measure, paired) for paired in (False, True))
    numbers: dict[str, Any] = {"prompts": len(own)}
    if len(own):
        numbers["mean"] = float(np.mean(own))
    if len(paired) and method != BASELINE:
        numbers |= {"paired_prompts": len(paired), **ends("difference", mean_interval(paired))}
        numbers["p"] = mean_p(paired)
    return numbers


def _set_numbers(
    folder: Path | str, records: Mapping[str, Sequence[Record]], measure: Measure
) -> dict[str, Row]:
    """By method, the number of all its clips together."""
    prompts = dict.fromkeys(r["prompt_id"] for finished in records.values() for r in finished)
    kept = measure.embeddings or measure.name
    references = load_embeddings(folder, kept, REFERENCE, prompts)
    compares = measure.statistic != "spread"
    clips: dict[str, Embeddings] = {}
    for method, finished in records.items():
        judged = [r["prompt_id"] for r in finished if measure.name not in r["unjudged"]]
        found = load_embeddings(folder, kept, method, judged)
        clips[method] = {k: x for k, x in found.items() if k in references or not compares}
    base = clips.get(BASELINE, {})
    return {
        m: _set_row(measure.statistic, own, base if m != BASELINE else {}, references)
        for m, own in clips.items()
    }


def _set_row(statistic: str, own: Embeddings, base: Embeddings, references: Embeddings) -> Row:
    """base: the baseline's; empty for itself. Where the set has no number, `mean` is left out."""

    def of(found: Embeddings, keys: Iterable[str]) -> list[NDArray[np.float32]]:
        return [found[key] for key in keys if key in found]

    row: dict[str, Any] = {"prompts": len(own), "windows": sum(map(len, own.values()))}
    shared = [key for key in own if key in base]
    with suppress(StatsError):  # references that are all the same
        if len(own) >= MIN_CLIPS:
            row["mean"] = STATISTICS[statistic](of(references, own))(of(own, own))
            if len(of(references, own)) >= MIN_CLIPS:
                chance = null(statistic, of(own, own), of(references, own))
                row |= ends("null", chance, "null_")
        if len(shared) >= MIN_CLIPS:
            measure = STATISTICS[statistic](of(references, shared))
            ours, theirs = of(own, shared), of(base, shared)
            change = measure(ours) - measure(theirs)
            p = p_of_difference(ours, theirs, measure)
            row |= {"paired_prompts": len(shared), "difference": change, "p": p}
    return row


def _cost(records: Sequence[Record]) -> Row:
    """Means over the finished prompts; judging is left out of the seconds."""
    ledgers = [record["ledger"] for record in records]
    seconds = [sum(s for k, s in x["seconds"].items() if k != "judge") for x in ledgers]
    means = {name: float(np.mean([x[name] for x in ledgers])) for name in ("frames", "clips")}
    return {"prompts": len(records), **means, "seconds": float(np.mean(seconds))}
