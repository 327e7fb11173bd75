"""Figures of pools and sweeps: what is drawn, and what is marked as no evidence."""

from pathlib import Path

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from src.methods import SearchCell, colour_of
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
from src.runs.pool import Pool, load_pool
from src.stats.best_of_n import expected_maximum
from tests.generator.made_up_pool import CELLS, made_up_pool, made_up_sweep

BUDGETS = (1, 2, 4, 8)


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
