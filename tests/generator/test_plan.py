"""The planner: searches on a pool's clips, costs, choosing on one half of the prompts only."""

import shlex
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from src.budget import PlanError
from src.experiments.settings import BenchmarkSettings
from src.reports import plan
from src.reports.plan_settings import Options, Schedules, in_frames, in_seconds
from src.reports.plan_study import Planner, second_half
from src.runs.ending import Exit
from src.runs.pool import Pool, PoolError, load_pool
from src.runs.run import Run
from src.runs.settings import parse
from src.scoring import PERPLEXITY
from src.stats.best_of_n import best_of_n_weights, soft_best_of_n_weights, within_prompt_std
from src.stats.intervals import StatsError
from src.stats.simulation import draw_orders, expected, halving_weights, stopped, waves_weights
from src.stats.stopping import is_enough
from tests.generator import made_up_pool as made
from tests.generator.made_up_pool import made_up_pool

NAN = float("nan")


def every_subset(size: int, n: int) -> np.ndarray:
    """As `draw_orders`: one row a subset, its members' places below n."""
    rows = []
    for members in combinations(range(size), n):
        others = [slot for slot in range(size) if slot not in members]
        rows.append(np.argsort([*members, *others]))
    return np.array(rows)


def searched(slots: Sequence[int], scores: Sequence[np.ndarray], alive: Sequence[int]) -> int:
    """The winner of one search, by the words of the method: who had no score is out for good."""
    left, out = list(slots), set[int]()
    for at, kept in zip(scores, [*alive[1:], 1], strict=True):
        out |= {slot for slot in left if np.isnan(at[slot])}
        left = sorted(left, key=lambda slot: (slot in out, -at[slot], slot))[:kept]
    return left[0]


class TestHalving:
    @pytest.mark.parametrize("alive", [(4, 2), (5, 2, 1), (3, 3, 1), (6, 4, 2), (7, 1)])
    def test_all_subsets_give_what_searching_each_of_them_gives(self, alive) -> None:
        rng = np.random.default_rng(3)
        scores = [rng.normal(size=7).round(1) for _ in alive]
        scores[0][2] = NAN
        won = [searched(slots, scores, alive) for slots in combinations(range(7), alive[0])]
        counted = np.bincount(won, minlength=7) / len(won)
        found = halving_weights(scores, alive, every_subset(7, alive[0]))
        assert found == pytest.approx(counted)

    def test_drawn_subsets_come_near_all_of_them(self) -> None:
        rng = np.random.default_rng(4)
        scores = rng.normal(size=(3, 9))
        exact = halving_weights(scores, (6, 3, 1), every_subset(9, 6))
        drawn = halving_weights(scores, (6, 3, 1), draw_orders(9, 20_000))
        assert drawn == pytest.approx(exact, abs=4 * (0.25 / 20_000) ** 0.5)

    def test_dropping_nothing_is_best_of_n(self) -> None:
        scores = np.random.default_rng(5).normal(size=(2, 8))
        found = halving_weights(scores, (5, 5), every_subset(8, 5))
        assert found == pytest.approx(best_of_n_weights(scores[1], (5,))[0])
        whole = halving_weights(scores, (8, 8), draw_orders(8, 3))
        assert whole == pytest.approx(best_of_n_weights(scores[1], (8,))[0])

    def test_searches_that_fail_do_not_count(self) -> None:
        scores = np.array([NAN, NAN, 1.0, 0.0])
        found = halving_weights([scores], (2,), every_subset(4, 2))
        assert found == pytest.approx([0, 0, 3 / 5, 2 / 5])
        assert expected(np.array([[0.5, 0.5]]), np.array([[NAN, 3.0]])) == pytest.approx(3)
        with pytest.raises(StatsError, match="5 candidates"):
            halving_weights([scores], (5,), every_subset(4, 4))


