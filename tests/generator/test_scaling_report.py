"""The report of pools and sweeps: CSV files, figures and text, from records alone."""

import csv
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from src.reports.benchmark_figure import DIGEST_KEY
from src.reports.cost_study import cost_study
from src.reports.cost_text import cost_text
from src.reports.pool_report import POOL_DIGEST_KEY, main, report
from src.reports.pool_study import Study, study_pool
from src.reports.pool_text import findings, study_text
from src.runs.pool import Pool, load_pool
from src.runs.records import records_digest
from tests.generator.made_up_pool import FLAT, MEASURES, made_up_pool, made_up_sweep

BUDGETS = (1, 2, 4, 8)
POOL_FIGURES = ("scaling", "matrix", "selectors", "agreement", "transfer", "prefix")
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
        self.sentences = " ".join(self.text.split())

    def rows(self, name: str) -> list[dict[str, str]]:
        return read(self.output / f"{name}.csv")


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def study(made: Made) -> Study:
    return study_pool(made.pool, BUDGETS)


def test_the_csv_files_have_a_row_for_every_number(made: Made) -> None:
    measures, sums = 7, 2
    pairs = 3 * measures + sums * (measures + 1)  # a sum is measured by itself alone
    assert len(made.rows("scaling")) == pairs * 4
    assert len(made.rows("matrix")) == len(made.rows("fits")) == pairs
    assert len(made.rows("agreement")) == measures * (measures - 1) / 2
    assert len(made.rows("transfer")) == pairs * 3
    assert len(made.rows("prefix")) == 5 * (3 * 5 + 4)  # itself and 4 judges; whole: the judges
    assert len(made.rows("selectors")) == 4 * 3 * (5 * 4 / 2)  # judges, N over 1, two selectors
    assert len(made.rows("cost")) == 2 * (4 + 3)


def test_the_numbers_in_the_csv_are_those_of_the_study(made: Made, study: Study) -> None:
    for row in made.rows("scaling"):
        pair = study.pairs[row["selector"], row["measure"]]
        point = next(p for p in pair.points if p.n == int(row["n"]))
        found = [float(row[key]) for key in ("mean", "gain", "low", "high")]
        assert found == pytest.approx([point.mean, *point.gain], rel=1e-5, abs=1e-9)
        assert row["own"] == str(pair.relation == "own")
        assert int(row["prompts"]) == len(pair.prompts)
    for row in made.rows("fits"):
        fitted = study.pairs[row["selector"], row["measure"]].fit
        assert fitted is not None
        assert float(row["r2"]) == pytest.approx(fitted.r2, rel=1e-5)


def test_own_cells_and_shared_data_are_marked_in_the_csv(made: Made) -> None:
    rows = made.rows("matrix")
    own = {(r["selector"], r["measure"]) for r in rows if r["own"] == "True"}
    parts = {(s, m) for s in SUMS for m in (s, "again", "tags", "noise")}
    alone = {(s, s) for s in ("perplexity", "tags", "noise")}
    assert own == {("tags", "again"), *alone, *parts}
    assert [(r["selector"], r["measure"]) for r in rows if r["shares_data"] == "True"] == [
        (s, "kin") for s in ("tags", *SUMS)
    ]
    signs = {(r["selector"], r["measure"]): float(r["gain_sd"]) for r in rows}
    assert signs["tags", "copy"] == pytest.approx(signs["tags", "tags"])  # less is better
    assert {r["prompts"] for r in rows if r["measure"] == "kin"} == {"10"}


def test_every_png_carries_the_digest_of_the_records_it_shows(made: Made) -> None:
    for name in POOL_FIGURES:
        with Image.open(made.output / f"{name}.png") as image:
            assert image.text[DIGEST_KEY] == records_digest(made.pool.folder)  # type: ignore[attr-defined]
    with Image.open(made.output / "cost.png") as image:
        text = image.text  # type: ignore[attr-defined]
    assert text[DIGEST_KEY] == records_digest(made.sweep)
    assert text[POOL_DIGEST_KEY] == records_digest(made.pool.folder)


