"""What was fixed beforehand, confirmed or not: selectors by one statistic, on prompts of their own.

    python -m src.reports.confirmation PROTOCOL POOL

The protocol is a TOML file that is committed before the pool is made, such as
results/builtin/confirmation.toml: which `prompts`, how many (`count`), the pool's settings, `n`,
the `selectors`, the `statistic` (a judge), `alpha` and `correction`, and in words `against`, `test`
and `power`. `over`: another selector, with whose best-of-n theirs is compared. A table `weights`
may name what makes and judges the clips, as tables name it: {generator = "builtin (9db82df4)"}.

A pool of other settings, prompts or weights is refused, and one that is not finished. The gain of
best-of-n over choosing at random (or over best-of-n by `over`), exact from the pool, decides by the
statistic. Further judges of the pool follow as secondary, without correction. Sums have each part
in units of its within-prompt deviation in this pool. Writes a table into the pool's folder that is
named as the protocol: confirmation.csv.
"""

import hashlib
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError

from src.data.prompts import PromptError, Selection, digest_of, load_prompts
from src.reports.command import parser_of, printed
from src.reports.gains import best_of, by_measure, gain, no_evidence, one_sample, oriented
from src.reports.table import Row, adjusted, document, few_prompts, layout, write_tables
from src.runs.arguments import given
from src.runs.measures import in_short
from src.runs.pool import Pool, load_pool

# As manifests name them.
SETTINGS = ("candidates", "duration", "seed", "temperature", "top_k", "guidance")
SECONDARY = "secondary, no correction"
LEGEND = (
    "Gains are positive where better, over {}, paired by prompt, with 95% "
    "intervals over prompts; sd: within prompts, pooled, and each prompt's own. Verdicts are on "
    "the statistic that was fixed beforehand alone, p adjusted for the selectors (Holm)."
)


class ProtocolError(PromptError):
    """A protocol that cannot be read, or a pool that is not the one it asks for."""


class Protocol(BaseModel):
    """What is fixed before the run; the module's text says what each field is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: Path
    count: PositiveInt
    candidates: PositiveInt
    duration: PositiveFloat
    seed: int
    temperature: PositiveFloat
    top_k: int
    guidance: float
    n: PositiveInt
    selectors: Annotated[tuple[str, ...], Field(min_length=1)]
    statistic: str
    against: str
    test: str
    alpha: Annotated[float, Field(gt=0, lt=1)]
    correction: Literal["holm"]
    power: str
    over: str | None = None
    weights: Mapping[str, str] = {}

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises ProtocolError."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text("utf-8")))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, ValidationError) as error:
            raise ProtocolError(f"{path} is no protocol: {error}") from error

    def departures(self, pool: Pool) -> list[str]:
        """In what the pool is not the one asked for. Raises PromptError, PoolError."""
        identity = pool.manifest["identity"]
        asked = load_prompts(str(self.prompts), Selection(self.count), self.prompts.parent)
        weights = {name: m.checkpoint for name, m in pool.measures.items()}
        weights["generator"] = in_short(identity["checkpoints"]["generator"])
        compared = [(key, identity.get(key), getattr(self, key)) for key in SETTINGS]
        compared += [
            (f"weights of {name}", weights.get(name), w) for name, w in self.weights.items()
        ]
        compared += [
            ("SHA-256 of the prompts", identity["prompts"]["sha256"], digest_of(asked)),
            ("finished prompts", len(pool.prompts), self.count),
            (f"{self.statistic} is a judge", pool.sum_of(self.statistic).is_judge, True),
        ]
        for name in (self.statistic, *self.selectors, *([self.over] if self.over else ())):
            refused = [pool.reasons.get(part, {}) for part in (name, *pool.sum_of(name).scales)]
            done = {*pool.values(name)}.union(*refused)
            compared.append((f"prompts scored by {name}", len(done), self.count))
        return [
            f"{key}: {found}, not {wanted}" for key, found, wanted in compared if found != wanted
        ]


def report(path: Path, pool: Pool) -> str:
    """Write the table; returns the text that says what it shows.

    Raises PromptError, PoolError, StatsError, WriteError.
    """
    protocol = Protocol.read(path)
    if departures := protocol.departures(pool):
        raise ProtocolError(f"{pool.folder} is not the pool of {path}: {'; '.join(departures)}")
    judges = [replace(pool.measures[protocol.statistic], role="primary judge")]
    judges += [m for n, m in pool.measures.items() if m.is_judge and n != protocol.statistic]
    rows: list[Row] = []
    for judge, name in product(judges, protocol.selectors):
        selector = pool.sum_of(name)
        best = best_of(pool, selector, judge, protocol.n)
        verdict = no_evidence(selector, judge) or (SECONDARY if judge is not judges[0] else "")
        usual = one_sample(pool, judge)
        if protocol.over:
            usual = best_of(pool, pool.sum_of(protocol.over), judge, protocol.n)
        found = gain(best, usual, oriented(pool, judge), verdict)
        rows.append({"measure": judge.name, "selector": name, **found})
    rows = adjusted(rows, protocol.alpha)
    write_tables(pool.folder, {path.stem: rows})
    groups = by_measure(rows, judges, lambda row: {"selector": f"  {row['selector']}"})
    head = [
        f"{pool.manifest.get('title', pool.folder.name)}: best of {protocol.n}, confirmation by "
        f"{path.name} (SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()[:8]})",
        f"Against {protocol.against}. Test: {protocol.test}. Power: {protocol.power}.",
        f"Clips: {in_short(pool.manifest['identity']['checkpoints']['generator'])}.",
    ]
    other = f"best-of-{protocol.n} by {protocol.over}" if protocol.over else "choosing at random"
    return document(head, layout(groups), [LEGEND.format(other), few_prompts(len(pool.prompts))])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = parser_of("src.reports.confirmation", __doc__)
    parser.add_argument("protocol", type=Path, help="what was fixed beforehand, a TOML file")
    parser.add_argument("pool", type=Path, help="the folder of the pool made for it")
    asked = parser.parse_args(given(arguments, parser.prog))
    return printed(lambda: report(asked.protocol, load_pool(asked.pool)))


if __name__ == "__main__":
    sys.exit(main())
