"""A pool, read back: m clips of each prompt as tokens, and what every measure says of them.

In a notebook, from the repository's root (no torch; nothing is loaded or generated):

    from src.runs.pool import load_pool

    pool = load_pool("results/pool-builtin-m16-0123abcd")
    pool.values("tags")["b00"]              # float64 [m], of the whole clips; NaN: no number
    pool.values("tags", seconds=2.0)        # of their first two seconds
    own, seen = pool.pair("tags", "msd_kld")
    pool.values("0.7*tags+0.3*pmi")         # a sum, each part in units of its spread in this pool
    pool.values("min(tags,pmi)")            # any expression, as a --verifier
    frame = pool.table()                    # pandas: prompt_id, candidate, measure, seconds, value

`python verifier_experiment.py` makes pools, and adds measures to those that are there (--pool).

    <pool>/records.jsonl                    scores and log-probabilities, by prompt and measure
    <pool>/tokens/<prompt id>.npy           int16 [m, codebooks, frames]; or .npz, as "tokens"
"""

import zipfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from src.runs.measures import Measure, in_short
from src.runs.records import Record, RunFolderError, read_manifest, read_records
from src.scoring import (
    LIKELIHOODS,
    PMI,
    ExpressionError,
    canonical,
    is_medoid,
    likelihood,
    parse,
)
from src.stats.best_of_n import within_prompt_std

LOG_PROBS = "log_probs"  # mean log-probabilities of a prompt's candidates, with their text
UNCONDITIONAL = "unconditional_log_probs"  # and without it, where decoding was guided
WHOLE = "whole"
# Of a measure, noted in its records.
FACTS = ("role", "definition", "higher_is_better", "is_verifier", "shares_data_with", "note")
ORIGIN = ("checkpoint", "definition")  # numbers of another are not those of the measure

Array = NDArray[np.float64]
Pools = Mapping[str, Array]  # [m] by prompt
Numbers = list[float | None]  # one per candidate, None where there is none


class PoolError(ValueError):
    """What was asked for is not in the pool; the message says what is."""


