"""What each setting of the planner's searches would give, from one scored pool.

    planner = Planner(pool, pool.measures["msd_kld"], in_frames(pool))
    planner.chosen(2000)        # the best of them, on prompts that did not choose them

Best-of-n, soft or not, is exact (src/stats/best_of_n.py), halving and waves are simulated on the
pool's clips (simulation.py there). A setting has the largest N that the budget pays for and the
pool has. Gains are in within-prompt standard deviations of the measure, positive where better,
paired by prompt, with 95% intervals over prompts.

Prompts are halved by a hash of their ids. What one half finds best by the choosing judge is valued
on the other half, so that no number is of prompts that chose it. Its reference is best-of-n at the
same budget, by the selector that the choosing half finds best for it.
"""

import hashlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.budget import PlanError
from src.methods import BEST_OF_N
from src.reports.gains import oriented
from src.reports.plan_settings import WAVE, Options, Rates, Schedules, Setting
from src.reports.table import Row, adjusted, ends
from src.runs.measures import Measure, verdict
from src.runs.pool import Pool, PoolError
from src.stats.best_of_n import Array, in_sd, soft_best_of_n_weights, within_prompt_std
from src.stats.intervals import StatsError, mean_interval, mean_p
from src.stats.simulation import draw_orders, expected, halving_weights, stopped, waves_weights

KEEPS = (0.25, 0.33, 0.5, 0.67)  # as --keep takes them
SOFTENS = (0.25, 0.5, 1.0)  # in within-prompt deviations of the selector
PRICES = (0.005, 0.01, 0.02, 0.05, 0.1)  # as --price takes them
DRAWS = 400  # orders of a prompt's clips
FEW = 3  # settings that either half chooses
REFERENCE, SECONDARY = "reference", "secondary"  # verdicts
HALVES = ("first half", "second half")
BOTH = "both halves"
Mask = NDArray[np.bool_]

Policy = tuple[Setting, Setting]  # for the prompts of the first half, and of the second


