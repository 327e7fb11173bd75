"""How well final scores of a pool's clips are predicted from their beginnings.

    study = CriticStudy(pool)
    study.rows()                # R2 and tau on held-out prompts, against the prefix's own score
    study.halving_rows()        # what halving by it would gain
    study.trained("tags")       # a Critic, for --value

A ridge regression within prompts (src/stats/ridge.py), for each selector and prefix. All that is
said of it is of prompts that had no part in its weights: prompts are dealt into folds by a hash of
their ids. Gains are in within-prompt standard deviations; intervals are 95%, over prompts.
"""

import hashlib
from collections.abc import Iterator

import numpy as np

from src.methods import HalvingPlan, halved
from src.protocol import Checkpoint
from src.reports.gains import Means, gain, no_evidence, one_sample, oriented
from src.reports.table import Row, adjusted, ends
from src.runs.critic import Critic, features_of
from src.runs.measures import verdict
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, Pool, PoolError, Pools, prefix_key
from src.stats.best_of_n import Array, tau
from src.stats.intervals import StatsError, mean_interval, mean_p
from src.stats.ridge import best_penalty, explained, fit, held_out, moments_of
from src.stats.simulation import draw_orders, expected, halving_weights

FOLDS = 8
DRAWS = 400  # of N0 candidates, a prompt
KEEP = 0.5
CRITIC, TOKENS = "critic", "with token statistics"
OVER_PREFIX = "critic, over prefix"
Features = dict[str, Array]  # [prompts, m] by name