class TestSoft:
    @staticmethod
    def of_each(scores: np.ndarray, n: int, softness: float) -> np.ndarray:
        """By the words of the method, from every subset that has a winner."""
        subsets = [list(s) for s in combinations(range(len(scores)), n)]
        found = []
        for members in subsets:
            ranked = np.where(np.isnan(scores[members]), -np.inf, scores[members])
            if np.isfinite(best := ranked.max()):
                found.append(np.zeros(len(scores)))
                found[-1][members] = np.exp((ranked - best) / softness)
                found[-1] /= found[-1].sum()
        return np.mean(found, axis=0)

    @pytest.mark.parametrize("softness", [1e-4, 0.1, 1.0, 30.0])
    @pytest.mark.parametrize("n", [1, 2, 4, 7])
    def test_weights_are_those_of_every_subset(self, n: int, softness: float) -> None:
        scores = np.random.default_rng(n).normal(size=7)
        scores[4] = scores[2]
        for known in (scores, np.where(np.arange(7) % 3, scores, NAN)):
            found = soft_best_of_n_weights(known, n, softness)
            assert found == pytest.approx(self.of_each(known, n, softness), abs=1e-8)

    def test_between_best_of_n_and_one_sample(self) -> None:
        scores = np.random.default_rng(2).normal(size=32)
        hard = best_of_n_weights(scores, (16,))[0]
        assert soft_best_of_n_weights(scores, 16, 0.0) == pytest.approx(hard)
        assert soft_best_of_n_weights(scores, 16, 1e-9) == pytest.approx(hard, abs=1e-8)
        assert soft_best_of_n_weights(scores, 16, 1e6) == pytest.approx(1 / 32, abs=1e-6)
        with pytest.raises(StatsError, match="needs as many"):
            soft_best_of_n_weights(scores, 33, 0.5)


class TestWaves:
    def test_each_order_is_searched_until_one_more_is_not_worth_it(self) -> None:
        scores, places = np.random.default_rng(6).normal(size=11), draw_orders(11, 300)
        scores[3] = NAN
        counts = stopped(scores, 4, (0.1, 0.3), places)
        for price, found in zip((0.1, 0.3), counts, strict=True):
            for order, count in zip(np.argsort(places), found, strict=True):
                stops = [n for n in (4, 8) if is_enough(scores[order[:n]], price)]
                assert count == min([*stops, 11])
        assert 4 < counts[1].mean() < counts[0].mean() < 11
        won = [np.nanargmax(np.where(row, scores, NAN)) for row in places < counts[0][:, None]]
        shares = np.bincount(won, minlength=11) / 300
        assert waves_weights(scores, counts[0], places) == pytest.approx(shares)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool"), 24), ["tags+noise"])


def planner_of(pool: Pool, judge: str = "copy", draws: int = 50) -> Planner:
    return Planner(pool, pool.measures[judge], in_frames(pool), draws=draws)


