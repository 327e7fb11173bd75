"""What a run is said to show: selectors and judges apart, and no claim that does not follow."""

import csv
import json
import re
from pathlib import Path

import pytest

from src.report import Measure, findings, summarise, text_table, write_summary
from src.stats import Interval
from tests.generator.made_up_run import made_up_run


def test_rows_are_methods_and_columns_measures_with_their_roles_and_directions(
    tmp_path: Path,
) -> None:
    header, roles, *rest = text_table(summarise(made_up_run(tmp_path))).splitlines()[2:]
    assert re.split(r"\s{2,}", header.strip()) == [
        *("tags ↑", "msd_kld ↓", "mtt_vgg ↑", "frames", "clips", "seconds"),
    ]
    assert roles.split("  ")[0] == ""
    assert "own verifier (selector)" in roles
    assert "primary judge" in roles
    rows = [line.split()[0] for line in rest if re.match(r"[a-z_]+ +-?\d", line)]
    assert rows == ["baseline", "best_of_n", "sbs"]


def test_differences_are_paired_by_prompt_with_intervals(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path))
    cell, base = summary.cells["best_of_n", "tags"], summary.cells["baseline", "tags"]
    assert cell.difference is not None
    assert cell.difference.mean == pytest.approx(cell.mean - base.mean)
    # the prompts' own levels spread by 1, which an unpaired interval would show
    assert cell.difference.high - cell.difference.low < 0.5
    assert base.difference is None


def test_a_judge_that_agrees_and_one_that_does_not_follow_are_both_said(tmp_path: Path) -> None:
    lines = "\n".join(findings(summarise(made_up_run(tmp_path))))
    assert re.search(
        r"best_of_n beats .* tags, which chose its clips; and .* agrees: better", lines
    )
    assert re.search(
        r"sbs beats .*; but the judge msd_kld does not follow: .* includes zero", lines
    )
    assert "mtt_vgg: not independent." in lines


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "direction"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "unclear"),
        (0.0, 0.1, True, "unclear"),
    ],
)
def test_an_interval_counts_by_its_side_of_zero_and_the_measures_direction(
    low: float, high: float, higher_is_better: bool, direction: str
) -> None:
    measure = Measure("m", "judge", higher_is_better)
    assert measure.direction(Interval((low + high) / 2, low, high)) == direction


def test_without_a_baseline_there_are_no_differences_and_that_is_said(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, methods=("best_of_n", "sbs")))
    assert all(cell.difference is None for cell in summary.cells.values())
    assert "baseline is not among the methods" in text_table(summary)


def test_without_judges_the_selectors_number_is_called_no_evidence(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, judged=False)))
    assert "tags chose these clips and no judge was asked" in text


def test_one_prompt_has_no_intervals_and_that_is_said(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, prompts=1)))
    assert "No intervals are given: they need 2 finished prompts or more." in text
    assert "[" not in text


def test_intervals_over_few_prompts_are_called_so(tmp_path: Path) -> None:
    few = text_table(summarise(made_up_run(tmp_path, prompts=5)))
    assert "5 prompts are too few to rely on these intervals." in few
    assert "too few" not in text_table(summarise(made_up_run(tmp_path)))


def test_a_run_without_a_finished_prompt_is_reported_too(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, prompts=0, failed=2)))
    assert "No prompt is finished." in text
    assert "sbs f0: tags: names no tag" in text


def test_failed_prompts_are_counted_and_shown_with_their_reason(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, failed=7))
    assert len(summary.failed) == 7
    assert len(summary.cells["sbs", "tags"].values) == 16
    text = text_table(summary)
    assert "Failed: 7" in text
    assert "sbs f0: tags: names no tag" in text


def test_a_clip_without_a_number_is_left_out_of_that_measure_and_counted(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["judges"]["mtt_vgg"]
        record["unjudged"] = {"mtt_vgg": "names no tag"}
    del records[1]["judges"]["msd_kld"]
    records[1]["unjudged"]["msd_kld"] = "no reference"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = summarise(folder)
    text = text_table(summary)
    assert "mtt_vgg: no number for 48 clip(s): names no tag" in text
    assert "msd_kld: no number for 1 clip(s): no reference" in text
    assert summary.cells["best_of_n", "mtt_vgg"].mean is None
    assert len(summary.cells["best_of_n", "msd_kld"].paired) == 15
    write_summary(summary, tmp_path / "summary.csv")
    assert (
        "best_of_n,mtt_vgg,judge,True,0,,,,,,2000,8,2.500" in (tmp_path / "summary.csv").read_text()
    )


def test_cost_is_per_prompt_and_leaves_out_judging(tmp_path: Path) -> None:
    cost = summarise(made_up_run(tmp_path)).costs["sbs"]
    assert (cost.frames, cost.clips, cost.seconds) == (2000, 24, 2.5)


def test_the_csv_has_the_tables_numbers_and_is_the_same_each_time(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    write_summary(summarise(folder), tmp_path / "one.csv")
    write_summary(summarise(folder), tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    with (tmp_path / "one.csv").open() as file:
        rows = {(row["method"], row["measure"]): row for row in csv.DictReader(file)}
    assert len(rows) == 9
    row = rows["best_of_n", "msd_kld"]
    cell = summarise(folder).cells["best_of_n", "msd_kld"]
    assert cell.difference is not None
    assert float(row["difference"]) == pytest.approx(cell.difference.mean, rel=1e-5)
    assert (row["role"], row["higher_is_better"], row["prompts"]) == (
        "primary judge",
        "False",
        "16",
    )
    assert rows["baseline", "tags"]["difference"] == ""
