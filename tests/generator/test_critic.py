"""Critics of beginnings: the regression, what is said of it, the file, and searches that use it."""

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import benchmark
from src.budget import Plan
from src.data.prompts import Prompt
from src.experiments import critic as command
from src.experiments.settings import BenchmarkSettings
from src.generator import checkpoint_of
from src.methods import METHODS
from src.protocol import Checkpoint, NoScore, Score
from src.reports.critic_study import CRITIC, TOKENS, CriticStudy, token_statistics
from src.runs.critic import Critic, CriticError, CriticVerifier, load_critic
from src.runs.ending import Exit
from src.runs.pool import LOG_PROBS, UNCONDITIONAL, WHOLE, Pool, load_pool
from src.runs.settings import parse
from src.scoring import ScoreInput
from src.search import search
from src.stats.best_of_n import mean_tau
from src.stats.ridge import PENALTIES, best_penalty, explained, fit, held_out, moments_of
from src.tree.node import SearchResult
from src.verifier import SearchVerifier
from tests.generator.fake_search import (
    RATE,
    FakeGenerator,
    FakeVerifier,
    continued,
    heard,
    value_of,
)
from tests.generator.made_up_pool import made_up_pool
from tests.generator.test_halving import PROMPTS, SEED

RNG = np.random.default_rng
NAN = float("nan")