class TestSettings:
    def test_costs_by_hand(self, pool: Pool) -> None:
        options = {"tags": Options((2.0, 4.0))}
        schedules = Schedules(pool, options, in_frames(pool), (0.5,))
        found = {s.cuts: s for s in schedules.settings(1000)}
        # 5 s are 250 frames; 2 s are 100, and 50 are left after 4 s
        assert found[()][2:] == ((4,), (), 1000, 4, 1000)
        assert found[2.0,][2:-1] == ((5, 2), (2.0,), 5 * 100 + 2 * 150, 7)
        assert found[4.0,][2:-1] == ((4, 2), (4.0,), 4 * 200 + 2 * 50, 6)
        assert found[2.0, 4.0].alive == (6, 3, 1), "(7, 3, 1) would be 1,050 frames"

    def test_waves_may_spend_the_budget_on_average(self, pool: Pool) -> None:
        stops = {0.1: np.array([[4, 4, 8, 16]]), 0.2: np.array([[4, 4, 4, 8]])}
        options = {"tags": Options(softens=(0.5,), stops=stops)}
        schedules = Schedules(pool, options, in_frames(pool), ())

        def found(frames: float) -> list[tuple[str, float]]:
            return [(s.name, s.frames) for s in schedules.settings(frames)]

        assert found(1500) == [
            ("best_of_n N=6 by tags", 1500),
            ("soft_best_of_n N=6 lambda=0.5 by tags", 1500),
            ("waves N=8 wave=4 price=0.1 by tags", 250 * (4 + 4 + 8 + 8) / 4),
            ("waves N=16 wave=4 price=0.2 by tags", 250 * (4 + 4 + 4 + 8) / 4),
        ]
        assert [name for name, _ in found(1000)][2:] == [], "N=4 never stops before 4"
        assert found(250) == [("best_of_n N=1 by tags", 250)]

    def test_seconds_count_scoring_as_well(self, pool: Pool) -> None:
        rates = in_seconds(pool, 0.01, 0.5)
        assert rates.per_clip["tags+noise"] == 1.0
        assert rates.per_clip[PERPLEXITY] == 0
        options = {"tags": Options((2.0,)), PERPLEXITY: Options()}
        schedules = Schedules(pool, options, rates, (0.5,))
        found = {(s.selector, s.cuts): s for s in schedules.settings(12.0)}
        assert [found["tags", ()].alive, found[PERPLEXITY, ()].alive] == [(4,), (4,)]
        assert found["tags", (2.0,)].alive == (5, 2)  # 8 s of frames, 3.5 s of clips
        timed = in_seconds(pool, None, None)
        assert timed.per_frame == pytest.approx(1.0 / made.FRAMES)
        assert timed.per_clip["tags"] == 0.5

    @pytest.mark.parametrize(
        ("budget", "said"), [(249, "no clip: raise it to 250"), (4001, "the pool's 16 clips")]
    )
    def test_budgets_that_no_setting_fits_are_refused(self, pool, capsys, budget, said) -> None:
        code = plan.main([str(pool.folder), "--budget_frames", str(budget)])
        assert (code, said in capsys.readouterr().err) == (Exit.USAGE, True)

    @pytest.mark.parametrize(
        "wrong",
        ["--budget_seconds 9 --seconds_per_frame -1", "--budget_frames 500 --seconds_per_clip 1"],
    )
    def test_rates_that_mean_nothing_are_refused(self, pool: Pool, wrong: str) -> None:
        with pytest.raises(SystemExit, match="2"):
            plan.main([str(pool.folder), *wrong.split()])

    def test_commands_are_the_search_that_was_planned(self, pool: Pool) -> None:
        settings = planner_of(pool).schedules.settings(2000)
        own = [s for s in settings if s.selector == "tags"]
        sd = within_prompt_std(list(pool.values("tags").values()))
        soft = [s.cell.parameters["soften"] for s in own if s.cell.method == "soft_best_of_n"]
        assert soft == pytest.approx([0.25 * sd, 0.5 * sd, sd], rel=1e-2)
        unequal = {s.cuts for s in own if "no command" in s.command(pool)}
        assert unequal == {(1.0,), (2.0,), (1.0, 2.0), (1.0, 4.0), (1.0, 2.0, 4.0)}
        methods = set()
        for setting in (s for s in own if s.cuts not in unequal):
            script, *words = shlex.split(setting.command(pool))[1:]
            asked = parse(BenchmarkSettings, words)
            (plan,) = asked.plans(made.FRAMES / made.DURATION)
            found = (script, asked.verifier, asked.method, asked.candidates)
            cell = setting.cell
            assert found == ("benchmark.py", "tags", (cell.method,), cell.candidates)
            assert cell.parameters.items() <= asked.parameters.items()
            most = plan.expected().frames
            assert most > setting.frames if plan.stops else most == setting.frames
            methods.add(cell.method)
        assert methods == {"best_of_n", "soft_best_of_n", "waves", "halving"}


class TestChoosing:
    def test_halves_differ_by_one_prompt_at_most_and_not_by_order(self) -> None:
        names = [f"p{i}" for i in range(25)]
        second = second_half(names)
        assert second.sum() == 13
        assert second_half(names[::-1])[::-1].tolist() == second.tolist()

    def test_prompts_never_choose_what_is_reported_on_them(self, pool: Pool) -> None:
        """What the judge says of one half decides nothing that is shown on it."""
        usual, other = planner_of(pool), planner_of(pool)
        values = other.values["copy"]
        values[other.second] = -values[other.second]
        (first, plain), (changed, changed_plain) = usual.choices(1000), other.choices(1000)
        assert (first[1], plain[1]) == (changed[1], changed_plain[1])
        assert first[0] != changed[0]
        rows = {
            (row["chosen_on"], row["setting"]): row["prompts"]
            for row in usual.chosen(1000)
            if row["measure"] == "copy"
        }
        assert {prompts for (half, _), prompts in rows.items() if "both" not in half} == {12}

    def test_gains_of_best_of_n_are_exact(self, pool: Pool) -> None:
        planner = planner_of(pool)
        rows = list(planner.valued(1000))
        row = next(r for r in rows if r["method"] == "best_of_n" and r["measure"] == "tags")
        scores = pool.values("tags")
        best = [best_of_n_weights(x, (4,))[0] @ x - x.mean() for x in scores.values()]
        spread = np.sqrt(np.mean([x.var(ddof=1) for x in scores.values()]))
        assert row["gain_sd"] == pytest.approx(np.mean(best) / spread)
        assert (row["over_best_of_n"], row["relation"]) == (0, "own")


