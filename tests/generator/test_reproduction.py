"""How far two runs of the same commands agree."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from src.reports.pool_study import study_pool
from src.reports.reproduction import compare, main
from src.reports.table import write_tables
from src.runs.ending import Exit
from src.runs.pool import load_pool, token_file
from src.runs.records import Run, search_key
from tests.generator.made_up_pool import made_up_pool


@pytest.fixture
def pools(tmp_path: Path) -> tuple[Path, Path]:
    """A pool with its tables, and its copy."""
    folder = made_up_pool(tmp_path / "again", prompts=3, size=4)
    write_tables(folder, study_pool(load_pool(folder), [1, 2, 4]).tables)
    return folder, Path(shutil.copytree(folder, tmp_path / "kept" / folder.name))


def test_the_same_runs_agree_wholly(pools: tuple[Path, Path]) -> None:
    alike = {"same": 12, "clips": 12, "furthest": 0, "where": ""}
    assert compare(*pools) == {"run": pools[0].name, **alike}


def test_other_tokens_and_numbers_are_counted_and_placed(pools: tuple[Path, Path]) -> None:
    folder, other = pools
    tokens = np.load(token_file(folder, "p1"))
    tokens[2, 3, 7] += 1
    np.save(token_file(folder, "p1"), tokens)
    for run, seconds, mean in ((other, 3, 2.0), (folder, 9, 2.5)):
        first = {"name": "a", "seconds": seconds, "mean": mean}
        rows = [first, {"name": "b", "seconds": seconds, "mean": -10}]
        write_tables(run, {"mine": rows})
    found = compare(folder, other)
    assert (found["same"], found["clips"]) == (11, 12)
    assert found["furthest"] == pytest.approx(0.05)  # of 10; seconds are not compared
    assert found["where"] == "mine.csv: mean"


@pytest.mark.parametrize(
    ("rows", "where"), [([{"selector": "b"}], "its rows"), ([{"a": None, "b": 1}], "a")]
)
def test_tables_of_other_rows_are_no_small_difference(
    pools: tuple[Path, Path], rows: list[dict], where: str
) -> None:
    for run, own in zip(pools, ([{"a": 1, "b": 1}], rows), strict=True):
        write_tables(run, {"fits": own})
    found = compare(*pools)
    assert (found["furthest"], found["where"]) == (math.inf, f"fits.csv: {where}")


def test_winners_are_compared_by_their_tokens_where_both_have_one(tmp_path: Path) -> None:
    folders = []
    for name, hashes in (("again", "abcd"), ("kept", "abxd")):
        with Run(tmp_path / name, "benchmark", {"script": "benchmark"}, {}) as run:
            for number, tokens in enumerate(hashes):
                status = "failed" if (name, number) == ("kept", 3) else "ok"
                record = {**search_key("sbs"), "prompt_id": f"p{number}", "status": status}
                run.append(record | {"winner": {"tokens_sha256": tokens}})
        folders.append(run.folder)
    found = compare(*folders)
    assert (found["same"], found["clips"]) == (2, 3)


def test_the_command_prints_a_line_a_run_and_what_it_has_nothing_to_hold_against(
    pools: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = pools
    shutil.copytree(folder, folder.parent / "another run")
    assert main([str(folder.parent), str(other.parent)]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[:4] == [folder.name, "12", "of", "12"]
    assert lines[2] == f"another run: {other.parent} has no run of the same settings."