class TestRidge:
    @pytest.mark.parametrize("penalty", [1e-9, 0.1, 1.0])
    def test_weights_are_those_of_least_squares_with_rows_for_the_penalty(self, penalty) -> None:
        x, y = RNG(0).normal(size=(6, 9, 3)), RNG(1).normal(size=(6, 9))
        inside = [v - v.mean(1, keepdims=True) for v in (x, y)]
        x_in, y_in = inside[0] / y.std(1)[:, None, None], inside[1] / y.std(1)[:, None]
        x_in, y_in = x_in.reshape(-1, 3), y_in.ravel()
        scale = np.sqrt(np.square(x_in).sum(0))
        rows = np.vstack([x_in, np.diag(np.sqrt(penalty) * scale)])
        expected = np.linalg.lstsq(rows, np.append(y_in, [0, 0, 0]), rcond=None)[0]
        assert fit(moments_of(x, y), penalty) == pytest.approx(expected)

    def test_levels_and_spreads_of_prompts_say_nothing(self) -> None:
        level = 10 * np.arange(8)[:, None]
        z = RNG(2).normal(size=(8, 20))
        x, y = level - z, level + z  # the higher the better among prompts, not within one
        alone = np.broadcast_to(level, z.shape)  # knows the prompt only
        features = np.stack([x, alone], axis=-1)
        assert np.polyfit(x.ravel(), y.ravel(), 1)[0] > 0
        moments = moments_of(features, y)
        assert fit(moments, 1e-9) == pytest.approx([-1, 0])
        assert explained(moments, fit(moments, 1e-9)) == pytest.approx(np.ones(8))
        spread = np.linspace(1, 100, 8)[:, None]
        noisy = y + RNG(3).normal(size=y.shape)
        wide = moments_of(features * spread[..., None], noisy * spread)
        assert fit(wide, 0.1) == pytest.approx(fit(moments_of(features, noisy), 0.1))

    def test_candidates_without_numbers_and_prompts_that_do_not_vary_do_not_count(self) -> None:
        x, y = RNG(4).normal(size=(5, 7, 2)), RNG(5).normal(size=(5, 7))
        holed, lacks = x.copy(), y.copy()
        holed[0, 0, 1] = holed[0, 1] = lacks[0, 2] = NAN
        left = moments_of([x[0, 3:], *x[1:]], [y[0, 3:], *y[1:]])
        assert fit(moments_of(holed, lacks), 0.1) == pytest.approx(fit(left, 0.1))
        flat = moments_of([*x, x[0]], [*y, np.ones(7)])
        assert fit(flat, 0.1) == pytest.approx(fit(moments_of(x, y), 0.1))
        assert np.isnan(explained(flat, fit(flat, 0.1))).tolist() == [False] * 5 + [True]

    def test_the_penalty_is_small_where_features_tell_and_large_where_they_do_not(self) -> None:
        x = RNG(6).normal(size=(12, 10, 4))
        assert best_penalty(moments_of(x, x.sum(-1))) == min(PENALTIES)
        assert best_penalty(moments_of(x, RNG(7).normal(size=(12, 10)))) == max(PENALTIES)

    def test_a_prompt_has_no_part_in_the_weights_that_it_is_predicted_by(self) -> None:
        x, y = RNG(8).normal(size=(9, 6, 2)), RNG(9).normal(size=(9, 6))
        folds = np.arange(9) % 3
        before = held_out(moments_of(x, y), folds)
        changed = np.where((folds == 1)[:, None], y[::-1] * 3 + x[..., 0], y)
        after = held_out(moments_of(x, changed), folds)
        assert after[folds == 1] == pytest.approx(before[folds == 1])
        assert (after[folds != 1] != before[folds != 1]).all()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Log-probabilities know z from the start, and with it the final tags, but nothing of noise."""
    made = made_up_pool(tmp_path_factory.mktemp("pool"), 16, guided=True)
    pool = load_pool(made, ["tags+noise"])
    for record in pool.candidates.values():
        for of in (LOG_PROBS, UNCONDITIONAL):
            record[of] = dict.fromkeys(record[of], record[of][WHOLE])
    return pool


class TestStudy:
    def test_it_finds_what_predicts_better_on_prompts_held_out_and_nothing_where_nothing_does(
        self, pool: Pool
    ) -> None:
        rows = [row for row in CriticStudy(pool).rows() if row["features"] == CRITIC]
        said = {(row["selector"], row["seconds"]): row for row in rows}
        assert said["tags", 1.0]["verdict"] == said["tags", 2.0]["verdict"] == "better"
        assert said["tags", 1.0]["r2"] > 0.9 > 0.2 > said["tags", 1.0]["prefix_r2"]
        assert {said["noise", at]["verdict"] for at in (1.0, 2.0, 4.0)} == {"unclear"}
        own, whole = pool.pair("noise", "noise", 2.0)
        row = said["noise", 2.0]
        prefix = [row[name] for name in ("prefix_tau", "prefix_tau_low", "prefix_tau_high")]
        assert prefix == pytest.approx(mean_tau(own, whole)[0])
        assert row["p_holm"] >= row["p"]

    def test_halving_by_a_better_critic_gains_more_by_its_own_number_and_by_the_judge(
        self, pool: Pool
    ) -> None:
        rows = {
            (row["selector"], row["measure"], row["compared"].split(",")[0]): row
            for row in CriticStudy(pool).halving_rows()
            if row["compared"] != "critic, over one sample"
        }
        for measure in ("tags", "copy"):  # copy: lower is better
            assert rows["tags", measure, "critic"]["sd_low"] > 0
            assert rows["tags", measure, "prefix"]["sd_low"] > 0
        assert rows["tags", "copy", "critic"]["verdict"] == "better"
        assert rows["noise", "copy", "critic"]["verdict"] == "unclear"
        assert rows["tags", "tags", "critic"]["verdict"] == "not independent"
        assert rows["tags", "tags", "critic"]["alive"] == "16 8 4 2"  # all that the pool has

    def test_token_statistics_by_hand(self) -> None:
        clip = np.array([[1, 1, 2, 2], [5, 5, 5, 6]])
        found = token_statistics(np.stack([clip, np.zeros_like(clip)]))
        halves, quarters = np.log(2), -0.75 * np.log(0.75) - 0.25 * np.log(0.25)
        assert found["entropy"] == pytest.approx([(halves + quarters) / 2, 0])
        assert found["repeated frames"] == pytest.approx([1 / 3, 1])
        assert found["repeated tokens"] == pytest.approx([4 / 6, 1])

    def test_the_command_says_plainly_when_the_prefix_does_as_well(self, tmp_path, capsys) -> None:
        made = made_up_pool(tmp_path, 16, measures=("noise", "copy"))
        assert command.main([str(made)]) == Exit.DONE
        text = capsys.readouterr().out
        assert "No critic ranks beginnings clearly better" in text
        assert "  16, 8, 4, 2 by noise" in text
        table = pd.read_csv(made / "critic.csv")
        assert {*table.features} == {CRITIC, TOKENS}
        assert len(pd.read_csv(made / "critic_halving.csv")) == 3 * 4
        assert not (made / "critic.json").exists()
        assert command.main([str(made), "--train", "copy"]) == Exit.FOLDER
        assert "no beginnings by 'copy'" in capsys.readouterr().err


class TestCritic:
    def test_it_is_read_back_and_predicts_in_the_unit_of_the_score(self, pool: Pool) -> None:
        study = CriticStudy(pool)
        command.report(study, pool.folder / "out", "tags+noise")
        critic = load_critic(pool.folder / "out" / "critic.json")
        assert critic == study.trained("tags+noise")
        assert [*critic.weights] == [50, 100, 200]
        found = []
        for prompt, candidate in itertools.product(pool.prompts, range(pool.size)):
            parts = {n: pool.values(n, 2.0)[prompt][candidate] for n in ("tags", "noise")}
            record = pool.candidates[prompt]
            log_probs = (record[of]["2"][candidate] for of in (LOG_PROBS, UNCONDITIONAL))
            # The units of a search are its calibration's, and not the pool's.
            score = Score(value=123.0, components=parts)
            found.append(critic.predict(ScoreInput("", None, *log_probs, frames=100), score))
        final = np.concatenate([pool.values("tags+noise")[prompt] for prompt in pool.prompts])
        assert np.mean(found) == pytest.approx(final.mean())
        within = [x.reshape(-1, pool.size) for x in (np.array(found), final)]
        assert np.corrcoef(*(np.ravel(x - x.mean(1, keepdims=True)) for x in within))[0, 1] > 0.6

    def test_one_of_other_weights_or_of_another_search_is_refused(self, pool: Pool) -> None:
        critic = CriticStudy(pool).trained("tags")
        generator, tags = critic.generator, critic.verifiers["tags"]
        other = Checkpoint(name="other", sha256="f" * 64)

        def built(generator: Checkpoint, tags: Checkpoint) -> CriticVerifier:
            return CriticVerifier(critic, SearchVerifier("tags", {"tags": tags}, None), generator)

        assert built(generator, tags).name == "critic of tags"
        for wrong in ((other, tags), (generator, other)):
            with pytest.raises(CriticError, match="other weights"):
                built(*wrong)

        def planned(duration: float = 5, step: float = 2, method: str = "halving") -> list[Plan]:
            return [METHODS[method].make_plan(8, duration, step, RATE, {})]

        critic.check("tags", planned())
        critic.check("tags", [*planned(method="power"), *planned(3, method="best_of_n")])
        for selector, plans, said in (
            ("pmi", planned(), "critic of tags says nothing of pmi"),
            ("tags", planned(4), "clips of 5 s says nothing of 4 s"),
            ("tags", planned(step=1.5), "is heard of 1.5, 3, 4.5 s"),
        ):
            with pytest.raises(CriticError, match=said):
                critic.check(selector, plans)

    def test_a_beginning_without_a_score_has_no_prediction_and_scores_stay_among_the_components(
        self,
    ) -> None:
        critic = made_up_critic({1: {"own": 2.0, "constant": 1.0}})
        verifier = CriticVerifier(critic, FakeVerifier(lambda item: item.prompt), CHECKPOINT)
        clip = FakeGenerator().render(torch.tensor([[[3, 1, 4]]]))[0]
        out, scored = verifier.score([ScoreInput(text, clip, -1.0, None, 1) for text in ("no", "")])
        assert out == NoScore(reason="no")
        own = value_of("", heard(ScoreInput("", clip, -1.0)))
        assert scored == Score(value=1 + 2 * own, components={"fake": own})
        assert verifier.take_usage().uploaded_bytes == 200


CHECKPOINT = FakeGenerator.checkpoint


def made_up_critic(weights: dict[int, dict[str, float]]) -> Critic:
    return Critic(
        selector="fake",
        generator=CHECKPOINT,
        verifiers={"fake": FakeVerifier().checkpoints["fake"]},
        deviations={},
        means={},
        frames=10,
        weights=weights,
        pool="0" * 64,
        num_prompts=8,
    )


class TestSearch:
    """Candidates are kept by the critic, and the winner is the verifier's."""

    CRITIC = made_up_critic(
        {at: {"own": -1.0, "log_prob": 9.0, "constant": at} for at in (3, 6, 9)}
    )

    def search(self, plan: Plan, **options) -> list[SearchResult]:
        verifier = FakeVerifier()
        value = CriticVerifier(self.CRITIC, verifier, CHECKPOINT)
        found = search(plan, PROMPTS, FakeGenerator(), verifier, SEED, value=value, **options)
        return [result for result in found if isinstance(result, SearchResult)]

    def rank(self, prompt: Prompt, tokens: list[int], is_last: bool) -> float:
        if is_last:
            return value_of(prompt.text, tokens)
        log_prob = np.float32(-(sum(tokens) % 97) / 97 - 0.01)
        return -value_of(prompt.text, tokens) + 9.0 * float(log_prob)

    def plainly(self, plan: Plan, prompt: Prompt, on: Callable) -> list[int]:
        pool: dict[int, list[int]] = {slot: [] for slot in range(plan.candidates)}
        for step, frames in enumerate(plan.steps):
            pool = {s: continued(own, frames, SEED, prompt.key, s) for s, own in pool.items()}
            is_last = step == len(plan.steps) - 1
            ranked = sorted(pool, key=lambda s: (-self.rank(prompt, pool[s], is_last), s))
            if not is_last:
                pool = on(plan, step, pool, ranked)
        return pool[ranked[0]]

    def test_halving(self) -> None:
        plan = METHODS["halving"].make_plan(5, 10 / RATE, 3 / RATE, RATE, {"keep": 0.5})

        def on(plan, step, pool, ranked):
            return {slot: pool[slot] for slot in sorted(ranked[: plan.held[step + 1]])}

        for prompt, result in zip(PROMPTS, self.search(plan), strict=True):
            assert result.winner.tokens[0].tolist() == self.plainly(plan, prompt, on)
            own = {node.step: "fake" in node.score.components for node in result.nodes}
            assert own == {0: True, 1: True, 2: True, 3: False}
            assert result.ledger.clips == plan.expected().clips

    def test_beam_search(self) -> None:
        plan = METHODS["sbs"].make_plan(6, 10 / RATE, 3 / RATE, RATE, {"beam_width": 3})

        def on(plan, step, pool, ranked):
            kept = ranked[: plan.kept]
            freed = (slot for slot in sorted(pool) if slot not in kept)
            return {s: pool[s] for s in kept} | {
                next(freed): pool[parent] for parent in kept for _ in range(plan.beam_width - 1)
            }

        for prompt, result in zip(PROMPTS, self.search(plan), strict=True):
            assert result.winner.tokens[0].tolist() == self.plainly(plan, prompt, on)

    def test_without_one_the_verifier_keeps_and_with_one_others_are_kept(self) -> None:
        plan = METHODS["halving"].make_plan(8, 10 / RATE, 3 / RATE, RATE, {"keep": 0.5})
        plain = search(plan, PROMPTS, FakeGenerator(), FakeVerifier(), SEED)
        assert [r.nodes for r in self.search(plan)] != [r.nodes for r in plain]


