"""The report of pools and sweeps: CSV files, text and figures, and what these draw and mark."""

import csv
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image

from src.cells import SearchCell
from src.methods import colour_of
from src.reports.__main__ import main
from src.reports.figure import DIGEST_KEY, POOL_DIGEST_KEY
from src.reports.pool import in_brief, pool_text, report
from src.reports.pool_figures import (
    OWN,
    matrix_figure,
    prefix_figure,
    scaling_figure,
    selectors_figure,
    transfer_figure,
)
from src.reports.pool_study import Study, study_pool
from src.reports.sweep import cost_figure
from src.reports.sweep_study import study_sweep
from src.runs.ending import Exit
from src.runs.measures import Measure
from src.runs.pool import Pool, load_pool
from src.runs.records import records_digest
from src.stats.best_of_n import expected_maximum
from tests.generator.made_up_pool import CELLS, MEASURES, MORE, made_up_pool, made_up_sweep

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
    # A sum is measured by itself alone, perplexity by its logarithm too.
    pairs = 3 * measures + 1 + sums * (measures + 1)
    counts = {
        **{"scaling": pairs * 4, "matrix": pairs, "fits": pairs, "transfer": pairs * 3},
        "agreement": measures * (measures - 1) / 2,
        "prefix": 5 * (3 * 5 + 4),  # itself and 4 judges; whole: the judges
        "selectors": 4 * 3 * (5 * 4 / 2),  # judges, N over 1, two selectors
        "cost": 2 * (4 + 3),
    }
    assert {name: len(made.rows(name)) for name in counts} == counts
    verdicts = {r["verdict"] for name in ("matrix", "selectors", "cost") for r in made.rows(name)}
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


def test_the_text_has_the_first_and_the_largest_budgets_and_warns_of_small_pools(
    tmp_path: Path,
) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=3, size=18))
    text = pool_text(study_pool(pool, range(1, 20)))
    assert max(map(len, text.splitlines())) <= 100
    header = next(line for line in text.splitlines() if line.startswith("selector"))
    assert header.split()[2:6] == ["N=1", "N=16", "N=17", "N=18"]
    assert "N = 19 is left out: the pool has 18 candidates" in text
    assert "A pool of 18 is small for N = 18" in text
    assert "3 prompts are too few" in text


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
        {"measures": (*MEASURES, *MORE), "prompts": 4},
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


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool")))


@pytest.fixture(scope="module")
def study(pool: Pool) -> Study:
    return study_pool(pool, BUDGETS)


def test_scaling_is_spaced_by_the_expected_maximum_better_up_and_own_lines_dashed(
    study: Study,
) -> None:
    panels = {ax.get_title().split()[0]: ax for ax in scaling_figure(study).axes}
    assert list(panels) == list(study.measures)
    assert list(panels["copy"].get_xticks()) == [expected_maximum(n) for n in BUDGETS]
    labels = [label.get_text() for label in panels["copy"].get_xticklabels()]
    assert labels == ["1", "2", "4", "8"]
    assert [name for name, ax in panels.items() if ax.yaxis_inverted()] == ["copy"]
    styles = {name: [line.get_linestyle() for line in ax.lines[::2]] for name, ax in panels.items()}
    assert styles["copy"] == ["-", "-", "-"]
    assert styles["tags"] == styles["again"] == ["-", "--", "-"]
    assert styles["kin"] == ["-", ":", "-"]


def test_own_cells_of_the_matrix_are_grey_and_those_of_shared_data_hatched(study: Study) -> None:
    (ax, *_) = matrix_figure(study).axes
    cells = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    grey = {
        (study.selectors[int(cell.get_y())], list(study.measures)[int(cell.get_x())])
        for cell in cells
        if not cell.get_hatch() and to_hex(cell.get_facecolor()).upper() == OWN
    }
    own = study.rows("matrix", relation="own")
    assert grey == {(row["selector"], row["measure"]) for row in own}
    (hatched,) = (cell for cell in cells if cell.get_hatch())
    assert (hatched.get_x(), hatched.get_y()) == (2, 1)  # kin of tags
    (copied,) = study.rows("matrix", selector="tags", measure="copy")
    assert f"{copied['gain_sd']:+.2f}" in {text.get_text() for text in ax.texts}


