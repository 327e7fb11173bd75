"""The settings of a search that a budget pays for, from a scored pool.

options = {"pmi": Options(cuts=(2.0, 4.0), softens=(0.5,))}
schedules = Schedules(pool, options, in_frames(pool), keeps=(0.5,))
schedules.settings(2000)        # of every kind of search the largest N that 2000 frames pay for
"""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from src.budget import PlanError
from src.cells import SearchCell
from src.methods import BEST_OF_N, WAVE, halved
from src.runs.pool import Pool
from src.runs.settings import PROFILE_MODEL, Settings
from src.scoring import remote_parts


@dataclass(frozen=True)
class Rates:
    """What a budget is counted in. unit: frames or seconds. per_clip: of scoring one, by selector;
    in frames 0."""

    unit: str
    per_frame: float
    per_clip: Mapping[str, float]


class Setting(NamedTuple):
    """A search. cell: as benchmark.py runs it. alive: candidates in each step. cuts: seconds after
    which the worse ones are dropped. frames, clips: generated and scored, on average; cost: of
    both, in the budget's unit."""

    selector: str
    cell: SearchCell
    alive: tuple[int, ...]
    cuts: tuple[float, ...]
    frames: float
    clips: float
    cost: float

    @property
    def name(self) -> str:
        """Such as "halving N=8 N0=12 keep=0.5 at 2, 4 s by pmi"."""
        at = f" at {', '.join(f'{cut:g}' for cut in self.cuts)} s" if self.cuts else ""
        return f"{self.cell.name}{at} by {self.selector}"

    def columns(self) -> dict[str, Any]:
        lists = {"alive": self.alive, "cuts": self.cuts}
        texts = {name: " ".join(f"{x:g}" for x in values) for name, values in lists.items()}
        costs = {"frames": self.frames, "clips": self.clips, "cost": self.cost}
        which = {"setting": self.name, "selector": self.selector}
        return {**which, **self.cell.as_record(), **texts, **costs}

    def command(self, pool: Pool) -> str:
        """The command line of benchmark.py that runs it, or why there is none."""
        source, step = pool.manifest.get("source", {}), self.cell.step_size or pool.duration
        ends = np.minimum(step * np.arange(1, len(self.alive) + 1), pool.duration)
        if not np.allclose(ends, (*self.cuts, pool.duration)):
            return "(no command: the steps of benchmark.py are equal)"
        words: dict[str, object] = {"profile": (profile := source.get("profile", "paper"))}
        if source.get("model", PROFILE_MODEL[profile]) != PROFILE_MODEL[profile]:
            words["model"] = source["model"]
        words["duration"] = pool.duration
        for name in ("temperature", "top_k", "guidance"):
            usual = getattr(Settings, name)
            if (value := pool.manifest["identity"].get(name, usual)) != usual:
                words[name] = value
        words |= {**self.cell.as_record(), "verifier": self.selector}
        parts = pool.measures[self.selector].scales or [self.selector]
        if profile == "builtin" and remote_parts(parts):
            words["server"] = "auto"
        flags = [
            (f"--{name}", f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in words.items()
        ]
        return shlex.join(["python", "benchmark.py", *(word for flag in flags for word in flag)])


@dataclass(frozen=True)
class Options:
    """What may be tried by a selector. cuts: seconds at which its beginnings are scored. softens:
    in its unit. stops: by price, after how many clips waves would stop, [prompts, draws]."""

    cuts: Sequence[float] = ()
    softens: Sequence[float] = ()
    stops: Mapping[float, NDArray[np.int64]] = field(default_factory=dict)


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
                f"prompt cost ({most:,.6g}): lower the budget, or make a larger pool"
            )
        found: dict[tuple[Any, ...], Setting] = {}
        for selector in self.options:
            for setting in self._largest(selector, budget):  # whatever keep led to a schedule
                found.setdefault((selector, setting.alive, setting.cuts or setting.cell), setting)
        if not found:
            one = min(self.setting(name, 1).cost for name in self.options)
            raise PlanError(f"{budget:,g} {unit} a prompt pay for no clip: raise it to {one:,.6g}")
        return list(found.values())

    def curve(self) -> list[float]:
        """Budgets that pay for 1, 2, 4, .. up to all clips of the pool by any selector."""
        dearest = max(self.options, key=lambda name: self.rates.per_clip[name])
        sizes = {2**power for power in range(self.pool.size.bit_length())} | {self.pool.size}
        return [self.setting(dearest, n).cost for n in sorted(sizes)]

    def _largest(self, selector: str, budget: float) -> Iterator[Setting]:
        """Of every kind the one with the largest N that the budget and the pool allow; kinds that
        would be best-of-n are left out."""
        at, own = self.options[selector].cuts, self.options[selector]
        cuts = [c for count in range(len(at)) for c in combinations(at, count + 1)]
        kinds: list[dict[str, Any]] = [
            {},
            *({"method": "soft_best_of_n", "soften": soften} for soften in own.softens),
            *({"method": "waves", "wave": WAVE.default, "price": price} for price in own.stops),
            *({"method": "halving", "cuts": c, "keep": keep} for c in cuts for keep in self.keeps),
        ]
        for kind in kinds:
            sizes = range(self.pool.size, 0, -1)
            found = (self.setting(selector, n, **kind) for n in sizes)
            setting = next((s for s in found if s.cost <= budget * (1 + 1e-9)), None)
            if setting is None:
                continue
            n = setting.alive[0]
            if setting.frames < n * self.pool.frames or not kind or ("soften" in kind and n > 1):
                yield setting

    def setting(
        self,
        selector: str,
        n: int,
        method: str = BEST_OF_N,
        cuts: tuple[float, ...] = (),
        **parameters: float,
    ) -> Setting:
        """n: candidates that are begun, at most."""
        ends = [round(at * self.pool.frames / self.pool.duration) for at in cuts]
        alive = halved(n, parameters.get("keep", 1.0), len(cuts) + 1)
        frames = float(np.dot(alive, np.diff([0, *ends, self.pool.frames])))
        clips = float(sum(alive))
        if cuts:
            n, parameters = math.ceil(frames / self.pool.frames), {"start": n, **parameters}
        if price := parameters.get("price"):
            clips = float(np.minimum(self.options[selector].stops[price], n).mean())
            frames = clips * self.pool.frames
        cell = SearchCell(method, n, parameters, cuts[0] if cuts else None)
        cost = self.rates.per_frame * frames + self.rates.per_clip[selector] * clips
        return Setting(selector, cell, alive, cuts, frames, clips, cost)


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