def test_without_guidance_a_critic_that_was_trained_with_it_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "--profile builtin --verifier perplexity --method halving --duration 0.6 --guidance 1"
    asked = [*words.split(), "--step_size", "0.4", "--value", str(tmp_path / "critic.json")]
    for feature in ("unconditional", "log_prob"):
        critic = made_up_critic({20: {"own": 1.0, feature: 0.5}})
        critic = critic.model_copy(update={"selector": "perplexity", "frames": 30})
        (tmp_path / "critic.json").write_text(critic.model_dump_json())
        if feature == "log_prob":
            assert parse(BenchmarkSettings, asked).value
            continue
        with pytest.raises(SystemExit):
            parse(BenchmarkSettings, asked)
        assert "take a --guidance other than 1" in capsys.readouterr().err


def test_a_benchmark_prunes_by_it_and_its_folder_knows(tmp_path: Path, monkeypatch) -> None:
    """On the built-in stack, pmi: no server."""
    path, own = tmp_path / "critic.json", checkpoint_of("builtin")
    weights = {20: {"own": -3.0, "log_prob": 0.5, "unconditional": 0.25, "constant": 2.0}}
    facts = {"selector": "pmi", "generator": own, "verifiers": {"pmi": own}, "frames": 30}
    critic = made_up_critic(weights).model_copy(update=facts)
    path.write_text(critic.model_dump_json())
    words = "--profile builtin --verifier pmi --method halving --candidates 4 --duration 0.6"
    asked = [*words.split(), "--step_size", "0.4", "--num_samples", "2", "--judges", "none"]
    asked += ["--save_audio", "none", "--output", str(tmp_path / "out")]
    assert benchmark.main([*asked, "--value", str(path)]) == Exit.DONE
    (folder,) = (tmp_path / "out").iterdir()
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    assert len(records) == 2
    for record in records:
        first = [node for node in record["tree"] if node["step"] == 0]
        for node in first:
            of = node["score"]["components"]
            said = 2 - 3 * of["pmi"] + 0.5 * of["log_prob"] + 0.25 * of["unconditional"]
            assert node["score"]["value"] == pytest.approx(said)
        kept = min(node["score"]["value"] for node in first if node["kept"])
        assert kept >= max(node["score"]["value"] for node in first if not node["kept"])
        won = record["winner"]["score"]
        assert won["value"] == pytest.approx(
            won["components"]["log_prob"] - won["components"]["unconditional"]
        )
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["identity"]["checkpoints"]["value"]["name"] == "critic of pmi"
    plain = parse(BenchmarkSettings, asked)
    assert plain.decisive() == replace(plain, value=path).decisive()
    path.write_text(critic.model_copy(update={"generator": CHECKPOINT}).model_dump_json())
    with pytest.raises(SystemExit) as ended:
        benchmark.main([*asked, "--value", str(path)])
    assert ended.value.code == Exit.USAGE
