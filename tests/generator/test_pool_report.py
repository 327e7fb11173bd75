"""The report of pools and sweeps: CSV files, figures and text, from records alone."""

import csv
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from src.reports.__main__ import main
from src.reports.figure import DIGEST_KEY, POOL_DIGEST_KEY
from src.reports.pool import pool_text, report
from src.reports.pool_study import study_pool
from src.reports.sweep import sweep_text
from src.reports.sweep_study import study_sweep
from src.runs.ending import Exit
from src.runs.pool import Pool, load_pool
from src.runs.records import records_digest
from tests.generator.made_up_pool import FLAT, MEASURES, made_up_pool, made_up_sweep

SNAPSHOTS = Path(__file__).parent / "snapshots"
BUDGETS = (1, 2, 4, 8)
FIGURES = ("scaling", "matrix", "selectors", "agreement", "transfer", "prefix")
SUMS = ("tags+noise", "0.2*tags+noise")


class Made:
    """A pool, a sweep, and the report of both."""

    def __init__(self, folder: Path) -> None:
        self.pool: Pool = load_pool(made_up_pool(folder, refused={"kin": (3, 4)}), SUMS)
        self.sweep = made_up_sweep(folder)
        self.output = folder / "report"
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.text = report(self.pool, [self.sweep], BUDGETS, self.output)

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.output / f"{name}.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


def test_the_texts_are_those_of_the_snapshots(made: Made) -> None:
    of_pool, of_sweep = (SNAPSHOTS / f"{name}.txt" for name in ("pool", "sweep"))
    assert made.text == "\n\n".join(path.read_text().rstrip("\n") for path in (of_pool, of_sweep))
    assert max(map(len, made.text.splitlines())) <= 100


def test_tables_have_a_row_for_each_that_can_be_compared_and_a_verdict(made: Made) -> None:
    measures, sums = 7, 2
    pairs = 3 * measures + sums * (measures + 1)  # a sum is measured by itself alone
    counts = {
        **{"scaling": pairs * 4, "matrix": pairs, "fits": pairs, "transfer": pairs * 3},
        "agreement": measures * (measures - 1) / 2,
        "prefix": 5 * (3 * 5 + 4),  # itself and 4 judges; whole: the judges
        "selectors": 4 * 3 * (5 * 4 / 2),  # judges, N over 1, two selectors
        "cost": 2 * (4 + 3),
    }
    assert {name: len(made.rows(name)) for name in counts} == counts
    verdicts = {row["verdict"] for name in counts for row in made.rows(name)}
    assert verdicts == {"better", "worse", "unclear", "not independent", ""}
    relations = {
        (row["selector"], row["measure"]): row["relation"]
        for row in made.rows("matrix")
        if row["selector"] in SUMS and row["relation"]
    }
    own = {(s, m): "own" for s in SUMS for m in (s, "again", "tags", "noise")}
    assert relations == own | {(s, "kin"): "shares data" for s in SUMS}


def test_every_png_carries_the_digest_of_the_records_it_shows(made: Made) -> None:
    for name in (*FIGURES, "cost"):
        with Image.open(made.output / f"{name}.png") as image:
            marks = image.text  # type: ignore[attr-defined]
        of_cost = name == "cost"
        assert marks[DIGEST_KEY] == records_digest(made.sweep if of_cost else made.pool.folder)
        assert marks.get(POOL_DIGEST_KEY) == (records_digest(made.pool.folder) if of_cost else None)


def test_the_same_records_give_the_same_files_from_the_command_line(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(made.pool.folder), "--sweep", str(made.sweep)]
    budgets = ["--budgets", *map(str, BUDGETS)]
    assert main([*folders, *budgets, "--sums", *SUMS, "--output", str(tmp_path)]) == Exit.DONE
    assert capsys.readouterr().out == made.text + "\n"
    names = sorted(path.name for path in made.output.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 15
    for name in names:
        assert (tmp_path / name).read_bytes() == (made.output / name).read_bytes(), name


def test_sums_of_what_a_pool_does_not_have_are_refused_in_a_sentence(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(made.pool.folder), "--sums", "tags+clap"]) == Exit.FOLDER
    assert "has no verifier 'clap'; it has perplexity, tags" in capsys.readouterr().err


def test_more_budgets_than_fit_leave_out_those_in_the_middle(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=3, size=18))
    text = pool_text(study_pool(pool, range(1, 20)))
    assert max(map(len, text.splitlines())) <= 100
    header = next(line for line in text.splitlines() if line.startswith("selector"))
    shown = [word for word in header.split() if word.startswith("N=")]
    assert (shown[0], shown[-1]) == ("N=1", "N=18")
    assert "N=4" not in shown
    assert "N = 19 is left out: the pool has 18 candidates" in text
    assert "A pool of 18 is small for N = 18" in text
    assert "3 prompts are too few" in text


def test_a_wide_table_of_costs_gives_up_intervals_rather_than_columns(made: Made) -> None:
    study = study_sweep(made.sweep, made.pool, BUDGETS)
    narrow = sweep_text(study)
    rows = [{**row, "mean": row["mean"] / 100, "n": 1000 * row["n"]} for row in study.rows]
    wide = sweep_text(replace(study, rows=rows))
    assert max(map(len, wide.splitlines())) <= 100
    assert wide.count("[") < narrow.count("[")


def test_a_judge_is_not_praised_where_there_is_none(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=4, measures=("tags", "noise")))
    text = " ".join(report(pool, [], BUDGETS, tmp_path / "o").split())
    assert "No judge has scored this pool" in text
    assert (tmp_path / "o" / "transfer.png").stat().st_size > 5_000


@pytest.mark.parametrize(
    "kind",
    [
        {"prompts": 1},
        {"prompts": 2, "size": 1},
        {"measures": (*MEASURES, *FLAT), "prompts": 4},
        {"measures": (), "prompts": 3},
        {"prompts": 4, "refused": {"copy": (0, 1, 2, 3), "tags": (0, 1, 2)}},
    ],
    ids=["one prompt", "one candidate", "constant", "perplexity alone", "nearly all refused"],
)
def test_poor_pools_are_reported_without_warnings(tmp_path: Path, kind: dict) -> None:
    pool = load_pool(made_up_pool(tmp_path, **kind))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = report(pool, [], BUDGETS, tmp_path / "o")
    assert "nan" not in text
    constant = "flat gives all clips of a prompt the same score: it selects nothing."
    assert (constant in text) == ("flat" in pool.measures)
    for path in (tmp_path / "o").glob("*.csv"):
        assert "nan" not in path.read_text()
        assert "inf" not in path.read_text()
