"""A pool, read back: m clips of each prompt as tokens, and what every measure says of them.

In a notebook, from the repository's root (numpy only; nothing is loaded or generated):

    from pathlib import Path
    from src.runs.pool import load_pool

    pool = load_pool(Path("results/pool-builtin-m16-0123abcd"))
    pool.values("tags")["b00"]              # float64 [m], of the whole clips
    pool.values("tags", seconds=2.0)        # of their first two seconds
    own, seen = pool.pair("tags", "msd_kld")
    pool.values("0.7*tags+0.3*pmi")         # a sum, each part in units of its spread in this pool
    frame = pool.table()                    # pandas: prompt_id, candidate, measure, seconds, value

`python verifier_experiment.py` makes pools, and adds measures to those that are there (--pool).

    <pool>/records.jsonl                    scores and log-probabilities, by prompt and measure
    <pool>/tokens/<prompt id>.npy           int16 [m, codebooks, frames]; or .npz, as "tokens"
"""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from src.likelihood import IN_COMMON, LIKELIHOODS, NEEDS_GUIDANCE
from src.runs.measures import Measure, in_short
from src.runs.records import Record, RunFolderError, read_manifest, read_records
from src.verifier import ExpressionError, components

if TYPE_CHECKING:
    import pandas

LOG_PROBS = "log_probs"  # mean log-probabilities of a prompt's candidates, with their text
UNCONDITIONAL = "unconditional_log_probs"  # and without it, where decoding was guided
WHOLE = "whole"

Array = NDArray[np.float64]
Values = dict[str, dict[str, Array]]  # of a measure: [m] by prompt and by `prefix_key`


class PoolError(ValueError):
    """What was asked for is not in the pool; the message says what is."""


