"""What a latency run's report shows: ratios, equals, lines, tables and figures, from records."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from src.cells import SearchCell
from src.reports.latency import cost_figure, latency_figure, latency_text, report
from src.reports.latency_study import TIMED, Study, study_latency
from src.reports.table import Row
from src.runs.records import Record
from tests.generator.made_up_latency import CELLS, made_up_latency, noisy, per_frame

BEST, SBS, AHEAD = "best_of_n N=8", "sbs N=8 M=4", "lookahead N=8 M=4 k=1"
FAILS = {"status": "failed", "reason": "tags: names no tag"}


def study_of(output: Path, *seconds: Any, **kind: Any) -> Study:
    return study_latency(made_up_latency(output, *seconds, **kind))


def one(rows: Sequence[Row], cell: str) -> Row:
    (found,) = (row for row in rows if row["cell"] == cell)
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Half a second for each search, and a hundredth for each frame."""
    return study_of(tmp_path_factory.mktemp("plain"))


def is_one(record: Record) -> bool:
    """Of one search: sbs with N = 8, its second repetition, p1."""
    key = record["method"], record["cell"]["candidates"], record["repetition"], record["prompt_id"]
    return key == ("sbs", 8, 2, "p1")


def test_costs_are_exact_in_frames_and_clips_and_ratios_of_medians_in_seconds(plain: Study) -> None:
    assert one(plain.cells, BEST)["seconds"] == 16.5
    assert one(plain.cells, AHEAD)["real_time_factor"] == pytest.approx(28.5 / 4)
    assert len(plain.costs) == len(CELLS) - 1
    keys = ("claimed_frames", "frames", "clips", "seconds", "low", "high")
    for cell, against, *expected in (
        (BEST, "baseline", 8, 8, 8, *[16.5 / 2.5] * 3),
        (SBS, BEST, 1, 1, 4, 1, 1, 1),
        # Four steps of a second: rollouts of the first three.
        (AHEAD, BEST, 2, 1.75, 4, *[28.5 / 16.5] * 3),
    ):
        row = one(plain.costs, cell)
        assert row["against"] == against
        assert [row[key] for key in keys] == pytest.approx(expected)


def test_a_repetitions_drift_widens_medians_but_not_ratios(tmp_path: Path) -> None:
    study = study_of(tmp_path, noisy, repetitions=7)
    own, ratio = one(study.cells, SBS), one(study.costs, SBS)
    assert own["high"] / own["low"] > 1.2
    assert ratio["high"] / ratio["low"] < 1.05
    assert ratio["low"] < 1 < ratio["high"]
    assert ratio["verdict"] == "as frames"


def test_seconds_that_grow_less_or_more_than_frames_have_that_verdict(
    plain: Study, tmp_path: Path
) -> None:
    assert one(plain.costs, BEST)["verdict"] == "below frames"  # a fixed cost
    slow = study_of(
        tmp_path / "slow", lambda c, r, p: per_frame(c, r, p) * (2 if c.method == "sbs" else 1)
    )
    assert one(slow.costs, SBS)["verdict"] == "above frames"
    alone = one(study_of(tmp_path / "alone", repetitions=1).costs, SBS)
    assert alone["verdict"] == "no spread"
    assert np.isnan(alone["low"])


def test_the_line_over_frames_tells_the_fixed_cost(tmp_path: Path) -> None:
    lines = {line["method"]: line for line in study_of(tmp_path, noisy).lines}
    assert set(lines) == {"best_of_n", "sbs", "lookahead"}
    assert lines["best_of_n"]["cells"] == 4  # the baseline is its N = 1
    for line in lines.values():
        assert line["verdict"] == "a line"
        assert line["fixed_low"] < 0.5 * 1.3 < line["fixed_high"]
        assert line["per_frame_low"] < 0.01 * 1.3 < line["per_frame_high"]


def test_seconds_that_are_no_line_over_frames_have_no_fixed_cost(tmp_path: Path) -> None:
    flat = study_of(tmp_path, lambda c, r, p: 4.0 if c.candidates == 16 else 1.0)
    (row,) = (x for x in latency_text(flat).splitlines() if x.startswith("sbs") and "line" in x)
    assert row.split()[1:3] == ["-", "-"]
    assert row.endswith("no line")


def test_equal_frames_and_seconds_are_interpolated_between_the_n_measured(plain: Study) -> None:
    rows = plain.costs
    # 2,800 frames are those of 14 clips of 200 frames; with the same fixed cost, in the same time.
    assert one(rows, AHEAD)["equal_frames_n"] == 14
    for name, key, expected in (
        (AHEAD, "equal_frames_seconds", 1),
        (AHEAD, "equal_seconds_n", 14),
        (SBS, "equal_seconds_n", 8),
    ):
        ends = [f"{key.rpartition('_')[0]}_{end}" for end in ("low", "high")]
        assert [one(rows, name)[k] for k in (key, *ends)] == pytest.approx([expected] * 3)


