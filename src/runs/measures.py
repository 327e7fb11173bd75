"""A number that a verifier or a judge gives, as manifests, pools and tables name it.

The selector (the verifier that chose the clips) and the judges (which no search saw) are told apart
everywhere: a selector's own number says that the search worked, not that the music is better.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from src.judges.base import CONTRAST, WRONG
from src.protocol import Checkpoint
from src.scoring import parse
from src.stats.intervals import ALPHA

Role = Literal["selector", "own verifier", "verifier", "primary judge", "judge"]
Relation = Literal["own", "shares data", ""]
Claim = Literal["better", "worse", "unclear"]
Verdict = Claim | Literal["not independent", "control", ""]
WHOLE_REFERENCE = ("msd_kld", "msd_vgg_kld")
CLAIMS: tuple[Claim, ...] = get_args(Claim)


@dataclass(frozen=True)
class Measure:
    """What clips are measured by.

    role: "selector" chose the clips; an "own verifier" has its number, or a part of it, and is no
    evidence either; a "verifier" of a pool may select. kind: a number for each clip, or one for all
    clips of a method together ("set"): then `statistic` (src/stats/sets.py) of the embeddings kept
    under `embeddings` (empty: under its name). checkpoint: the weights and how their hash begins;
    definition: what a judge makes of them, once that has changed (src/judges/base.py).
    is_verifier: verifiers whose own number it is, or that it has a part in common with.
    shares_data_with: verifiers that learnt from the same data and labels. note: what to know when
    reading it. scales: of an expression its parts, with what each is divided by;
    means: with what is subtracted before, where its levels matter.
    """

    name: str
    role: Role
    higher_is_better: bool = True
    checkpoint: str = ""
    definition: str = ""
    kind: Literal["clip", "set"] = "clip"
    statistic: str = "frechet"
    embeddings: str = ""
    is_verifier: tuple[str, ...] = ()
    shares_data_with: tuple[str, ...] = ()
    note: str = ""
    scales: Mapping[str, float] = field(default_factory=dict, hash=False)
    means: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def origin(self) -> str:
        """Weights and definition; numbers can be compared where it is the same."""
        return f"{self.checkpoint}, {self.definition}" if self.definition else self.checkpoint

    @property
    def arrow(self) -> str:
        return "↑" if self.higher_is_better else "↓"

    @property
    def sign(self) -> float:
        """By which a value or a difference becomes "higher is better"."""
        return 1.0 if self.higher_is_better else -1.0

    @property
    def is_judge(self) -> bool:
        """Whether no search saw it."""
        return self.role in ("primary judge", "judge")

    @property
    def is_control(self) -> bool:
        """Whether it says by intention nothing of the prompt."""
        return self.name.endswith(WRONG)

    @property
    def plain(self) -> str:
        """The name of the judge that it is, or is a control or the prompt-specific part of."""
        return self.name.removesuffix(CONTRAST).removesuffix(WRONG)

    @property
    def contrast(self) -> str:
        """The name that its prompt-specific part has, where there is one."""
        return f"{self.name}{CONTRAST}"

    def combined(self, parts: Mapping[str, ArrayLike]) -> NDArray[np.float64]:
        """Of an expression, from each part's numbers, of one shape."""
        return parse(self.name).value(parts, self.scales, self.means)

    def relation(self, selector: "Measure") -> Relation:
        """What it has in common with a selector: the number itself, or the data it learnt from."""
        own, other = {self.name, *self.is_verifier}, {selector.name, *selector.is_verifier}
        if own & other:
            return "own"
        shared = own & {*selector.shares_data_with} or other & {*self.shares_data_with}
        return "shares data" if shared else ""

    def verdict(self, difference: float, p: float) -> Claim:
        """What a difference shows, by what this measure calls better. p: NaN, of one prompt."""
        return verdict(self.sign * difference, p)

    def as_record(self) -> dict[str, Any]:
        """JSON values."""
        record = {k: v for k, v in asdict(self).items() if k not in ("scales", "means")}
        return record | {n: list(record[n]) for n in ("is_verifier", "shares_data_with")}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Self:
        own = {n: tuple(record.get(n, ())) for n in ("is_verifier", "shares_data_with")}
        return cls(**{**record, **own})


def measures_of(manifest: Mapping[str, Any]) -> list[Measure]:
    """What a run's clips are measured by."""
    entries = manifest["measures"]
    names = {entry["name"] for entry in entries}
    return [
        Measure.from_record({"definition": earlier(e["name"], e["name"] + CONTRAST in names)} | e)
        for e in entries
    ]


def earlier(name: str, has_contrast: bool) -> str:
    """The definition of a measure of which nothing notes it: `WHOLE_REFERENCE` judges heard a
    reference beyond the clip's end until they came with controls."""
    return "whole reference" if name in WHOLE_REFERENCE and not has_contrast else ""


def verdict(gain: float, p: float) -> Claim:
    """What a gain, positive where better, shows with this p, or with none (NaN)."""
    if not p <= ALPHA:
        return "unclear"
    return "better" if gain > 0 else "worse"


def in_short(checkpoint: Checkpoint | Mapping[str, str]) -> str:
    """A checkpoint as tables name it, such as "MSD_musicnn (ebd4de86)"."""
    found = checkpoint if isinstance(checkpoint, Mapping) else checkpoint.model_dump()
    return f"{found['name']} ({found['sha256'][:8]})"