def pool_with_beginnings(folder: Path, known: float, prompts: int = 24) -> Path:
    """A pool in which tags' beginnings are the whole clip's score times `known`, beside noise, and
    the judge is that score."""
    rng, keys = np.random.default_rng(1), ("2", "4", "whole")
    source = load_pool(made_up_pool(folder / "source", prompts, 32, ("tags", "copy")))
    identity = {**source.manifest["identity"], "known": known}
    with Run(folder, "pool made up", identity, {"title": "made up", "source": {}}) as run:
        for prompt in source.prompts:
            record = source.candidates[prompt]
            run.append(record | {"log_probs": dict.fromkeys(keys, [-1.0] * source.size)})
            z = rng.normal(size=source.size)
            begun = {key: known * z + (1 - known) * rng.normal(size=z.size) for key in keys[:2]}
            run.append(made._scored("tags", prompt, {**begun, "whole": z}))
            run.append(made._scored("copy", prompt, {"whole": -z + rng.normal(size=z.size)}))
    return run.folder


class TestReport:
    def test_halving_by_perfect_beginnings_is_found(self, tmp_path: Path, capsys) -> None:
        folder = pool_with_beginnings(tmp_path, known=1.0)
        assert plan.main([str(folder), "--budget_frames", "1000"]) == Exit.DONE
        said = capsys.readouterr().out
        assert "Clearly better than best-of-n at this budget: halving" in said
        chosen = pd.read_csv(folder / "plan_chosen.csv")
        both = chosen[(chosen["chosen_on"] == "both halves") & (chosen["measure"] == "copy")]
        assert both["verdict"].tolist() == ["better"]
        assert set(chosen.loc[chosen["p"].notna(), "measure"]) == {"copy"}
        assert (folder / "plan.png").exists()
        plans = pd.read_csv(folder / "plan.csv").query("measure == 'copy' and selector == 'tags'")
        over = plans.groupby("method")["over_best_of_n"].mean()
        assert over["halving"] > 0.1 > over["best_of_n"] == 0 > over["soft_best_of_n"]

    def test_where_nothing_helps_it_says_so(self, tmp_path: Path, capsys) -> None:
        folder = pool_with_beginnings(tmp_path, known=0.0)
        assert plan.main([str(folder), "--budget_frames", "1000"]) == Exit.DONE
        assert "Nothing is clearly better than best-of-n at this budget." in capsys.readouterr().out
        assert "better" not in set(pd.read_csv(folder / "plan_chosen.csv")["verdict"])

    def test_pools_without_beginnings_are_planned_without_halving(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
    ) -> None:
        monkeypatch.setattr(made, "PREFIXES", ())
        folder = made_up_pool(tmp_path, 6, 8, ("tags", "copy"))
        assert plan.main([str(folder), "--budget_frames", "1500"]) == Exit.DONE
        assert "No halving: the pool has no scores of beginnings" in capsys.readouterr().out
        methods = set(pd.read_csv(folder / "plan.csv")["method"])
        assert methods >= {"best_of_n", "soft_best_of_n"}
        assert "halving" not in methods

    def test_selectors_that_know_no_beginnings_are_best_of_n_alone(self, tmp_path: Path) -> None:
        folder = made_up_pool(tmp_path, 6, 8, ("tags", "flat", "copy"))
        arguments = [str(folder), "--budget_seconds", "5", "--seconds_per_clip", "0.1"]
        assert plan.main(arguments) == Exit.DONE
        table = pd.read_csv(folder / "plan.csv").query("selector == 'flat'")
        assert set(table["method"]) == {"best_of_n", "waves"}, "waves stop at once"
        assert table.loc[table["measure"] == "flat", "gain_sd"].isna().all()

    def test_a_judge_without_evidence_on_a_selector_never_chooses_it(self, pool: Pool) -> None:
        planner = planner_of(pool, "kin")  # trained on the data of tags
        assert set(planner.choosable) == {"perplexity", "noise"}
        assert {s.selector for policy in planner.choices(1000) for s in policy} <= {
            "perplexity",
            "noise",
        }

    def test_pools_that_cannot_be_planned_are_refused(self, tmp_path: Path, pool: Pool) -> None:
        related = tuple(n for n, m in pool.measures.items() if m.role == "verifier")
        own = replace(pool.measures["copy"], is_verifier=related)
        with pytest.raises(PoolError, match="no evidence on any selector"):
            Planner(pool, own, in_frames(pool))
        with pytest.raises(PoolError, match="cannot choose by tags; it has copy"):
            plan.chooser(pool, "tags")
        with pytest.raises(StatsError, match="four prompts"):
            planner_of(load_pool(made_up_pool(tmp_path, 3, 8)))
        with pytest.raises(PlanError, match="no clip"):
            planner_of(pool).chosen(10)
