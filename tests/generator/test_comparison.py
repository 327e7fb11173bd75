"""Reports of best-of-n beside one sample: pools of other settings, and a confirmation."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from src.data.prompts import Selection, digest_of, load_prompts
from src.reports import comparison, confirmation
from src.reports.confirmation import SECONDARY
from src.runs.ending import Exit
from src.runs.pool import Pool, PoolError, load_pool
from src.stats.best_of_n import best_of_n, within_prompt_std
from src.stats.intervals import holm
from tests.generator.made_up_pool import SHA, made_up_pool

USUAL = {"seed": 42, "temperature": 1.0, "top_k": 250, "guidance": 3.0}
N = 8


def pool_of(folder: Path, shift: float = 0.0, count: int = 12, **settings: Any) -> Pool:
    made = made_up_pool(folder, count, settings={**USUAL, **settings}, shift=shift)
    return load_pool(made)


class TestComparison:
    @pytest.fixture(scope="class")
    def pools(self, tmp_path_factory: pytest.TempPathFactory) -> list[Pool]:
        folder = tmp_path_factory.mktemp("pools")
        return [pool_of(folder), pool_of(folder, 0.25, temperature=0.7)]

    @pytest.fixture(scope="class")
    def tables(self, pools: list[Pool]) -> dict[str, pd.DataFrame]:
        folders = [str(pool.folder) for pool in pools]
        selectors = ["--selectors", "tags", "noise", "tags+noise"]
        assert comparison.main([*folders, *selectors, "--n", str(N)]) == Exit.DONE
        assert (pools[0].folder / "comparison.png").exists()
        names = ("comparison", "over_settings")
        return {n: pd.read_csv(pools[0].folder / f"{n}.csv", keep_default_na=False) for n in names}

    def test_another_setting_is_compared_prompt_by_prompt(self, tables) -> None:
        table = tables["comparison"].set_index(["measure", "choice", "setting"])
        usual = table.loc["copy", "one sample", "T 1, guidance 3"]
        other = table.loc["copy", "one sample", "T 0.7, guidance 3"]
        assert usual["mean"] - other["mean"] == pytest.approx(0.5, abs=1e-4)  # less is better
        assert float(other["low"]) == pytest.approx(0.5, abs=1e-4)  # alike for every prompt
        assert (usual["gain"], usual["verdict"], other["verdict"]) == (0, "usual", "better")

    def test_selectors_gain_what_best_of_n_of_the_usual_pool_does(self, pools, tables) -> None:
        table = tables["comparison"].query("choice != 'one sample'")
        table = table.set_index(["measure", "choice"])
        scores, judged = pools[0].pair("tags", "copy")
        gains = -(best_of_n(scores, judged, (N,))[:, 0] - np.mean(judged, axis=1))
        row = table.loc["copy", "tags"]
        assert row["gain"] == pytest.approx(gains.mean(), rel=1e-4)
        assert row["gain_sd"] == pytest.approx(gains.mean() / within_prompt_std(judged), rel=1e-4)
        own = (gains / np.std(judged, axis=1, ddof=1)).mean()
        assert row["gain_own_sd"] == pytest.approx(own, rel=1e-4)
        assert table.loc["copy", "noise"]["verdict"] == "unclear"
        assert table.loc["kin", "tags"]["verdict"] == "not independent"
        assert table.loc["again", "tags+noise"]["verdict"] == "not independent"

    def test_the_oracle_is_the_highest_and_no_part_of_the_family(self, tables) -> None:
        table = tables["comparison"]
        family = table[table["p_holm"] != ""]
        assert not {"usual", "upper bound", "not independent"} & set(family["verdict"])
        adjusted = holm([float(p) for p in family["p"]])
        assert [float(p) for p in family["p_holm"]] == pytest.approx(adjusted, rel=1e-4)
        for _, rows in table.groupby("measure"):
            oracle = rows[rows["choice"] == "oracle"].iloc[0]
            assert oracle["gain"] == rows["gain"].max()
            assert oracle["verdict"] == "upper bound"

    def test_choosing_is_compared_with_each_other_setting(self, tables) -> None:
        gains, over = tables["comparison"], tables["over_settings"]
        gains = gains[gains["measure"] == "copy"].set_index("choice")
        row = over[(over["measure"] == "copy") & (over["choice"] == "tags")].iloc[0]
        assert row["over"] == "T 0.7, guidance 3"
        assert row["gain"] == pytest.approx(gains.loc["tags"]["gain"] - 0.5, rel=1e-3)
        assert set(over["choice"]) == {"tags", "noise", "tags+noise"}

    def test_pools_that_do_not_belong_together_are_refused(self, pools, tmp_path) -> None:
        fewer = pool_of(tmp_path, count=4, temperature=0.7)
        with pytest.raises(PoolError, match="same prompts"):
            comparison.report([pools[0], fewer], ["tags"], N)
        with pytest.raises(PoolError, match="same temperature and guidance"):
            comparison.report([pools[0], pools[0]], ["tags"], N)


class TestConfirmation:
    @pytest.fixture(scope="class")
    def table(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
        path.write_text("id,caption\n" + "".join(f"p{i},a flute\n" for i in range(12)))
        return path

    @pytest.fixture(scope="class")
    def pool(self, table: Path) -> Pool:
        digest = digest_of(load_prompts(str(table), Selection(None), table.parent))
        return pool_of(table.parent, prompts={"count": 12, "sha256": digest})

    def protocol(self, table: Path, **changed: str) -> Path:
        lines = {
            "prompts": f'"{table}"',
            "count": "12",
            "candidates": "16",
            "duration": "5.0",
            **{key: str(value) for key, value in USUAL.items()},
            "n": str(N),
            "selectors": '["tags", "noise", "tags+noise"]',
            "statistic": '"copy"',
            "alpha": "0.05",
            "correction": '"holm"',
            "against": '"one at random"',
            "test": '"two-sided"',
            "power": '"as the test has it"',
            "weights": f'{{generator = "made up ({SHA[:8]})", copy = "copy ({SHA[:8]})"}}',
        } | changed
        path = table.with_name("confirmation.toml")
        path.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        return path

    def test_best_of_n_by_another_selector_is_what_they_are_compared_with(
        self, table, pool, capsys
    ) -> None:
        over = self.protocol(table, over='"tags"', selectors='["tags", "tags+noise"]')
        assert (
            confirmation.main([str(over.rename(table.with_name("over.toml"))), str(pool.folder)])
            == Exit.DONE
        )
        rows = pd.read_csv(pool.folder / "over.csv").set_index(["measure", "selector"])
        same, other = rows.loc["copy"].loc["tags"], rows.loc["copy"].loc["tags+noise"]
        assert (same["gain_sd"], same["verdict"]) == (0, "unclear")
        assert confirmation.main([str(self.protocol(table)), str(pool.folder)]) == Exit.DONE
        alone = pd.read_csv(pool.folder / "confirmation.csv").set_index(["measure", "selector"])
        gains = alone.loc["copy"]["gain_sd"]
        assert other["gain_sd"] == pytest.approx(gains["tags+noise"] - gains["tags"], abs=1e-4)
        assert "over best-of-8 by tags" in capsys.readouterr().out.replace("\n    ", " ")

    def test_selectors_are_judged_by_the_statistic_alone(self, table, pool, capsys) -> None:
        assert confirmation.main([str(self.protocol(table)), str(pool.folder)]) == Exit.DONE
        rows = pd.read_csv(pool.folder / "confirmation.csv").set_index(["measure", "selector"])
        primary = rows.loc["copy"]
        assert primary["verdict"].to_dict() == {
            "tags": "better",
            "noise": "unclear",
            "tags+noise": "better",
        }
        assert primary["p_holm"].tolist() == pytest.approx(holm(primary["p"].tolist()), rel=1e-4)
        secondary = rows.drop(index="copy", level="measure")
        assert set(secondary["verdict"]) == {SECONDARY, "not independent"}
        assert secondary["p_holm"].isna().all()
        assert "as the test has it" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("key", "value", "said"),
        [
            ("seed", "43", "seed: 42, not 43"),
            ("guidance", "1", "guidance: 3.0, not 1.0"),
            ("weights", '{copy = "other (00000000)"}', f"weights of copy: copy ({SHA[:8]})"),
            ("selectors", '["tags", "pmi"]', "no measure 'pmi'"),
            ("correction", '"none"', "is no protocol"),
        ],
    )
    def test_another_pool_than_the_protocols_is_refused(
        self, table, pool, capsys, key, value, said
    ) -> None:
        path = self.protocol(table, **{key: value})
        assert confirmation.main([str(path), str(pool.folder)]) != Exit.DONE
        assert said in capsys.readouterr().err

    def test_other_prompts_or_fewer_are_refused(self, table, pool, capsys) -> None:
        with table.open("a") as file:
            file.write("p12,a flute\n")
        path = self.protocol(table, count="13")
        assert confirmation.main([str(path), str(pool.folder)]) != Exit.DONE
        said = capsys.readouterr().err
        assert "SHA-256 of the prompts" in said
        assert "finished prompts: 12, not 13" in said

    def test_a_measure_that_has_not_scored_all_prompts_yet_is_refused(
        self, table, pool, capsys
    ) -> None:
        records = (pool.folder / "records.jsonl").read_text().splitlines(keepends=True)
        last = max(at for at, line in enumerate(records) if '"measure":"copy"' in line)
        (pool.folder / "records.jsonl").write_text("".join(records[:last] + records[last + 1 :]))
        assert confirmation.main([str(self.protocol(table)), str(pool.folder)]) != Exit.DONE
        assert "prompts scored by copy: 11, not 12" in capsys.readouterr().err