class Pool:
    """One prompt after the other has m candidates; measures may lack some prompts.

    A candidate has no number (NaN) where a measure has none for it, and of no measure where the
    model overflowed in it: its tokens mean nothing.

    sums: expressions of its verifiers, such as tags+pmi, that are verifiers of the pool too.

    prompts: ids of those with candidates, in order; asked: how many it is to have when finished.
    size: m. duration: seconds of a clip; frames: of its tokens. measures: verifiers, sums, judges.
    checkpoints: by measure (but sums), name and sha256 of its weights. prefixes: seconds at which
    some verifier has scored the clips' beginnings, ascending. reasons: by measure and prompt, why
    there is no score. validity: by measure and prompt, what it says of references, a record
    (src/experiments/validity.py).
    """

    def __init__(self, folder: Path, sums: Sequence[str] = ()) -> None:
        self.folder, self.manifest = folder, read_manifest(folder)
        try:
            identity = self.manifest["identity"]
            self.size: int = identity["candidates"]
            self.duration: float = identity["duration"]
            self.frames: int = identity["frames"]
            self.asked: int = identity["prompts"]["count"]
            made_by = identity["checkpoints"]["generator"]
            generator = in_short(made_by)
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"{folder} is not a pool's folder, as verifier_experiment.py makes: its manifest "
                f"lacks {error}"
            ) from None
        self.candidates: dict[str, Record] = {}
        self.reasons: dict[str, dict[str, str]] = defaultdict(dict)
        self.validity: dict[str, dict[str, Record]] = defaultdict(dict)
        # By measure, in the order asked for, though the first prompt may have failed.
        scores: dict[str, dict[str, Record]] = {}
        for record in read_records(folder).values():
            measure, prompt = record.get("measure"), record["prompt_id"]
            if record["kind"] == "validity":
                self.validity[record["measure"]][prompt] = record
                continue
            for field in {LOG_PROBS, UNCONDITIONAL, "values"} & record.keys():
                numbers = record[field].items()  # of a large pool most of the memory
                record[field] = {key: np.array(x, dtype=np.float64) for key, x in numbers}
            own = self.candidates if measure is None else scores.setdefault(measure, {})
            if record["status"] == "ok":
                own[prompt] = record
            elif measure is not None:
                self.reasons[measure][prompt] = record["reason"]
        self.prompts = tuple(self.candidates)
        self.measures: dict[str, Measure] = {}
        self.checkpoints: dict[str, Record] = dict.fromkeys(LIKELIHOODS, made_by)
        # [m] by prompt, of each measure (but sums) and `prefix_key`.
        self._values: dict[tuple[str, str], dict[str, Array]] = defaultdict(dict)
        self._seconds: dict[str, float] = {}
        for name in LIKELIHOODS:
            self._take_likelihood(name, generator)
        for name, records in scores.items():
            if records:
                self._take_scores(name, records)
        added = {measure.name: measure for measure in map(self.sum_of, sums)}
        judges = {name: m for name, m in self.measures.items() if m.is_judge}
        self.measures = {n: m for n, m in self.measures.items() if n not in judges} | added | judges
        beginnings = {float(key) for _, key in self._values if key != WHOLE}
        self.prefixes = tuple(sorted(beginnings))

    def values(self, name: str, seconds: float | None = None) -> dict[str, Array]:
        """The measure's float64 [m] by prompt id, of whole clips or of their first `seconds`.

        name: of `measures`, or an expression of verifiers, which has a number where all its parts
        have. Prompts without a number are left out. Raises PoolError for what the pool does not
        have.
        """
        if name in self.measures and not self.measures[name].scales:
            return dict(self._values.get((name, prefix_key(seconds)), {}))
        measure = self.sum_of(name)
        parts = {part: self.values(part, seconds) for part in measure.scales}
        found = {
            prompt: measure.combined({part: values[prompt] for part, values in parts.items()})
            for prompt in self.prompts
            if all(prompt in values for values in parts.values())
        }
        return {prompt: own for prompt, own in found.items() if not np.isnan(own).all()}

    def pair(
        self, a: str, b: str, a_seconds: float | None = None
    ) -> tuple[list[Array], list[Array]]:
        """Two measures over the prompts that have both: a list of [m] each, in one order."""
        _, first, second = of_both(self.values(a, a_seconds), self.values(b))
        return first, second

    def seconds_of(self, name: str) -> tuple[float, ...]:
        """The prefixes at which a measure has any number, ascending."""
        return tuple(seconds for seconds in self.prefixes if self.values(name, seconds))

    def tokens(self, prompt_id: str) -> NDArray[np.int16]:
        """int16 [m, codebooks, frames]. Raises RunFolderError for a file that is not whole."""
        return load_tokens(self.folder, prompt_id)

    def has_tokens(self, prompt_id: str) -> bool:
        """Whether they are in the folder: of committed pools that are large, they need not be."""
        path = token_file(self.folder, prompt_id)
        return path.exists() or path.with_suffix(".npz").exists()

    def table(self) -> pd.DataFrame:
        """One row for each candidate and measure: prompt_id, candidate, measure, seconds (of the
        clip), value."""
        rows = [
            (prompt, candidate, name, seconds or self.duration, value)
            for name in self.measures
            for seconds in (*self.prefixes, None)
            for prompt, values in self.values(name, seconds).items()
            for candidate, value in enumerate(values)
        ]
        names = ["prompt_id", "candidate", "measure", "seconds", "value"]
        return pd.DataFrame(rows, columns=names)

    def seconds(self, measure: str) -> float:
        """Mean wall seconds that scoring one whole clip took: rendering, sending and the model.

        0 for perplexity and pmi, which come with the tokens; of a sum that of its parts together,
        as if each were sent alone. Raises PoolError.
        """
        if measure in self._seconds:
            return self._seconds[measure]
        return sum(self.seconds(part) for part in self.sum_of(measure).scales)

    def generation_seconds(self) -> float:
        """Mean seconds that generating one clip took: conditions and decoding."""
        spent = [sum(r["ledger"]["seconds"].values()) for r in self.candidates.values()]
        return float(np.mean(spent)) / self.size

    def sum_of(self, expression: str) -> Measure:
        """An expression of verifiers as a measure, each part in units of its spread in this pool.

        The spread is the within-prompt standard deviation of whole clips over all prompts, and the
        mean that of all whole clips, as a calibration has them: two constants a part, so that what
        follows of best-of-n is exact for expressions too. Raises PoolError.
        """
        if expression in self.measures:
            return self.measures[expression]
        try:
            parsed = parse(expression)
        except ExpressionError as error:
            raise PoolError(str(error)) from error
        if (name := canonical(expression)) in self.measures:
            return self.measures[name]
        for part in parsed.verifiers:
            if is_medoid(part) and part not in self.measures:
                raise PoolError(
                    f"{self.folder} has no {part}: it does not follow from the pool's numbers. "
                    "Have it scored: "
                    f"verifier_experiment.py --pool {self.folder} --verifiers '{part}'"
                )
            if part not in self.measures or self.measures[part].role != "verifier":
                what = "measure" if part == expression else "verifier"
                known = ", ".join(self.measures)
                raise PoolError(f"{self.folder} has no {what} {part!r}; it has {known}")
        parts = [self.measures[part] for part in parsed.verifiers]
        pools = {part: list(self.values(part).values()) for part in parsed.verifiers}
        scales = {part: within_prompt_std(found) for part, found in pools.items()}
        for part, scale in scales.items():
            if not scale > 0:
                raise PoolError(f"{part} does not vary within a prompt: it cannot be in a sum")
        shown = "in units of within-prompt deviations: "
        shown += ", ".join(f"{part} {scale:.3g}" for part, scale in scales.items())
        means: dict[str, float] = {}
        if parsed.is_centred:
            means = {part: float(np.nanmean(np.concatenate(pools[part]))) for part in scales}
            shown += "; from means: " + ", ".join(f"{p} {mean:.3g}" for p, mean in means.items())
        return Measure(
            name=name,
            role="verifier",
            checkpoint=", ".join(part.checkpoint for part in parts),
            is_verifier=tuple(dict.fromkeys(v for p in parts for v in p.is_verifier)),
            shares_data_with=tuple(dict.fromkeys(v for p in parts for v in p.shares_data_with)),
            note=shown,
            scales=scales,
            means=means,
        )

    def _take_likelihood(self, name: str, generator: str) -> None:
        """A verifier whose numbers came with the tokens."""
        guided, known = name == PMI, False
        for prompt, record in self.candidates.items():
            without = record.get(UNCONDITIONAL, {})
            for key, log_prob in record[LOG_PROBS].items():
                if key in without or not guided:
                    pair = (np.array(x, np.float64) for x in (log_prob, without.get(key)))
                    self._take(name, key, prompt, likelihood(name, *pair))
                    known = True
        if known or not guided:
            # both are made of the same log-probabilities: neither is evidence for the other
            same = LIKELIHOODS
            self.measures[name] = Measure(name, "verifier", True, generator, is_verifier=same)
            self._seconds[name] = 0.0

    def _take_scores(self, name: str, records: Mapping[str, Record]) -> None:
        """What was scored; by other weights than the latest record's, or by another definition, it
        does not count."""
        newest = max(records.values(), key=lambda record: (record["start"], record["time"]))
        origin = [newest[key] for key in ORIGIN]
        now = {p: r for p, r in records.items() if [r[key] for key in ORIGIN] == origin}
        self.checkpoints[name] = newest["checkpoint"]
        facts = {"name": name, "checkpoint": in_short(newest["checkpoint"])}
        self.measures[name] = Measure.from_record(facts | {fact: newest[fact] for fact in FACTS})
        self._seconds[name] = float(np.mean([r["seconds"][WHOLE] for r in now.values()]))
        for prompt in self.prompts:
            for key, values in now[prompt]["values"].items() if prompt in now else ():
                self._take(name, key, prompt, np.array(values, dtype=np.float64))

    def _take(self, name: str, key: str, prompt: str, values: Array) -> None:
        """values: [m]."""
        whole = np.array(self.candidates[prompt][LOG_PROBS][WHOLE], dtype=np.float64)
        values = np.where(np.isnan(whole), np.nan, values)
        if not np.isnan(values).all():
            self._values[name, key][prompt] = values
        elif key == WHOLE:
            self.reasons[name][prompt] = "the model overflowed in every candidate"


