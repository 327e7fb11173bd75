"""What each setting of the planner's searches would give, from one scored pool.

    planner = Planner(pool, pool.measures["msd_kld"], in_frames(pool))
    planner.chosen(2000)        # the best of them, on prompts that did not choose them

Gains are in within-prompt standard deviations of the measure, positive where better, paired by
prompt, with 95% intervals over prompts. Prompts are halved by a hash of their ids. What one half
finds best by the choosing judge is valued on the other half, so that no number is of prompts that
chose it. Its reference is best-of-n at the same budget, by the selector that the choosing half
finds best for it.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from src.budget import PlanError
from src.methods import BEST_OF_N, WAVE
from src.reports.gains import oriented
from src.reports.plan_settings import Options, Rates, Schedules, Setting
from src.reports.table import Row, adjusted, ends
from src.runs.measures import Measure, verdict
from src.runs.pool import Pool, PoolError
from src.stats.best_of_n import Array, in_sd, soft_best_of_n_weights, within_prompt_std
from src.stats.intervals import StatsError, mean_interval, mean_p
from src.stats.simulation import draw_orders, expected, halving_weights, stopped, waves_weights

KEEPS = (0.25, 0.33, 0.5, 0.67)  # as --keep takes them
SOFTENS = (0.25, 0.5, 1.0)  # in within-prompt deviations of the selector
PRICES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)  # as --price takes them
DRAWS = 400  # orders of a prompt's clips
FEW = 3  # settings that either half chooses
REFERENCE, SECONDARY = "reference", "secondary"  # verdicts
HALVES = ("first half", "second half")
BOTH = "both halves"
Mask = NDArray[np.bool_]

# For the prompts of the first half, and of the second; None: they do not count.
Policy = tuple[Setting | None, Setting | None]


class Planner:
    """A pool's settings and what they give by its measures.

    selectors: the pool's verifiers, sums among them; choosable: those that the judge is evidence
    on. prompts: with numbers of all selectors and of the judge. softens: in within-prompt
    deviations of the selector. Raises PoolError where nothing can be planned, StatsError for fewer
    than four prompts.
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
        self._orders = [draw_orders(pool.size, draws, seed) for seed in range(len(self.prompts))]
        self._beginnings: dict[tuple[str, float], Array] = {}
        options = {}
        for name in verifiers:
            begun = {at: pool.values(name, at) for at in pool.prefixes}
            cuts = [at for at in begun if all(prompt in begun[at] for prompt in self.prompts)]
            for at in cuts:
                self._beginnings[name, at] = np.array([begun[at][p] for p in self.prompts])
            sd = within_prompt_std(list(self.values[name]))
            pairs = zip(self.values[name], self._orders, strict=True)
            counts = np.array([stopped(x, int(WAVE.default), prices, order) for x, order in pairs])
            options[name] = Options(
                cuts=cuts,
                softens=[float(f"{soften * sd:.3g}") for soften in softens if sd],
                stops={price: counts[:, at] for at, price in enumerate(prices)},
            )
        self.schedules = Schedules(pool, options, rates, keeps)
        self._weights: dict[Setting, Array] = {}

    def weights(self, setting: Setting) -> Array:
        """How often each of a prompt's clips wins: [prompts, m]."""
        if setting not in self._weights:
            self._weights[setting] = np.array(list(self._of_prompts(setting)))
        return self._weights[setting]

    def _of_prompts(self, setting: Setting) -> Iterator[Array]:
        name, n, own = setting.selector, setting.alive[0], setting.cell.parameters
        for at, (scores, places) in enumerate(zip(self.values[name], self._orders, strict=True)):
            if setting.cuts:
                begun = [self._beginnings[name, cut][at] for cut in setting.cuts]
                yield halving_weights([*begun, scores], setting.alive, places)
            elif price := own.get("price"):
                counts = self.schedules.options[name].stops[price][at]
                yield waves_weights(scores, np.minimum(counts, n), places)
            else:
                yield soft_best_of_n_weights(scores, n, own.get("soften", 0.0))

    def means(self, policy: Policy, measure: str) -> Array:
        """Of the winners, higher where better: [prompts]; NaN where there is no number."""
        found = np.full(len(self.prompts), np.nan)
        for setting, half in zip(policy, (~self.second, self.second), strict=True):
            if setting:
                found[half] = expected(self.weights(setting), self.values[measure])[half]
        return found

    def gain(self, policy: Policy, measure: str, usual: Policy | None = None) -> Array | None:
        """Terms of the mean gain, in deviations: [prompts that have it]; None where it has none.

        usual: what it is over; none: one sample.
        """
        values = self.values[measure]
        usually = self.means(usual, measure) if usual else expected(np.ones(values.shape), values)
        gains = self.means(policy, measure) - usually
        known = ~np.isnan(gains)
        return in_sd(gains[known], list(values[known])) if known.sum() > 1 else None

    def valued(self, budget: float) -> Iterator[Row]:
        """Each setting by its own number and by all judges, over all prompts; the reference is
        best-of-n by the same selector."""
        settings, measures = self.schedules.settings(budget), self.pool.measures
        usual = _best_of_n(settings)
        for setting in settings:
            own = measures[setting.selector]
            for measure in (own, *(m for m in measures.values() if m.is_judge)):
                about = {"measure": measure.name, "relation": measure.relation(own)}
                found = self._compared((setting, setting), usual[own.name], measure.name)
                yield {**setting.columns(), **about, **found}

    def ranked(self, settings: Sequence[Setting], half: Mask) -> list[Setting]:
        """Those that may be chosen, best first by the judge on these prompts; of equal ones the
        cheaper first. Raises PlanError where there are none."""

        def key(setting: Setting) -> tuple[float, float]:
            mean = np.nanmean(self.means((setting, setting), self.judge.name)[half])
            return -round(float(mean), 12), setting.cost

        found = [s for s in settings if s.selector in self.choosable]
        if not found:
            raise PlanError(f"too little for any selector that {self.judge.name} is evidence on")
        return sorted(found, key=key)

    def choices(self, budget: float) -> tuple[Policy, Policy]:
        """The best setting, and the best best-of-n as its reference: to either half's prompts
        those of the other half."""
        settings = self.schedules.settings(budget)
        ranked = [self.ranked(settings, half) for half in (self.second, ~self.second)]
        plain = [next(s for s in best if s.cell.method == BEST_OF_N) for best in ranked]
        return (ranked[0][0], ranked[1][0]), (plain[0], plain[1])

    def chosen(self, budget: float) -> list[Row]:
        """Each half's reference and its best settings, on the other half by the judge; then
        the first choices of both by every measure. p is adjusted for all that the judge says."""
        settings, rows = self.schedules.settings(budget), []
        first, reference = self.choices(budget)
        usual = _best_of_n(settings)
        for at, name in enumerate(HALVES):
            ranked = self.ranked(settings, self.second == at)
            for setting in [s for s in ranked if s in ranked[:FEW] or s == reference[1 - at]]:
                other: Policy = (setting, None) if at else (None, setting)
                over_own = self.gain(other, setting.selector, usual[setting.selector])
                rows.append(
                    {"chosen_on": name, **setting.columns()}
                    | self._tested(other, reference, self.judge)
                    | _interval("own", over_own, "own_")
                    | {"command": setting.command(self.pool)}
                )
        names = " / ".join(dict.fromkeys(s.name for s in first[::-1] if s))
        both = {"chosen_on": BOTH, "setting": names}
        judges = [measure for measure in self.pool.measures.values() if measure.is_judge]
        return adjusted(rows + [both | self._tested(first, reference, m) for m in judges])

    def _compared(self, policy: Policy, usual: Policy, measure: str) -> dict[str, Any]:
        """Columns of the gain over one sample, and over the reference."""
        over = self.gain(policy, measure, usual)
        return (
            {"prompts": 0 if over is None else len(over)}
            | _interval("gain_sd", self.gain(policy, measure))
            | _interval("over_best_of_n", over, "over_")
        )

    def _tested(self, policy: Policy, usual: Policy, measure: Measure) -> dict[str, Any]:
        """With p and a verdict, which is a claim where the judge compares two settings."""
        over, p, said = self.gain(policy, measure.name, usual), None, SECONDARY
        pairs = [(s, plain) for s, plain in zip(policy, usual, strict=True) if s and plain]
        selectors = [self.pool.measures[s.selector] for pair in pairs for s in pair]
        if measure.is_control:
            said = "control"
        elif any(measure.relation(selector) for selector in selectors):
            said = "not independent"
        elif all(s == plain for s, plain in pairs):
            said = REFERENCE
        elif measure == self.judge and over is not None:
            p = mean_p(over)
            said = verdict(over.mean(), p)
        found = self._compared(policy, usual, measure.name)
        return {"measure": measure.name, **found, "p": p, "p_holm": None, "verdict": said}


def _best_of_n(settings: Sequence[Setting]) -> dict[str, Policy]:
    """By selector."""
    return {s.selector: (s, s) for s in settings if s.cell.method == BEST_OF_N}


def second_half(prompts: Sequence[str]) -> Mask:
    """Whether each is of the second half, by SHA-256 of its id: whatever their order. The halves
    differ by one prompt at most."""
    order = sorted(prompts, key=lambda prompt: hashlib.sha256(prompt.encode()).digest())
    second = {*order[len(order) // 2 :]}
    return np.array([prompt in second for prompt in prompts])


def _interval(name: str, terms: Array | None, prefix: str = "") -> dict[str, float | None]:
    return ends(name, None if terms is None else mean_interval(terms), prefix)
