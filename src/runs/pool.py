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
    <pool>/tokens/<prompt id>.npy           int16 [m, codebooks, frames]
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.likelihood import IN_COMMON, LIKELIHOODS, NEEDS_GUIDANCE
from src.runs.records import Record, RunFolderError, read_manifest, read_records
from src.verifier import ExpressionError, components

if TYPE_CHECKING:
    import pandas

CANDIDATES = "candidates"
SCORES = "scores "  # and the measure's name: a record's method
LOG_PROBS = "log_probs"  # mean log-probabilities of a prompt's candidates, with their text
UNCONDITIONAL = "unconditional_log_probs"  # and without it, where decoding was guided
WHOLE = "whole"

Array = NDArray[np.float64]


class PoolError(ValueError):
    """What was asked for is not in the pool; the message says what is."""


@dataclass(frozen=True)
class PoolMeasure:
    """What a pool is measured by.

    role: "verifier" (scored at prefixes too, and may select) or "judge". checkpoint: name and hash
    of the weights. is_verifier: verifiers whose own number it is, or that it has a part in common
    with. shares_data_with: verifiers trained on the same data and labels. scales: of a sum, its
    parts, with the within-prompt deviation that each is divided by.
    """

    name: str
    role: str
    higher_is_better: bool
    checkpoint: str
    is_verifier: tuple[str, ...] = ()
    shares_data_with: tuple[str, ...] = ()
    note: str = ""
    scales: Mapping[str, float] = field(default_factory=dict)