def test_transfer_is_drawn_against_n_and_against_the_root_of_kl(study: Study) -> None:
    axes = transfer_figure(study).axes
    assert len(axes) == 2 * len(study.selectors)
    of_tags = next(ax for ax in axes if ax.get_title() == "selector tags")
    assert len(of_tags.containers) == 3  # copy, turning, kin; not its own number


def test_prefixes_are_drawn_for_the_verifier_and_every_judge(study: Study) -> None:
    axes = prefix_figure(study).axes
    assert len(axes) == 1 + len(study.judges)
    assert all(len(ax.containers) == len(study.selectors) for ax in axes)
    assert len({ax.get_ylim() for ax in axes}) == 1


def test_gains_by_judge_show_sums_and_leave_own_numbers_out(pool: Pool) -> None:
    with_sum = study_pool(load_pool(pool.folder, ["tags+noise"]), BUDGETS)
    axes = selectors_figure(with_sum).axes
    drawn = {ax.get_title().split()[0]: len(ax.containers) for ax in axes}
    assert drawn == {"copy": 4, "turning": 4, "kin": 4, "again": 2}
    labels = [label.get_text() for label in axes[0].get_yticklabels()]
    assert labels == ["perplexity", "tags", "noise", "tags+noise"]
    assert len({ax.get_xlim() for ax in axes}) == 1


def test_costs_are_drawn_against_frames_and_seconds_better_up(pool: Pool, tmp_path: Path) -> None:
    cells = CELLS | {SearchCell("annealing", 4): (1.2, 1.2, 1200, 5.0)}
    axes = cost_figure(study_sweep(made_up_sweep(tmp_path, cells=cells), pool, BUDGETS)).axes
    assert [ax.get_xlabel() for ax in axes if ax.get_xlabel()] == [
        "frames generated per prompt",
        "seconds per prompt",
    ]
    assert sorted(ax.yaxis_inverted() for ax in axes) == [False, False, True, True]
    assert all(len(ax.containers) == 4 + 3 + 1 for ax in axes)
    assert len([ax for ax in axes if ax.patch.get_hatch()]) == 2  # by the selector's own number
    drawn = {to_hex(bars.lines[0].get_color()).upper() for bars in axes[0].containers}
    methods = ("baseline", "best_of_n", "sbs", "lookahead", "annealing")  # the last unregistered
    assert drawn == {colour_of(method).upper() for method in methods}


def test_figures_are_as_wide_as_two_columns_at_most(study: Study) -> None:
    for draw in (scaling_figure, transfer_figure, prefix_figure, selectors_figure):
        figure = draw(study)
        assert figure.get_size_inches()[0] <= 7.0
        sizes = {label.get_fontsize() for ax in figure.axes for label in ax.get_xticklabels()}
        assert sizes == {7.0}


@pytest.mark.parametrize(
    ("judged", "said"),
    [
        ({"first": "ab", "other": "a"}, "by first of all 2 selectors; by other judges of 1 pair"),
        ({"first": "b", "other": ""}, "by first of b"),
        ({"first": "", "other": "ab"}, "by other judges of 2 pairs"),
    ],
)
def test_pairs_are_named_by_the_primary_judge_and_counted_by_others(
    study: Study, judged: dict[str, str], said: str
) -> None:
    of = [{"measure": m, "selector": s} for m in judged for s in "ab"]
    found = [row for row in of if row["selector"] in judged[row["measure"]]]
    measures = {"first": Measure("first", "primary judge"), "other": Measure("other", "judge")}
    assert in_brief(replace(study, measures=measures), found, of) == said