class Planner:
    """A pool's settings and what they give by its measures.

    selectors: the pool's verifiers, sums among them; choosable: those that the judge is evidence
    on. prompts: with numbers of all selectors and of the judge. Raises PoolError where nothing can
    be planned, StatsError for fewer than four prompts.
    """

    def __init__(
        self,
        pool: Pool,
        judge: Measure,
        rates: Rates,
        keeps: Sequence[float] = KEEPS,
        softens: Sequence[float] = SOFTENS,
        prices: Sequence[float] = PRICES,
        draws: int = DRAWS,
    ) -> None:
        self.pool, self.judge, self.draws = pool, judge, draws
        verifiers = {n: m for n, m in pool.measures.items() if m.role == "verifier"}
        self.selectors = tuple(verifiers)
        self.choosable = [name for name, m in verifiers.items() if not judge.relation(m)]
        if not self.choosable:
            raise PoolError(f"{judge.name} is no evidence on any selector: choose by another judge")
        values = {name: oriented(pool, measure) for name, measure in pool.measures.items()}
        needed = [values[name] for name in (*verifiers, judge.name)]
        self.prompts = [p for p in pool.prompts if all(p in own for own in needed)]
        if len(self.prompts) < 4:
            raise StatsError(f"{pool.folder}: halves need four prompts with all numbers or more")
        self.second = second_half(self.prompts)
        none = np.full(pool.size, np.nan)
        self.values = {
            name: np.array([own.get(prompt, none) for prompt in self.prompts])
            for name, own in values.items()
        }
        self.beginnings: dict[str, dict[float, Array]] = {name: {} for name in verifiers}
        for name in verifiers:
            for at in pool.prefixes:
                scores = pool.values(name, at)
                if all(prompt in scores for prompt in self.prompts):
                    self.beginnings[name][at] = np.array([scores[p] for p in self.prompts])
        if not any(self.beginnings.values()):
            raise PoolError(
                f"{pool.folder} has no scores of beginnings, by which halving drops clips: make a "
                "pool with verifier_experiment.py --prefixes"
            )
        self._orders = [draw_orders(pool.size, draws, seed) for seed in range(len(self.prompts))]
        options = {name: self._options(name, softens, prices) for name in verifiers}
        self.schedules = Schedules(pool, options, rates, keeps)
        self._weights: dict[Setting, Array] = {}

    def _options(self, name: str, softens: Sequence[float], prices: Sequence[float]) -> Options:
        """softens: here in within-prompt deviations."""
        scores = self.values[name]
        sd = within_prompt_std(list(scores))
        pairs = zip(scores, self._orders, strict=True)
        counts = np.stack([stopped(x, WAVE, prices, orders) for x, orders in pairs], axis=1)
        return Options(
            tuple(self.beginnings[name]),
            [float(f"{soften * sd:.3g}") for soften in softens if sd],  # as commands have it
            dict(zip(prices, counts, strict=True)),
        )

    def weights(self, setting: Setting) -> Array:
        """How often each of a prompt's clips wins: [prompts, m]."""
        if setting not in self._weights:
            rows = range(len(self.prompts))
            self._weights[setting] = np.array([self._of_prompt(setting, at) for at in rows])
        return self._weights[setting]

    def _of_prompt(self, setting: Setting, at: int) -> Array:
        """[m]."""
        name, orders = setting.selector, self._orders[at]
        scores, n = self.values[name][at], setting.alive[0]
        if setting.cuts:
            begun = [self.beginnings[name][cut][at] for cut in setting.cuts]
            return halving_weights([*begun, scores], setting.alive, orders)
        if setting.price:
            counts = self.schedules.options[name].stops[setting.price][at]
            return waves_weights(scores, np.minimum(counts, n), orders)
        return soft_best_of_n_weights(scores, n, setting.soften)

    def means(self, policy: Policy, measure: str) -> Array:
        """Of the winners, higher where better: [prompts]; NaN where there is no number."""
        first, second = (expected(self.weights(s), self.values[measure]) for s in policy)
        return np.where(self.second, second, first)

    def gain(
        self, policy: Policy, measure: str, usual: Policy | None = None, half: Mask | None = None
    ) -> Array | None:
        """Terms of the mean gain, in deviations: [prompts that have it]; None where it has none.

        usual: what it is over; none: one sample. half: bool [prompts] that count, by default all.
        """
        values = self.values[measure]
        usually = self.means(usual, measure) if usual else expected(np.ones(values.shape), values)
        gains = self.means(policy, measure) - usually
        known = ~np.isnan(gains) & (True if half is None else half)
        return in_sd(gains[known], list(values[known])) if known.sum() > 1 else None

    def draw_error(self, settings: Sequence[Setting]) -> float:
        """The largest standard error of a mean gain by the judge for simulating some orders only,
        in deviations."""
        values = self.values[self.judge.name]
        weights = [self.weights(s) for s in settings if s.cuts or s.price]
        squares = [expected(w, np.square(values)) - expected(w, values) ** 2 for w in weights]
        variance = max((float(np.nanmean(x)) for x in squares), default=0.0)
        return math.sqrt(variance / self.draws / len(values)) / within_prompt_std(list(values))

    def valued(self, budget: float, measures: Sequence[str]) -> Iterator[Row]:
        """Each setting by its own number and by `measures`, over all prompts; the reference is
        best-of-n by the same selector."""
        settings = self.schedules.settings(budget)
        usual = {s.selector: (s, s) for s in settings if s.method == BEST_OF_N}
        for setting in settings:
            key = {"budget": budget, **setting.columns(), "cost": self.schedules.cost(setting)}
            for name in (setting.selector, *measures):
                relation = self.pool.measures[name].relation(self.pool.measures[setting.selector])
                found = self._compared((setting, setting), usual[setting.selector], name)
                yield {**key, "measure": name, "relation": relation} | found

    def ranked(self, settings: Sequence[Setting], half: Mask) -> list[Setting]:
        """Those that may be chosen, best first by the judge on these prompts; of equal ones the
        cheaper first. Raises PlanError where there are none."""

        def key(setting: Setting) -> tuple[float, float]:
            mean = np.nanmean(self.means((setting, setting), self.judge.name)[half])
            return -round(float(mean), 12), self.schedules.cost(setting)

        found = [s for s in settings if s.selector in self.choosable]
        if not found:
            raise PlanError(f"too little for any selector that {self.judge.name} is evidence on")
        return sorted(found, key=key)

    def choices(self, budget: float) -> tuple[Policy, Policy]:
        """The best setting, and the best best-of-n as its reference: to either half's prompts
        those of the other half."""
        settings = self.schedules.settings(budget)
        of_first, of_second = (self.ranked(settings, half) for half in (~self.second, self.second))
        plain = [next(s for s in x if s.method == BEST_OF_N) for x in (of_second, of_first)]
        return (of_second[0], of_first[0]), (plain[0], plain[1])

    def chosen(self, budget: float) -> list[Row]:
        """Each half's reference and its best settings, on the other half by the judge; then
        the first choices of both by every measure. p is adjusted for all that the judge says."""
        settings, rows = self.schedules.settings(budget), []
        first, reference = self.choices(budget)
        best_of_n = {s.selector: (s, s) for s in settings if s.method == BEST_OF_N}
        for name, half, plain in zip(
            HALVES, (~self.second, self.second), reference[::-1], strict=True
        ):
            ranked = self.ranked(settings, half)
            for setting in [s for s in ranked if s in ranked[:FEW] or s == plain]:
                pair, own = (setting, setting), setting.selector
                over_own = self.gain(pair, own, best_of_n[own], ~half)
                rows.append(
                    {"chosen_on": name, "setting": setting.name, **setting.columns()}
                    | self._tested(pair, (plain, plain), self.judge, ~half)
                    | _interval("own", over_own, "own_")
                )
        names = " / ".join(dict.fromkeys(setting.name for setting in first[::-1]))
        for measure in self.pool.measures.values():
            if measure.is_judge:
                key = {"chosen_on": BOTH, "setting": names}
                rows.append(key | self._tested(first, reference, measure))
        return adjusted(rows)

    def front(self, budget: float) -> Row:
        """What choosing at this budget gives by the judge; best_of_n: the reference's gain."""
        first, reference = self.choices(budget)
        return (
            {"budget": budget, "cost": float(np.mean([self.schedules.cost(s) for s in first]))}
            | {"first_half": first[1].name, "second_half": first[0].name}
            | self._compared(first, reference, self.judge.name)
            | _interval("best_of_n", self.gain(reference, self.judge.name), "best_")
        )

    def _compared(
        self, policy: Policy, usual: Policy, measure: str, half: Mask | None = None
    ) -> dict[str, Any]:
        """Columns of the gain over one sample, and over the reference."""
        over = self.gain(policy, measure, usual, half)
        return (
            {"prompts": 0 if over is None else len(over)}
            | _interval("gain_sd", self.gain(policy, measure, half=half))
            | _interval("over_best_of_n", over, "over_")
        )

    def _tested(
        self, policy: Policy, usual: Policy, measure: Measure, half: Mask | None = None
    ) -> dict[str, Any]:
        """With p and a verdict, which is a claim where the judge compares two settings."""
        found = self._compared(policy, usual, measure.name, half)
        over = self.gain(policy, measure.name, usual, half)
        p, said = None, SECONDARY
        if measure.is_control:
            said = "control"
        elif any(measure.relation(self.pool.measures[s.selector]) for s in (*policy, *usual)):
            said = "not independent"
        elif policy == usual:
            said = REFERENCE
        elif measure == self.judge and over is not None:
            p = mean_p(over)
            said = verdict(over.mean(), p)
        return {"measure": measure.name, **found, "p": p, "p_holm": None, "verdict": said}


def second_half(prompts: Sequence[str]) -> Mask:
    """Whether each is of the second half, by SHA-256 of its id: whatever their order. The halves
    differ by one prompt at most."""
    order = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    second = {*order[len(order) // 2 :]}
    return np.array([prompt in second for prompt in prompts])


def _interval(name: str, terms: Array | None, prefix: str = "") -> dict[str, float | None]:
    return ends(name, None if terms is None else mean_interval(terms), prefix)
