"""The settings of a search that a budget pays for, from a scored pool.

options = {"pmi": Options(cuts=(2.0, 4.0), softens=(0.5,))}
schedules = Schedules(pool, options, in_frames(pool), keeps=(0.5,))
schedules.settings(2000)        # of every kind of search the largest N that 2000 frames pay for
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.budget import PlanError
from src.methods import BEST_OF_N, halved
from src.runs.pool import Pool
from src.scoring import remote_parts

HALVING, SOFT, WAVES = "halving", "soft_best_of_n", "waves"
WAVE = 4  # candidates of a wave


@dataclass(frozen=True)
class Rates:
    """What a budget is counted in. unit: frames or seconds. per_clip: of scoring one, by selector;
    in frames 0."""

    unit: str
    per_frame: float
    per_clip: Mapping[str, float]


class Setting(NamedTuple):
    """A search; without cuts, soften and price best-of-n.

    alive: candidates in each step, N first. cuts: seconds after which halving drops the worse ones,
    to `keep`. soften: LAMBDA of soft best-of-n, in the selector's unit. price: of a sample in
    waves, in deviations of those before. frames, clips: generated and scored, in waves on average.
    """

    selector: str
    alive: tuple[int, ...]
    cuts: tuple[float, ...]
    soften: float
    price: float
    keep: float
    frames: float
    clips: float

    @property
    def method(self) -> str:
        if self.cuts:
            return HALVING
        return WAVES if self.price else SOFT if self.soften else BEST_OF_N

    @property
    def name(self) -> str:
        """Such as "halving N0=12 keep=0.5 at 2, 4 s by pmi"."""
        words = [self.method, f"{'N0' if self.cuts else 'N'}={self.alive[0]}"]
        words += [f"{name}={x:g}" for name in ("soften", "price") if (x := getattr(self, name))]
        if self.cuts:
            words += [f"keep={self.keep:g} at {', '.join(f'{at:g}' for at in self.cuts)} s"]
        return f"{' '.join(words)} by {self.selector}"

    def columns(self) -> dict[str, Any]:
        def text(value: Any) -> Any:
            return " ".join(f"{x:g}" for x in value) if isinstance(value, tuple) else value

        return {"method": self.method, **{k: text(v) for k, v in self._asdict().items()}}


class Options(NamedTuple):
    """What may be tried by a selector. cuts: seconds at which its beginnings are scored. softens:
    in its unit. stops: by price, after how many clips waves would stop, [prompts, draws]."""

    cuts: Sequence[float] = ()
    softens: Sequence[float] = ()
    stops: Mapping[float, NDArray[np.int64]] = {}


@dataclass(frozen=True)
class Schedules:
    """options: by selector. keeps: the parts of the candidates that may be kept at a cut."""

    pool: Pool
    options: Mapping[str, Options]
    rates: Rates
    keeps: Sequence[float]

    def settings(self, budget: float) -> list[Setting]:
        """All that differ, by selector, its best-of-n first. Raises PlanError for a budget that
        pays for no clip by any selector, or for more than the pool has by all."""
        unit, most = self.rates.unit, self.curve()[-1]
        if budget > most * (1 + 1e-9):
            raise PlanError(
                f"{budget:,g} {unit} a prompt are more than the pool's {self.pool.size} clips of a "
                f"prompt cost: {most:,.6g}"
            )
        found: dict[tuple[Any, ...], Setting] = {}
        for selector in self.options:
            for setting in self._largest(selector, budget):
                found.setdefault(setting[:5], setting)  # whatever keep led to it
        if not found:
            one = min(self.cost(self.setting(name, 1)) for name in self.options)
            raise PlanError(f"{budget:,g} {unit} a prompt pay for no clip: one costs {one:,.6g}")
        return list(found.values())

    def curve(self) -> list[float]:
        """Budgets that pay for 1, 2, 4, .. up to all clips of the pool by any selector."""
        dearest = max(self.options, key=lambda name: self.rates.per_clip[name])
        sizes = {2**power for power in range(self.pool.size.bit_length())} | {self.pool.size}
        return [self.cost(self.setting(dearest, n)) for n in sorted(sizes)]

    def cost(self, setting: Setting) -> float:
        """Of one prompt, in the budget's unit."""
        rates = self.rates
        return rates.per_frame * setting.frames + rates.per_clip[setting.selector] * setting.clips

    def _largest(self, selector: str, budget: float) -> Iterator[Setting]:
        """Of every kind the one with the largest N that the budget and the pool allow; kinds that
        would be best-of-n are left out."""
        at, softens, stops = self.options[selector]
        cuts = [c for count in range(len(at)) for c in combinations(at, count + 1)]
        kinds: list[dict[str, Any]] = [
            {},
            *({"soften": soften} for soften in softens),
            *({"price": price} for price in stops),
            *({"cuts": c, "keep": keep} for c in cuts for keep in self.keeps),
        ]
        for kind in kinds:
            sizes = range(self.pool.size, 0, -1)
            found = (self.setting(selector, n, **kind) for n in sizes)
            setting = next((s for s in found if self.cost(s) <= budget * (1 + 1e-9)), None)
            if setting is None:
                continue
            n = setting.alive[0]
            if not kind or setting.frames < n * self.pool.frames or (setting.soften and n > 1):
                yield setting

    def setting(
        self,
        selector: str,
        n: int,
        cuts: tuple[float, ...] = (),
        soften: float = 0.0,
        price: float = 0.0,
        keep: float = 1.0,
    ) -> Setting:
        ends = [round(at * self.pool.frames / self.pool.duration) for at in cuts]
        alive = halved(n, keep, len(cuts) + 1)
        frames, clips = float(np.dot(alive, np.diff([0, *ends, self.pool.frames]))), sum(alive)
        if price:
            clips = np.minimum(self.options[selector].stops[price], n).mean()
            frames = clips * self.pool.frames
        return Setting(selector, alive, cuts, soften, price, keep, frames, float(clips))


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
