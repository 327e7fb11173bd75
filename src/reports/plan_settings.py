"""The settings of a search that a budget pays for, from a pool's prefixes: best-of-n and halving.

schedules = Schedules(pool, {"pmi": (2.0, 4.0)}, in_frames(pool), keeps=(0.5,))
schedules.settings(2000)        # of every schedule the largest N that 2000 frames pay for
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from src.budget import PlanError
from src.methods import BEST_OF_N, halved
from src.runs.pool import Pool
from src.scoring import remote_parts

HALVING = "halving"


@dataclass(frozen=True)
class Rates:
    """What a budget is counted in. unit: frames or seconds. per_clip: of scoring one, by selector;
    in frames 0."""

    unit: str
    per_frame: float
    per_clip: Mapping[str, float]


class Setting(NamedTuple):
    """A search. alive: candidates in each step, N first. cuts: seconds after which the worse ones
    are dropped; none: best-of-n. clips: that are scored."""

    selector: str
    alive: tuple[int, ...]
    cuts: tuple[float, ...]
    keep: float
    frames: int
    clips: int

    @property
    def method(self) -> str:
        return HALVING if self.cuts else BEST_OF_N

    @property
    def name(self) -> str:
        """Such as "halving N0=12 keep=0.5 at 2, 4 s by pmi"."""
        if not self.cuts:
            return f"{BEST_OF_N} N={self.alive[0]} by {self.selector}"
        at = ", ".join(f"{at:g}" for at in self.cuts)
        return f"{HALVING} N0={self.alive[0]} keep={self.keep:g} at {at} s by {self.selector}"

    def columns(self) -> dict[str, Any]:
        def text(value: Any) -> Any:
            return " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else value

        return {"method": self.method, **{k: text(v) for k, v in self._asdict().items()}}


@dataclass(frozen=True)
class Schedules:
    """cuts: by selector, the seconds at which its beginnings are scored. keeps: the parts of the
    candidates that may be kept at a cut."""

    pool: Pool
    cuts: Mapping[str, Sequence[float]]
    rates: Rates
    keeps: Sequence[float]

    def settings(self, budget: float) -> list[Setting]:
        """All that differ, by selector, its best-of-n first; of every schedule the one with the
        largest N. Raises PlanError for a budget that pays for no clip by any selector, or for more
        than the pool has by all."""
        unit, most = self.rates.unit, self.curve()[-1]
        if budget > most * (1 + 1e-9):
            raise PlanError(
                f"{budget:,g} {unit} a prompt are more than the pool's {self.pool.size} clips of a "
                f"prompt cost: {most:,.6g}"
            )
        found: dict[tuple[Any, ...], Setting] = {}
        for selector in self.cuts:
            for setting in self._largest(selector, budget):
                found.setdefault(setting[:3], setting)  # whatever keep led to it
        if not found:
            one = min(self.cost(self.setting(name, 1)) for name in self.cuts)
            raise PlanError(f"{budget:,g} {unit} a prompt pay for no clip: one costs {one:,.6g}")
        return list(found.values())

    def curve(self) -> list[float]:
        """Budgets that pay for 1, 2, 4, .. up to all clips of the pool by any selector."""
        dearest = max(self.cuts, key=lambda name: self.rates.per_clip[name])
        sizes = {2**power for power in range(self.pool.size.bit_length())} | {self.pool.size}
        return [self.cost(self.setting(dearest, n)) for n in sorted(sizes)]

    def cost(self, setting: Setting) -> float:
        """Of one prompt, in the budget's unit."""
        rates = self.rates
        return rates.per_frame * setting.frames + rates.per_clip[setting.selector] * setting.clips

    def _largest(self, selector: str, budget: float) -> Iterator[Setting]:
        """Of every schedule the one with the largest N that the budget and the pool allow."""
        at = list(self.cuts[selector])
        for cuts in (c for count in range(len(at) + 1) for c in combinations(at, count)):
            for keep in self.keeps if cuts else (1.0,):
                sizes = range(self.pool.size, 0, -1)
                found = (self.setting(selector, n, cuts, keep) for n in sizes)
                setting = next((s for s in found if self.cost(s) <= budget * (1 + 1e-9)), None)
                if setting and (not cuts or setting.alive[-1] < setting.alive[0]):
                    yield setting

    def setting(
        self, selector: str, n: int, cuts: tuple[float, ...] = (), keep: float = 1.0
    ) -> Setting:
        stops = [round(at * self.pool.frames / self.pool.duration) for at in cuts]
        alive = halved(n, keep, len(cuts) + 1)
        frames = int(np.dot(alive, np.diff([0, *stops, self.pool.frames])))
        return Setting(selector, alive, cuts, keep, frames, sum(alive))


def in_frames(pool: Pool) -> Rates:
    return Rates("frames", 1.0, dict.fromkeys(pool.measures, 0.0))


def in_seconds(pool: Pool, per_frame: float | None, per_clip: float | None) -> Rates:
    """As given, else as the pool was timed. per_clip: of each part that the server scores; a
    beginning counts as much as a whole clip."""
    if per_frame is None:
        per_frame = pool.generation_seconds() / pool.frames
    of_clips = {
        name: pool.seconds(name)
        if per_clip is None
        else per_clip * len(remote_parts(measure.scales or [name]))
        for name, measure in pool.measures.items()
    }
    return Rates("seconds", per_frame, of_clips)