class CriticStudy:
    """prompts: those with all numbers of all selectors. seconds: prefixes, by selector. judge: the
    primary one, None without.

    Raises PoolError for a pool without scores of beginnings, StatsError for fewer than FOLDS
    prompts.
    """

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        begun = {name: pool.seconds_of(name) for name, m in pool.measures.items() if not m.is_judge}
        self.seconds = {name: at for name, at in begun.items() if at}
        if not self.seconds:
            raise PoolError(
                f"{pool.folder} has no scores of beginnings: make a pool with "
                "verifier_experiment.py --prefixes"
            )
        needed = [pool.values(name, at) for name in self.seconds for at in (*begun[name], None)]
        self.prompts = [p for p in pool.prompts if all(p in values for values in needed)]
        if len(self.prompts) < FOLDS:
            had = (
                f"a critic needs {FOLDS} prompts with all numbers, and here are {len(self.prompts)}"
            )
            raise StatsError(f"{pool.folder}: {had}: make a pool with a larger --num_samples")
        order = sorted(self.prompts, key=lambda p: hashlib.sha256(p.encode()).digest())
        self.folds = np.array([order.index(prompt) % FOLDS for prompt in self.prompts])
        judges = [m for m in pool.measures.values() if m.is_judge and not m.is_control]
        self.judge = judges[0] if judges else None

    def values(self, name: str, seconds: float | None = None) -> Array:
        found = self.pool.values(name, seconds)
        return np.array([found[prompt] for prompt in self.prompts])

    def features(self, selector: str, seconds: float) -> Features:
        """What a search knows of a beginning."""
        records, key = [self.pool.candidates[p] for p in self.prompts], prefix_key(seconds)
        log_prob = np.array([record[LOG_PROBS][key] for record in records], dtype=np.float64)
        without = None
        if all(key in record.get(UNCONDITIONAL, {}) for record in records):
            without = np.array([record[UNCONDITIONAL][key] for record in records], np.float64)
        parts = {part: self.values(part, seconds) for part in self.pool.measures[selector].scales}
        return features_of(self.values(selector, seconds), log_prob, without, parts)

    def predicted(self, features: Features, selector: str) -> tuple[Array, Array]:
        """Of each candidate by weights of other folds, up to a constant: [prompts, m]; R2 within
        prompts: [prompts]."""
        of_candidates = np.stack(list(features.values()), axis=-1)
        moments = moments_of(of_candidates, self.values(selector))
        weights = held_out(moments, self.folds)
        return np.einsum("pmf,pf->pm", of_candidates, weights), explained(moments, weights)

    def rows(self) -> list[Row]:
        """Of `critic.csv`. A claim: that the critic's tau is higher or lower than the prefix's."""
        rows: list[Row] = []
        for selector, seconds in (
            (name, at) for name, all_of in self.seconds.items() for at in all_of
        ):
            own = self.values(selector, seconds)
            _, plain = self.predicted({"own": own}, selector)
            prefix = self._tau(own, selector)
            for name, features in self._sets(selector, seconds):
                found, r2 = self.predicted(features, selector)
                taus = self._tau(found, selector)
                both = ~np.isnan([taus, prefix, r2, plain]).any(0)
                change = (taus - prefix)[both]
                p = mean_p(change)
                row = {"selector": selector, "seconds": seconds, "features": name}
                row |= {"prompts": int(both.sum())}
                for what, of, usual in (("r2", r2, plain), ("tau", taus, prefix)):
                    row |= _columns(what, of[both]) | _columns(f"prefix_{what}", usual[both])
                    row |= _columns(f"{what}_difference", (of - usual)[both])
                row |= {"p": p if name == CRITIC else None, "p_holm": None}
                said = verdict(change.mean(), p) if name == CRITIC else "secondary"
                rows.append(row | {"verdict": said})
        return adjusted(rows)

    def halving_rows(self) -> list[Row]:
        """Of `critic_halving.csv`: N0 as for the frames of half the pool's clips."""
        pool, rows = self.pool, []
        orders = [draw_orders(pool.size, DRAWS, seed) for seed in range(len(self.prompts))]
        for selector, cuts in self.seconds.items():
            stops = [round(at * pool.frames / pool.duration) for at in cuts]
            steps = np.diff([0, *stops, pool.frames]).tolist()
            budget = max(1, pool.size // 2)
            start = HalvingPlan.begun(budget, steps, {"keep": KEEP, "start": 0})
            alive = halved(min(start, pool.size), KEEP, len(steps))
            final, weights = self.values(selector), []
            own = [self.values(selector, at) for at in cuts]
            critic = [self.predicted(self.features(selector, at), selector)[0] for at in cuts]
            for stages in (critic, own):
                of_prompts = zip(*stages, final, strict=True)
                won = [
                    halving_weights(s, alive, o) for s, o in zip(of_prompts, orders, strict=True)
                ]
                weights.append(np.array(won))
            for measure in filter(None, (pool.measures[selector], self.judge)):
                key = {"selector": selector, "alive": " ".join(map(str, alive))}
                unfounded = no_evidence(pool.measures[selector], measure)
                found = oriented(pool, measure)
                by_critic, by_prefix = (self._means(of, found) for of in weights)
                one = one_sample(pool, measure)
                for compared, better, usual in (
                    (OVER_PREFIX, by_critic, by_prefix),
                    ("critic, over one sample", by_critic, one),
                    ("prefix, over one sample", by_prefix, one),
                ):
                    said = unfounded if compared == OVER_PREFIX else "secondary"
                    key |= {"compared": compared, "measure": measure.name}
                    rows.append(key | gain(better, usual, found, said))
        return adjusted(rows)

    def trained(self, selector: str) -> Critic:
        """On all prompts. Raises PoolError for a selector whose beginnings were not scored."""
        pool, weights = self.pool, {}
        if selector not in self.seconds:
            known = ", ".join(self.seconds)
            raise PoolError(f"{pool.folder} has no beginnings by {selector!r}; it has {known}")
        measure, target = pool.measures[selector], self.values(selector)
        for seconds in self.seconds[selector]:
            features = self.features(selector, seconds)
            of_candidates = np.stack(list(features.values()), axis=-1)
            moments = moments_of(of_candidates, target)
            found = fit(moments, best_penalty(moments))
            named = dict(zip(features, found.tolist(), strict=True))
            named["constant"] = float(np.nanmean(target - of_candidates @ found))
            weights[round(seconds * pool.frames / pool.duration)] = named
        return Critic(
            selector=selector,
            generator=Checkpoint(**pool.manifest["identity"]["checkpoints"]["generator"]),
            verifiers={
                part: Checkpoint(**pool.checkpoints[part]) for part in measure.scales or [selector]
            },
            deviations=dict(measure.scales),
            means=dict(measure.means),
            frames=pool.frames,
            weights=weights,
            pool=pool.manifest["hash"],
            num_prompts=len(self.prompts),
        )

    def _sets(self, selector: str, seconds: float) -> Iterator[tuple[str, Features]]:
        """The critic's features, then what the tokens add."""
        yield CRITIC, (own := self.features(selector, seconds))
        if all(self.pool.has_tokens(prompt) for prompt in self.prompts):
            frames = round(seconds * self.pool.frames / self.pool.duration)
            found = [token_statistics(self.pool.tokens(p)[..., :frames]) for p in self.prompts]
            yield TOKENS, own | {name: np.array([of[name] for of in found]) for name in found[0]}

    def _tau(self, scores: Array, selector: str) -> Array:
        """With the final scores, over the candidates that have both: [prompts]."""
        pairs = list(zip(scores, self.values(selector), strict=True))
        known = [~np.isnan(x + y) for x, y in pairs]
        a, b = ([pair[of][k] for pair, k in zip(pairs, known, strict=True)] for of in (0, 1))
        return tau(a, b)

    def _means(self, weights: Array, values: Pools) -> Means:
        """Of the winners, by prompt. weights: how often each candidate wins, [prompts, m]."""
        found = {
            prompt: float(expected(of[None], values[prompt][None])[0])
            for prompt, of in zip(self.prompts, weights, strict=True)
            if prompt in values
        }
        return {prompt: mean for prompt, mean in found.items() if not np.isnan(mean)}


def token_statistics(tokens: np.ndarray) -> Features:
    """int16 [m, codebooks, frames] -> [m] each: the mean entropy of a codebook's histogram, in
    nats; the share of frames that repeat the one before; the share of tokens that do."""

    def entropy(codes: np.ndarray) -> float:
        part = np.unique(codes, return_counts=True)[1] / codes.size
        return float(-(part * np.log(part)).sum())

    again = tokens[..., 1:] == tokens[..., :-1]
    return {
        "entropy": np.array([np.mean([*map(entropy, clip)]) for clip in tokens]),
        "repeated frames": again.all(1).mean(1),
        "repeated tokens": again.mean((1, 2)),
    }


def _columns(name: str, terms: Array | None) -> dict[str, float | None]:
    return ends(name, None if terms is None else mean_interval(terms), f"{name}_")