def test_the_same_records_give_the_same_files_from_the_command_line(
    made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [str(made.pool.folder), "--sweep", str(made.sweep)]
    budgets = ["--budgets", *map(str, BUDGETS)]
    assert main([*folders, *budgets, "--sums", *SUMS, "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out == made.text + "\n"
    names = sorted(path.name for path in made.output.iterdir())
    assert names == sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 15
    for name in names:
        assert (tmp_path / name).read_bytes() == (made.output / name).read_bytes(), name


def test_the_text_fits_and_says_what_follows_and_what_does_not(made: Made) -> None:
    assert max(map(len, made.text.splitlines())) <= 100
    text = made.sentences
    assert "and the judge copy follows: +1." in text
    assert "noise: best-of-8 gains" in text
    assert "but the judge copy does not follow, its interval includes zero" in text
    assert "independent of copy, perplexity serves it best at equal frames, +1." in text
    assert "clearly better than tags+noise, 0.2*tags+noise, noise; not clearly better than" in text
    assert "tags+noise by copy, paired, in its unit, positive where better: -0." in text
    assert "tags to turning -" in text
    assert "More search does harm: what tags selects is best by turning at N = 2" in text
    assert "Most alike within prompts: " in text
    assert "kin: no numbers for 2 of 12 prompts" in text
    assert "tags: a beam search could start to prune at 4 s" in text
    assert "Own number: the measure is the selector's, no evidence." in text
    assert sum(line.endswith("  own number") for line in made.text.splitlines()) == 4 + 2 * 3
    assert sum(line.endswith("  shares data") for line in made.text.splitlines()) == 3
    assert (
        "sbs by copy: clearly better than best-of-n with as many frames in 1 of 2 settings, "
        "clearly worse in 1." in text
    )


def test_more_budgets_than_fit_leave_out_those_in_the_middle(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=3, size=18))
    text = study_text(study_pool(pool, range(1, 20)))
    assert max(map(len, text.splitlines())) <= 100
    header = next(line for line in text.splitlines() if line.startswith("selector"))
    assert "N=1 " in header
    assert "N=18" in header
    assert "N=4 " not in header
    assert "N = 19 is left out: the pool has 18 candidates" in text
    assert "A pool of 18 is small for N = 18" in text
    assert "3 prompts are too few" in text


def test_a_wide_table_of_costs_gives_up_intervals_rather_than_columns(made: Made) -> None:
    costs = cost_study(made.pool, made.sweep, BUDGETS)
    narrow = cost_text(costs)
    small = tuple(
        replace(p, mean=p.mean / 100, cell=p.cell._replace(n=4 * p.cell.n)) for p in costs.points
    )
    wide = cost_text(replace(costs, points=small))
    assert max(map(len, narrow.splitlines())) <= 100
    assert max(map(len, wide.splitlines())) <= 100
    assert wide.count("[") < narrow.count("[")


def test_a_judge_is_not_praised_where_there_is_none(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=4, measures=("tags", "noise")))
    text = " ".join(report(pool, [], BUDGETS, tmp_path / "o").split())
    assert "No judge has scored this pool" in text
    assert "no independent judge has numbers for it" in text
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
    for path in (tmp_path / "o").glob("*.csv"):
        assert "nan" not in path.read_text()
        assert "inf" not in path.read_text()


def test_a_pool_of_constant_scores_says_so(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=4, measures=("tags", "copy", "flat")))
    text = " ".join(findings(study_pool(pool, BUDGETS)))
    assert "flat gives all clips of a prompt the same score: it selects nothing." in text
    assert "No transfer for flat to copy: the selector's own gain is not clearly above" in text


def test_reporting_needs_no_torch(made: Made, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from src.reports.pool_report import main;"
        f"main(['--sweep', {str(made.sweep)!r}, '--output', {str(tmp_path)!r}]);"
        "from src.runs.pool import load_pool; from src.reports.pool_study import study_pool;"
        f"study_pool(load_pool(Path({str(made.pool.folder)!r})), [2]);"
        "sys.exit('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert result.returncode == 0, result.stderr


def test_a_folder_that_is_no_pool_is_an_error_for_people(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(tmp_path)])
    assert stopped.value.code == 5
    assert "manifest.json" in capsys.readouterr().err