class Pool:
    """One prompt after the other has m candidates; measures may lack some prompts.

    sums: weighted sums of its verifiers, such as tags+pmi, that are verifiers of the pool too.

    prompts: ids of those with candidates, in order; asked: how many it is to have when finished.
    size: m. duration: seconds of a clip; frames: of its tokens. prefixes: seconds at which some
    verifier has scored the clips' beginnings, ascending.
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
        records = list(read_records(folder).values())
        ok = [r for r in records if r["status"] == "ok"]
        self.candidates: dict[str, Record] = {
            r["prompt_id"]: r for r in ok if r["method"] == CANDIDATES
        }
        self.prompts = tuple(self.candidates)
        self._scores: dict[str, dict[str, Record]] = {}
        self.measures = {
            name: PoolMeasure(name, "verifier", True, in_short(generator), IN_COMMON[name])
            for name in LIKELIHOODS
            if name not in NEEDS_GUIDANCE or any(UNCONDITIONAL in r for r in ok)
        }
        for record in (r for r in ok if r["method"].startswith(SCORES)):
            self._add(record)
        # Verifiers, then judges, as they were asked for: the first prompt may have failed.
        asked_for = [r["method"].removeprefix(SCORES) for r in records]
        self.measures = {
            name: self.measures[name]
            for role in ("verifier", "judge")
            for name in dict.fromkeys([*LIKELIHOODS, *asked_for])
            if name in self.measures and self.measures[name].role == role
        }
        verifiers = [name for name, m in self.measures.items() if m.role == "verifier"]
        judges = [name for name in self.measures if name not in verifiers]
        self.measures |= {name: self.sum_of(name) for name in sums}
        self.measures = {n: self.measures[n] for n in (*verifiers, *sums, *judges)}
        self.prefixes = tuple(
            sorted({at for name in self.measures for at in self.seconds_of(name)})
        )

    def values(self, name: str, seconds: float | None = None) -> dict[str, Array]:
        """The measure's float64 [m] by prompt id, of whole clips or of their first `seconds`.

        name: of `measures`, or a weighted sum of verifiers. Prompts that it has no number for are
        left out. Raises PoolError for what the pool does not have.
        """
        key = prefix_key(seconds)
        found = self._values(name)
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
        keys = {key for values in self._values(name).values() for key in values} - {WHOLE}
        return tuple(sorted(map(float, keys)))

    def tokens(self, prompt_id: str) -> NDArray[np.int16]:
        """int16 [m, codebooks, frames]. Raises RunFolderError for a file that is not whole."""
        return load_tokens(self.folder, prompt_id)

    def table(self) -> "pandas.DataFrame":
        """One row for each number: prompt_id, candidate, measure, seconds (of the clip), value."""
        import pandas

        return pandas.DataFrame(
            list(self._rows()), columns=["prompt_id", "candidate", "measure", "seconds", "value"]
        )

    def seconds(self, measure: str) -> float:
        """Mean wall seconds that scoring one whole clip took: rendering, sending and the model.

        0 for perplexity and pmi, which come with the tokens; of a sum that of its parts together,
        as if each were sent alone. Raises PoolError.
        """
        if measure in LIKELIHOODS:
            return 0.0
        self._values(measure)
        if measure not in self._scores:
            return sum(self.seconds(part) for part in self.sum_of(measure).scales)
        return float(np.mean([r["seconds"][WHOLE] for r in self._scores[measure].values()]))

    def generation_seconds(self) -> float:
        """Mean seconds that generating one clip took: conditions and decoding."""
        spent = [sum(r["ledger"]["seconds"].values()) for r in self.candidates.values()]
        return float(np.mean(spent)) / self.size

    def _add(self, record: Record) -> None:
        """Take a measure's record of one prompt; other weights than the latest's do not count."""
        name = record["method"].removeprefix(SCORES)
        of_prompts = self._scores.setdefault(name, {})
        newest = max([*of_prompts.values(), record], key=lambda r: (r["start"], r["time"]))
        if newest is record:
            self.measures[name] = PoolMeasure(
                name=name,
                role=record["role"],
                higher_is_better=record["higher_is_better"],
                checkpoint=in_short(record["checkpoint"]),
                is_verifier=tuple(record["is_verifier"]),
                shares_data_with=tuple(record["shares_data_with"]),
                note=record["note"],
            )
        of_prompts[record["prompt_id"]] = record
        self._scores[name] = {
            prompt: r for prompt, r in of_prompts.items() if r["checkpoint"] == newest["checkpoint"]
        }

    def sum_of(self, expression: str) -> PoolMeasure:
        """A weighted sum of verifiers as a measure, each part in units of its spread in this pool.

        The spread is the within-prompt standard deviation of whole clips over all prompts: one
        constant a part, so that what follows of best-of-n is exact for sums too. Raises PoolError.
        """
        from src.stats.best_of_n import (
            within_prompt_std,  # brings scipy, which nothing else here needs
        )

        if expression in self.measures:
            return self.measures[expression]
        try:
            weights = components(expression)
        except ExpressionError as error:
            raise PoolError(str(error)) from error
        for part in weights:
            if part not in self.measures or self.measures[part].role != "verifier":
                raise PoolError(self._lacks(f"verifier {part!r}"))
        parts = [self.measures[part] for part in weights]
        scales = {}
        for part in weights:
            scales[part] = within_prompt_std(list(self.values(part).values()))
            if not scales[part] > 0:
                raise PoolError(f"{part} does not vary within a prompt: it cannot be in a sum")
        shown = ", ".join(f"{part} {scale:.3g}" for part, scale in scales.items())
        return PoolMeasure(
            name=expression,
            role="verifier",
            higher_is_better=True,
            checkpoint=", ".join(part.checkpoint for part in parts),
            is_verifier=tuple(dict.fromkeys(v for p in parts for v in p.is_verifier)),
            shares_data_with=tuple(dict.fromkeys(v for p in parts for v in p.shares_data_with)),
            note=f"in units of within-prompt deviations: {shown}",
            scales=scales,
        )

    def _values(self, name: str) -> dict[str, dict[str, Array]]:
        """Arrays [m] by prompt and key."""
        if name in LIKELIHOODS and name in self.measures:
            return {
                prompt: self._likelihood(name, record) for prompt, record in self.candidates.items()
            }
        if name in self._scores:
            return {
                prompt: {key: _array(values) for key, values in record["values"].items()}
                for prompt, record in self._scores[name].items()
            }
        if not set("+*") & set(name):
            raise PoolError(self._lacks(f"measure {name!r}"))
        scales, weights = self.sum_of(name).scales, components(name)
        parts = {part: self._values(part) for part in weights}
        first = next(iter(parts.values()))
        return {
            prompt: {
                key: np.sum([w / scales[p] * parts[p][prompt][key] for p, w in weights.items()], 0)
                for key in first[prompt]
                if all(key in of_part[prompt] for of_part in parts.values())
            }
            for prompt in first
            if all(prompt in of_part for of_part in parts.values())
        }

    def _likelihood(self, name: str, record: Record) -> dict[str, Array]:
        """By key; nothing where it is not known."""
        without = record.get(UNCONDITIONAL, {})
        return {
            key: LIKELIHOODS[name](log_prob, without.get(key))
            for key, log_prob in record[LOG_PROBS].items()
            if name not in NEEDS_GUIDANCE or key in without
        }

    def _lacks(self, what: str) -> str:
        return f"{self.folder} has no {what}; it has {', '.join(self.measures)}"

    def _rows(self) -> Iterator[tuple[str, int, str, float, float]]:
        for name in self.measures:
            for prompt, of_prompt in self._values(name).items():
                for key, values in of_prompt.items():
                    seconds = self.duration if key == WHOLE else float(key)
                    for candidate, value in enumerate(values):
                        yield prompt, candidate, name, seconds, float(value)


def load_pool(folder: Path, sums: Sequence[str] = ()) -> Pool:
    """Raises RunFolderError for a folder that is not a pool's, or is damaged; PoolError for sums
    of what it does not have."""
    return Pool(folder, sums)


def load_tokens(folder: Path, prompt_id: str) -> NDArray[np.int16]:
    """A prompt's candidates, int16 [m, codebooks, frames]. Raises RunFolderError."""
    path = token_file(folder, prompt_id)
    try:
        tokens: NDArray[np.int16] = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
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


def in_short(checkpoint: Mapping[str, Any]) -> str:
    """A checkpoint as tables name it."""
    return f"{checkpoint['name']} ({checkpoint['sha256'][:8]})"


def _array(values: list[float]) -> Array:
    return np.array(values, dtype=np.float64)