def test_nothing_is_extrapolated(plain: Study) -> None:
    largest = one(plain.costs, "lookahead N=16 M=4 k=1")
    assert largest["equal_frames_n"] == 28
    assert largest["equal_frames_seconds"] is largest["equal_seconds_n"] is None
    rows = [row.split() for row in latency_text(plain).splitlines()]
    assert ["lookahead", "N=16", "M=4", "k=1", "28.0", "-", "-"] in rows


def test_an_n_of_equal_seconds_of_which_a_part_was_not_measured_has_no_ends(tmp_path: Path) -> None:
    almost = study_of(
        tmp_path, lambda c, r, p: noisy(c, r, p) * (0.985 if c.method == "sbs" else 1)
    )
    row = one(almost.costs, "sbs N=16 M=4")
    assert 15 < row["equal_seconds_n"] < 16
    assert np.isnan(row["equal_seconds_low"])


@pytest.mark.parametrize("group", [1, 3])
def test_the_stages_of_a_cell_sum_to_its_median_shared_by_the_prompts_of_a_group(
    tmp_path: Path, group: int
) -> None:
    shared = {"group": group}
    study = study_of(
        tmp_path, change=lambda r: r | shared | {"wall_seconds": group * r["wall_seconds"]}
    )
    assert one(study.cells, BEST)["seconds"] == 16.5
    for row in study.cells:
        assert sum(row[f"{stage}_seconds"] for stage in TIMED) == pytest.approx(row["seconds"])
        assert row["decode_seconds"] == pytest.approx(0.9 * row["seconds"])


def test_only_whole_repetitions_and_prompts_that_failed_nowhere_count(tmp_path: Path) -> None:
    study = study_of(tmp_path, change=lambda r: None if is_one(r) else r)
    assert study.repetitions == (1, 3, 4, 5)
    folder = made_up_latency(tmp_path / "failed", change=lambda r: r | FAILS if is_one(r) else r)
    study = study_latency(folder)
    assert study.prompts == ("p0", "p2")
    assert {row["prompts"] for row in study.cells} == {2}
    assert report(folder)[1]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"change": lambda r: r | FAILS if is_one(r) else r}, "they failed: p1. The first: tags"),
        ({"change": lambda r: None if is_one(r) else r}, "unfinished: repetition 2"),
        ({"here": {"load_average": [0.9, 0.5, 0.1]}}, "busy: load average 0.90 before"),
        ({"change": lambda r: r | {"load": 3.2}}, "average 0.00 before the run, up to 3"),
        ({"skipped": [SearchCell("sbs", 6, {"beam_width": 4})]}, "does not divide N: sbs N=6 M=4."),
        ({"repetitions": 1, "prompts": 1}, "No intervals are given: they need 2"),
        ({"repetitions": 3}, "3 repetitions are too few"),
        ({"cells": CELLS[4:]}, "Nothing is compared: best_of_n is not among the methods"),
        ({"change": lambda r: r if r["method"] != "sbs" else None}, "No repetition is finished."),
    ],
)
def test_what_to_know_is_said_where_it_holds_and_only_there(
    tmp_path: Path, plain: Study, kind: dict[str, Any], said: str
) -> None:
    folder = made_up_latency(tmp_path, **kind)
    text, _ = report(folder)
    assert said in text.replace("\n    ", " ")
    assert said not in latency_text(plain).replace("\n    ", " ")
    assert "nan" not in text


@pytest.mark.parametrize("cells", [CELLS[:1], CELLS[1:2]], ids=["baseline", "best_of_n"])
def test_a_single_cell_is_reported_and_drawn_too(
    tmp_path: Path, cells: Sequence[SearchCell]
) -> None:
    folder = made_up_latency(tmp_path, cells=cells)
    assert "nan" not in report(folder)[0]
    assert all((folder / f"{name}.png").stat().st_size > 2_000 for name in ("latency", "cost"))


def test_the_bars_stack_up_to_the_medians(plain: Study) -> None:
    axes = latency_figure(plain).axes
    assert [ax.get_title() for ax in axes] == list(plain.methods)
    for ax in axes:
        own = [row["seconds"] for row in plain.cells if row["method"] == ax.get_title()]
        tops = [bar.get_y() + bar.get_height() for bar in ax.patches][-len(own) :]  # type: ignore[attr-defined]
        assert tops == pytest.approx(own)


def test_the_cost_figure_has_the_table_of_ratios(plain: Study) -> None:
    (table,) = cost_figure(plain).axes[1].tables
    shown = {at: cell.get_text().get_text() for at, cell in table.get_celld().items()}
    assert len({row for row, _ in shown}) == len(plain.costs) + 1
    assert {AHEAD, "1.75"} <= {*shown.values()}
