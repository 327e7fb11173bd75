"""A pool, read back: m clips of each prompt as tokens, and what every measure says of them.

In a notebook, from the repository's root (numpy only; nothing is loaded or generated):

    from pathlib import Path
    from src.pool import load_pool

    pool = load_pool(Path("results/pool-builtin-m16-0123abcd"))
    pool.values("tags")["b00"]              # float64 [m], of the whole clips
    pool.values("tags", seconds=2.0)        # of their first two seconds
    own, seen = pool.pair("tags", "msd_kld")
    frame = pool.table()                    # pandas: prompt_id, candidate, measure, seconds, value

`python verifier_experiment.py` makes pools, and adds measures to those that are there (--pool).

    <pool>/records.jsonl                    scores and log-probabilities, by prompt and measure
    <pool>/tokens/<prompt id>.npy           int16 [m, codebooks, frames]
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.records import Record, RunFolderError, read_manifest, read_records

if TYPE_CHECKING:
    import pandas

CANDIDATES = "candidates"
SCORES = "scores "  # and the measure's name: a record's method
WHOLE = "whole"
PERPLEXITY = "perplexity"  # exp of the mean log-probability, which each pool has

Array = NDArray[np.float64]


class PoolError(ValueError):
    """What was asked for is not in the pool; the message says what is."""


@dataclass(frozen=True)
class PoolMeasure:
    """What a pool is measured by.

    role: "verifier" (scored at prefixes too, and may select) or "judge". checkpoint: name and hash
    of the weights. is_verifier: verifiers whose own number it is. shares_data_with: verifiers
    trained on the same data and labels.
    """

    name: str
    role: str
    higher_is_better: bool
    checkpoint: str
    is_verifier: tuple[str, ...] = ()
    shares_data_with: tuple[str, ...] = ()
    note: str = ""


class Pool:
    """One prompt after the other has m candidates; measures may lack some prompts.

    prompts: ids of those with candidates, in order; asked: how many it is to have when finished.
    size: m. duration: seconds of a clip; frames: of its tokens. prefixes: seconds at which some
    verifier has scored the clips' beginnings, ascending.
    """

    def __init__(self, folder: Path) -> None:
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
        own = PoolMeasure(PERPLEXITY, "verifier", True, in_short(generator), (PERPLEXITY,))
        self._scores: dict[str, dict[str, Record]] = {}
        self.measures = {PERPLEXITY: own}
        for record in (r for r in ok if r["method"].startswith(SCORES)):
            self._add(record)
        # Verifiers, then judges, as they were asked for: the first prompt may have failed.
        asked_for = [r["method"].removeprefix(SCORES) for r in records]
        self.measures = {
            name: self.measures[name]
            for role in ("verifier", "judge")
            for name in dict.fromkeys([PERPLEXITY, *asked_for])
            if name in self.measures and self.measures[name].role == role
        }
        self.prefixes = tuple(
            sorted({at for name in self.measures for at in self.seconds_of(name)})
        )

    def values(self, name: str, seconds: float | None = None) -> dict[str, Array]:
        """The measure's float64 [m] by prompt id, of whole clips or of their first `seconds`.

        Prompts that it has no number for are left out. Raises PoolError for an unknown measure.
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

        0 for perplexity, which comes with the tokens. Raises PoolError.
        """
        if measure == PERPLEXITY:
            return 0.0
        self._values(measure)
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

    def _values(self, name: str) -> dict[str, dict[str, Array]]:
        """Arrays [m] by prompt and key."""
        if name == PERPLEXITY:
            return {
                prompt: {key: np.exp(_array(p)) for key, p in record["log_probs"].items()}
                for prompt, record in self.candidates.items()
            }
        if name not in self._scores:
            there = ", ".join(self.measures)
            raise PoolError(f"{self.folder} has no measure {name!r}; it has {there}")
        return {
            prompt: {key: _array(values) for key, values in record["values"].items()}
            for prompt, record in self._scores[name].items()
        }

    def _rows(self) -> Iterator[tuple[str, int, str, float, float]]:
        for name in self.measures:
            for prompt, of_prompt in self._values(name).items():
                for key, values in of_prompt.items():
                    seconds = self.duration if key == WHOLE else float(key)
                    for candidate, value in enumerate(values):
                        yield prompt, candidate, name, seconds, float(value)


def load_pool(folder: Path) -> Pool:
    """Raises RunFolderError for a folder that is not a pool's, or is damaged."""
    return Pool(folder)


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