class Pool:
    """One prompt after the other has m candidates; measures may lack some prompts.

    sums: weighted sums of its verifiers, such as tags+pmi, that are verifiers of the pool too.

    prompts: ids of those with candidates, in order; asked: how many it is to have when finished.
    size: m. duration: seconds of a clip; frames: of its tokens. measures: verifiers, sums, judges.
    prefixes: seconds at which some verifier has scored the clips' beginnings, ascending. reasons:
    by measure and prompt, why there is no score.
    """

    def __init__(self, folder: Path, sums: Sequence[str] = ()) -> None:
        manifest = read_manifest(folder)
        try:
            identity = manifest["identity"]
            self.size: int = identity["candidates"]
            self.duration: float = identity["duration"]
            self.frames: int = identity["frames"]
            self.asked: int = identity["prompts"]["count"]
            generator: Mapping[str, str] = identity["checkpoints"]["generator"]
        except (KeyError, TypeError) as error:
            raise RunFolderError(
                f"{folder} is not a pool's folder ({error!r} is missing)"
            ) from None
        self.folder, self.manifest = folder, manifest
        self.candidates: dict[str, Record] = {}
        # By measure, in the order asked for, though the first prompt may have failed.
        self._scores: dict[str, dict[str, Record]] = {}
        self.reasons: dict[str, dict[str, str]] = {}
        for record in read_records(folder).values():
            measure, prompt = record.get("measure"), record["prompt_id"]
            own = self.candidates if measure is None else self._scores.setdefault(measure, {})
            if record["status"] == "ok":
                own[prompt] = record
            elif measure is not None:
                self.reasons.setdefault(measure, {})[prompt] = record["reason"]
        self.prompts = tuple(self.candidates)
        self.measures: dict[str, Measure] = {}
        self._values: dict[str, Values] = {}
        self._take_likelihoods(generator)
        self._take_scores()
        judges = {name: m for name, m in self.measures.items() if m.is_judge}
        added = {name: self.sum_of(name) for name in sums}
        self._values |= {name: self._sum(measure) for name, measure in added.items()}
        verifiers = {name: m for name, m in self.measures.items() if name not in judges}
        self.measures = verifiers | added | judges
        self.prefixes = tuple(
            sorted({at for name in self.measures for at in self.seconds_of(name)})
        )

    def values(self, name: str, seconds: float | None = None) -> dict[str, Array]:
        """The measure's float64 [m] by prompt id, of whole clips or of their first `seconds`.

        name: of `measures`, or a weighted sum of verifiers. Prompts that it has no number for are
        left out. Raises PoolError for what the pool does not have.
        """
        key, found = prefix_key(seconds), self._values_of(name)
        return {
            prompt: found[prompt][key] for prompt in self.prompts if key in found.get(prompt, {})
        }

    def pair(
        self, a: str, b: str, a_seconds: float | None = None
    ) -> tuple[list[Array], list[Array]]:
        """Two measures over the prompts that have both: a list of [m] each, in one order."""
        first, second = self.values(a, a_seconds), self.values(b)
        both = [prompt for prompt in first if prompt in second]
        return [first[prompt] for prompt in both], [second[prompt] for prompt in both]

    def seconds_of(self, name: str) -> tuple[float, ...]:
        """The prefixes at which a measure has any number, ascending."""
        keys = {key for values in self._values_of(name).values() for key in values} - {WHOLE}
        return tuple(sorted(map(float, keys)))

    def tokens(self, prompt_id: str) -> NDArray[np.int16]:
        """int16 [m, codebooks, frames]. Raises RunFolderError for a file that is not whole."""
        return load_tokens(self.folder, prompt_id)

    def table(self) -> "pandas.DataFrame":
        """One row for each number: prompt_id, candidate, measure, seconds (of the clip), value."""
        import pandas

        rows = [
            (prompt, candidate, name, self.duration if key == WHOLE else float(key), float(value))
            for name in self.measures
            for prompt, by_key in self._values[name].items()
            for key, values in by_key.items()
            for candidate, value in enumerate(values)
        ]
        names = ["prompt_id", "candidate", "measure", "seconds", "value"]
        return pandas.DataFrame(rows, columns=names)

    def seconds(self, measure: str) -> float:
        """Mean wall seconds that scoring one whole clip took: rendering, sending and the model.

        0 for perplexity and pmi, which come with the tokens; of a sum that of its parts together,
        as if each were sent alone. Raises PoolError.
        """
        if measure in LIKELIHOODS and measure in self.measures:
            return 0.0
        if measure not in self._scores:
            return sum(self.seconds(part) for part in self.sum_of(measure).scales)
        return float(np.mean([r["seconds"][WHOLE] for r in self._scores[measure].values()]))

    def generation_seconds(self) -> float:
        """Mean seconds that generating one clip took: conditions and decoding."""
        spent = [sum(r["ledger"]["seconds"].values()) for r in self.candidates.values()]
        return float(np.mean(spent)) / self.size

    def sum_of(self, expression: str) -> Measure:
        """A weighted sum of verifiers as a measure, each part in units of its spread in this pool.

        The spread is the within-prompt standard deviation of whole clips over all prompts: one
        constant a part, so that what follows of best-of-n is exact for sums too. Raises PoolError.
        """
        # Here, since it brings scipy, which nothing else in this module needs.
        from src.stats.best_of_n import within_prompt_std

        if expression in self.measures:
            return self.measures[expression]
        weights = self._weights(expression)
        for part in weights:
            if part not in self.measures or self.measures[part].role != "verifier":
                raise PoolError(self._lacks(f"verifier {part!r}"))
        parts = [self.measures[part] for part in weights]
        scales = {part: within_prompt_std(list(self.values(part).values())) for part in weights}
        for part, scale in scales.items():
            if not scale > 0:
                raise PoolError(f"{part} does not vary within a prompt: it cannot be in a sum")
        shown = ", ".join(f"{part} {scale:.3g}" for part, scale in scales.items())
        return Measure(
            name=expression,
            role="verifier",
            checkpoint=", ".join(part.checkpoint for part in parts),
            is_verifier=tuple(dict.fromkeys(v for p in parts for v in p.is_verifier)),
            shares_data_with=tuple(dict.fromkeys(v for p in parts for v in p.shares_data_with)),
            note=f"in units of within-prompt deviations: {shown}",
            scales=scales,
        )

    def _take_likelihoods(self, generator: Mapping[str, str]) -> None:
        """Those verifiers whose numbers came with the tokens."""
        for name, value_of in LIKELIHOODS.items():
            values: Values = {}
            for prompt, record in self.candidates.items():
                without = record.get(UNCONDITIONAL, {})
                values[prompt] = {
                    key: value_of(log_prob, without.get(key))
                    for key, log_prob in record[LOG_PROBS].items()
                    if name not in NEEDS_GUIDANCE or key in without
                }
            if name not in NEEDS_GUIDANCE or any(values.values()):
                self._values[name] = values
                self.measures[name] = Measure(
                    name, "verifier", True, in_short(generator), is_verifier=IN_COMMON[name]
                )

    def _take_scores(self) -> None:
        """What was scored; by other weights than the latest record's, it does not count."""
        self._scores = {name: own for name, own in self._scores.items() if own}
        for name, own in self._scores.items():
            newest = max(own.values(), key=lambda record: (record["start"], record["time"]))
            now = {p: r for p, r in own.items() if r["checkpoint"] == newest["checkpoint"]}
            self._scores[name] = now
            facts = ("role", "higher_is_better", "is_verifier", "shares_data_with", "note")
            checkpoint = in_short(newest["checkpoint"])
            self.measures[name] = Measure.from_record(
                {"name": name, "checkpoint": checkpoint} | {fact: newest[fact] for fact in facts}
            )
            self._values[name] = {
                prompt: {k: np.array(v, dtype=np.float64) for k, v in record["values"].items()}
                for prompt, record in now.items()
            }

    def _values_of(self, name: str) -> Values:
        if name in self._values:
            return self._values[name]
        if list(self._weights(name)) == [name]:
            raise PoolError(self._lacks(f"measure {name!r}"))
        return self._sum(self.sum_of(name))

    def _sum(self, measure: Measure) -> Values:
        """A sum's values, at the prompts and prefixes that all of its parts have."""
        weights = self._weights(measure.name)
        factors = {part: w / measure.scales[part] for part, w in weights.items()}
        parts = {part: self._values[part] for part in weights}
        first, *others = parts.values()
        return {
            prompt: {
                key: np.sum([f * parts[part][prompt][key] for part, f in factors.items()], axis=0)
                for key in by_key
                if all(key in other[prompt] for other in others)
            }
            for prompt, by_key in first.items()
            if all(prompt in other for other in others)
        }

    def _weights(self, expression: str) -> dict[str, float]:
        try:
            return components(expression)
        except ExpressionError as error:
            raise PoolError(str(error)) from error

    def _lacks(self, what: str) -> str:
        return f"{self.folder} has no {what}; it has {', '.join(self.measures)}"


def load_pool(folder: Path | str, sums: Sequence[str] = ()) -> Pool:
    """Raises RunFolderError for a folder that is not a pool's, or is damaged; PoolError for sums
    of what it does not have."""
    return Pool(Path(folder), sums)


def load_tokens(folder: Path, prompt_id: str) -> NDArray[np.int16]:
    """A prompt's candidates, int16 [m, codebooks, frames]. Raises RunFolderError."""
    path = token_file(folder, prompt_id)
    packed = path.with_suffix(".npz")
    tokens: NDArray[np.int16]
    try:
        if path.exists() or not packed.exists():
            tokens = np.load(path, allow_pickle=False)
        else:
            path = packed
            with np.load(packed, allow_pickle=False) as file:
                tokens = file["tokens"]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise RunFolderError(f"{path} cannot be read: {error}") from error
    return tokens


def token_file(folder: Path, prompt_id: str) -> Path:
    return folder / "tokens" / f"{prompt_id}.npy"


def prefix_key(seconds: float | None) -> str:
    """How records name a clip's first seconds (None: the whole clip).

    >>> prefix_key(2.0), prefix_key(2.5), prefix_key(None)
    ('2', '2.5', 'whole')
    """
    return WHOLE if seconds is None else f"{seconds:g}"