def of_both(a: Pools, b: Pools) -> tuple[list[str], list[Array], list[Array]]:
    """The prompts of which some candidate has both numbers, and the pools of each; a candidate that
    lacks one is NaN in both."""
    pairs = {p: np.stack([a[p], b[p]]) for p in a if p in b}
    known = {p: np.where(np.isnan(pair).any(0), np.nan, pair) for p, pair in pairs.items()}
    both = {p: pair for p, pair in known.items() if not np.isnan(pair).all()}
    return list(both), [pair[0] for pair in both.values()], [pair[1] for pair in both.values()]


def load_pool(folder: Path | str, sums: Sequence[str] = ()) -> Pool:
    """Raises RunFolderError for a folder that is not a pool's, or is damaged; PoolError for sums
    of what it does not have."""
    return Pool(Path(folder), sums)


def load_tokens(folder: Path | str, prompt_id: str) -> NDArray[np.int16]:
    """A prompt's candidates, int16 [m, codebooks, frames]. Raises RunFolderError."""
    path = token_file(folder, prompt_id)
    if not path.exists() and (packed := path.with_suffix(".npz")).exists():
        path = packed
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            tokens: NDArray[np.int16] = found["tokens"] if path.suffix == ".npz" else found
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    return tokens


def token_file(folder: Path | str, prompt_id: str) -> Path:
    return Path(folder, "tokens", f"{prompt_id}.npy")


def short(values: ArrayLike) -> Numbers:
    """As float32, in as few digits as tell it from its neighbours: pools hold many numbers.

    None for NaN.
    """
    rounded = np.asarray(values, dtype=np.float32).ravel()
    return [None if np.isnan(value) else float(str(value)) for value in rounded]


def prefix_key(seconds: float | None) -> str:
    """How records name a clip's first seconds (None: the whole clip).

    >>> prefix_key(2.0), prefix_key(2.5), prefix_key(None)
    ('2', '2.5', 'whole')
    """
    return WHOLE if seconds is None else f"{seconds:g}"
