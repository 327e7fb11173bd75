"""What is said of a latency run: ratios, equals, tables and CSV files, from records."""

import csv
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from src.budget import STAGES
from src.experiments.latency_settings import Cell
from src.reports.latency_figures import save_figures
from src.reports.latency_findings import findings, verdict
from src.reports.latency_summary import summarise
from src.reports.latency_tables import text_table, write_csvs
from tests.generator.made_up_latency import CELLS, made_up_latency, noisy, per_frame

BEST, SBS, AHEAD = Cell("best_of_n", 8), Cell("sbs", 8, 4), Cell("lookahead", 8, 4, 1)


def sentences(folder: Path) -> str:
    return "\n".join(findings(summarise(folder)))


def test_costs_are_exact_multiples_in_frames_and_clips(tmp_path: Path) -> None:
    beside = summarise(made_up_latency(tmp_path)).comparisons
    # Four steps of a second: rollouts of the first three.
    assert (beside[AHEAD].claimed, beside[AHEAD].frames, beside[AHEAD].clips) == (2, 1.75, 4)
    assert (beside[SBS].claimed, beside[SBS].frames, beside[SBS].clips) == (1, 1, 4)
    assert (beside[BEST].claimed, beside[BEST].frames, beside[BEST].clips) == (8, 8, 8)
    assert beside[AHEAD].against == beside[SBS].against == BEST
    assert beside[BEST].against == Cell("baseline", 1)
    assert len(beside) == len(CELLS) - 1


def test_seconds_are_medians_and_their_ratios(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path))
    assert found.cells[BEST].median == 16.5
    assert found.cells[AHEAD].real_time_factor == pytest.approx(28.5 / 4)
    assert found.comparisons[AHEAD].seconds == pytest.approx([28.5 / 16.5] * 3)
    assert found.comparisons[BEST].seconds == pytest.approx([16.5 / 2.5] * 3)


def test_a_repetitions_drift_widens_medians_but_not_ratios(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path, noisy, repetitions=7))
    own, ratio = found.cells[SBS].interval, found.comparisons[SBS].seconds
    assert own.high / own.low > 1.2
    assert ratio.high / ratio.low < 1.05
    assert ratio.low < 1 < ratio.high
    assert verdict(found.comparisons[SBS]) == "as frames"


def test_a_fixed_cost_makes_seconds_grow_less_than_frames(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path))
    assert verdict(found.comparisons[BEST]) == "below frames"
    slow = made_up_latency(
        tmp_path / "slow", lambda c, r, p: per_frame(c, r, p) * (2 if c.method == "sbs" else 1)
    )
    assert verdict(summarise(slow).comparisons[SBS]) == "above frames"


def test_the_line_over_frames_tells_the_fixed_cost(tmp_path: Path) -> None:
    lines = summarise(made_up_latency(tmp_path, noisy)).lines
    assert set(lines) == {"best_of_n", "sbs", "lookahead"}
    assert lines["best_of_n"].cells == 4  # the baseline is its N = 1
    for line in lines.values():
        assert line.worst < 0.1
        assert line.fixed.low < 0.5 * 1.3 < line.fixed.high
        assert line.per_frame.low < 0.01 * 1.3 < line.per_frame.high


def test_equal_frames_and_equal_seconds_are_interpolated_between_the_n_measured(
    tmp_path: Path,
) -> None:
    equals = summarise(made_up_latency(tmp_path)).equals
    # 2,800 frames are those of 14 clips of 200 frames; with the same fixed cost, in the same time.
    assert equals[AHEAD].frames_n == 14
    assert equals[AHEAD].frames_seconds == pytest.approx([1, 1, 1])
    assert equals[AHEAD].seconds_n == pytest.approx([14, 14, 14])
    assert equals[SBS].seconds_n == pytest.approx([8, 8, 8])


def test_nothing_is_extrapolated(tmp_path: Path) -> None:
    folder = made_up_latency(tmp_path)
    largest = summarise(folder).equals[Cell("lookahead", 16, 4, 1)]
    assert largest.frames_n == 28
    assert largest.frames_seconds is None
    assert largest.seconds_n is None
    rows = [s for s in text_table(summarise(folder)).splitlines() if s.startswith("lookahead n=16")]
    (row,) = [row for row in rows if "not measured" in row]
    assert row.split()[4] == "28.0"
    assert row.count("not measured") == 2


def test_the_stages_of_a_cell_sum_to_its_median(tmp_path: Path) -> None:
    for own in summarise(made_up_latency(tmp_path, noisy)).cells.values():
        assert sum(own.stages.values()) == pytest.approx(own.median)
        assert own.stages["decode"] == pytest.approx(0.9 * own.median)
        assert own.stages["other"] == pytest.approx(0.05 * own.median)


def test_the_seconds_of_a_group_are_shared_by_its_prompts(tmp_path: Path) -> None:
    def grouped(record: dict[str, Any]) -> dict[str, Any]:
        return record | {"group": 3, "wall_seconds": 3 * record["wall_seconds"]}

    found = summarise(made_up_latency(tmp_path, change=grouped))
    assert found.cells[BEST].median == 16.5
    assert found.cells[BEST].stages["decode"] == pytest.approx(0.9 * 16.5)


def test_a_search_that_cost_something_else_than_its_plan_is_reported(tmp_path: Path) -> None:
    def one_frame_more(record: dict[str, Any]) -> dict[str, Any]:
        if record["method"] == "sbs n=8 m=4 rep=2" and record["prompt_id"] == "p1":
            record["ledger"]["frames"] += 1
        return record

    assert "each of 150 searches cost exactly" in sentences(made_up_latency(tmp_path))
    said = sentences(made_up_latency(tmp_path / "off", change=one_frame_more))
    assert "1 searches did not cost" in said
    assert "sbs n=8 m=4 rep=2 on p1: a defect" in said


def test_a_failed_prompt_is_left_out_everywhere_and_named(tmp_path: Path) -> None:
    def fails(record: dict[str, Any]) -> dict[str, Any]:
        if record["method"] == "sbs n=8 m=4 rep=2" and record["prompt_id"] == "p1":
            return record | {"status": "failed", "reason": "tags: names no tag"}
        return record

    folder = made_up_latency(tmp_path, change=fails)
    found = summarise(folder)
    assert found.prompts == ("p0", "p2")
    assert {own.seconds.shape for own in found.cells.values()} == {(5, 2)}
    assert "Left out everywhere, since they failed: p1. The first: tags" in sentences(folder)


def test_an_unfinished_repetition_is_left_out(tmp_path: Path) -> None:
    def until(record: dict[str, Any]) -> dict[str, Any] | None:
        return None if record["method"] == "lookahead n=8 m=4 k=1 rep=5" else record

    folder = made_up_latency(tmp_path, change=until)
    assert summarise(folder).repetitions == (1, 2, 3, 4)
    assert "unfinished: repetition 5" in sentences(folder)


def test_a_run_without_a_whole_repetition_says_so(tmp_path: Path) -> None:
    folder = made_up_latency(
        tmp_path, change=lambda r: None if r["method"].startswith("sbs n=8") else r
    )
    found = summarise(folder)
    assert "No repetition is finished." in text_table(found)
    write_csvs(found, folder)
    assert len((folder / "summary.csv").read_text().splitlines()) == 1


def test_repetitions_that_chose_different_clips_are_named(tmp_path: Path) -> None:
    def changes(record: dict[str, Any]) -> dict[str, Any]:
        if record["method"] == "sbs n=8 m=4 rep=2" and record["prompt_id"] == "p1":
            record["winner"]["tokens_sha256"] = "another"
        return record

    assert "same clip" not in sentences(made_up_latency(tmp_path))
    said = sentences(made_up_latency(tmp_path / "other", change=changes))
    assert "did not all choose the same clip: p1 (sbs n=8 m=4)." in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"here": {"load_average": [0.9, 0.5, 0.1]}}, "busy: load average 0.90 before"),
        (
            {"change": lambda r: r | {"load": 3.2}},
            "busy: load average 0.00 before the run, up to 3",
        ),
        ({"skipped": (Cell("sbs", 6, 4),)}, "M does not divide N: sbs n=6 m=4."),
        ({"repetitions": 1}, "One repetition has no spread"),
        ({"repetitions": 3}, "3 repetitions are too few"),
        ({"cells": CELLS[4:]}, "Nothing is compared: best_of_n is not among the methods"),
    ],
)
def test_what_to_know_is_said_where_it_holds_and_only_there(
    tmp_path: Path, kind: dict[str, Any], said: str
) -> None:
    assert said not in sentences(made_up_latency(tmp_path / "plain"))
    assert said in sentences(made_up_latency(tmp_path / "kind", **kind))


def test_a_claim_is_told_from_what_holds_exactly(tmp_path: Path) -> None:
    said = sentences(made_up_latency(tmp_path, noisy))
    assert "N x (k+1) is the claim, 2 times best_of_n's frames" in said
    assert "exactly it is 1.75 times" in said
    assert "holds for seconds at no N." in said
    dear = made_up_latency(
        tmp_path / "dear", lambda c, r, p: noisy(c, r, p) * (1.15 if c.method == "lookahead" else 1)
    )
    # At N = 16 the ratio is 1.15 * 56.5/32.5 = 1.999.
    assert re.search(r"holds for seconds at N = (\d+, )*16\.", sentences(dear))


def test_seconds_that_are_no_line_over_frames_have_no_fixed_cost(tmp_path: Path) -> None:
    flat = made_up_latency(tmp_path, lambda c, r, p: 4.0 if c.candidates == 16 else 1.0)
    assert "sbs: its seconds are not a line over its frames" in sentences(flat)
    assert "s fixed" not in sentences(flat)


def test_the_text_is_at_most_100_columns(tmp_path: Path) -> None:
    cells = (
        Cell("baseline", 1),
        *(
            Cell(m, 32, 4 if m != "best_of_n" else 1, k)
            for m, k in (("best_of_n", 0), ("sbs", 0), ("lookahead", 1))
        ),
    )

    def served(record: dict[str, Any]) -> dict[str, Any]:
        record["ledger"]["uploaded_bytes"] = 123_400_000
        seconds = record["wall_seconds"] / len(STAGES)
        record["ledger"]["seconds"] = dict.fromkeys(STAGES, seconds) | {"wav": 6e-5}
        record["memory"] = {"gpu": None, "resident": 2.1e10, "server": 2.1e10}
        return record

    folder = made_up_latency(
        tmp_path, lambda c, r, p: noisy(c, r, p) / 100, cells=cells, change=served
    )
    lines = text_table(summarise(folder)).splitlines()
    assert max(map(len, lines)) <= 100


def test_the_csvs_hold_what_the_tables_say(tmp_path: Path) -> None:
    folder = made_up_latency(tmp_path)
    write_csvs(summarise(folder), folder)

    def rows(name: str) -> list[dict[str, str]]:
        with (folder / name).open() as file:
            return list(csv.DictReader(file))

    cells = rows("summary.csv")
    assert len(cells) == len(CELLS)
    (own,) = [r for r in cells if (r["method"], r["candidates"]) == ("lookahead", "8")]
    assert (own["frames"], own["clips"], own["seconds"]) == ("2800", "32", "28.5")
    assert float(own["decode_seconds"]) == pytest.approx(0.9 * 28.5)
    assert own["gpu_bytes"] == ""
    assert own["resident_bytes"] == "2000000"
    (cost,) = [r for r in rows("costs.csv") if (r["method"], r["candidates"]) == ("lookahead", "8")]
    assert (cost["against"], cost["claimed_frames"], cost["frames"]) == (
        "best_of_n n=8",
        "2",
        "1.75",
    )
    assert (cost["equal_frames_n"], cost["equal_seconds_n"]) == ("14", "14")
    (beyond,) = [
        r for r in rows("costs.csv") if (r["method"], r["candidates"]) == ("lookahead", "16")
    ]
    assert beyond["equal_seconds_n"] == beyond["equal_frames_seconds"] == ""
    assert float(rows("lines.csv")[0]["fixed_seconds"]) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "kind",
    [
        {"cells": CELLS[:1]},
        {"cells": CELLS[4:]},
        {"repetitions": 1, "prompts": 1},
        {"cells": CELLS[1:2]},
    ],
)
def test_small_runs_are_reported_and_drawn_too(tmp_path: Path, kind: dict[str, Any]) -> None:
    folder = made_up_latency(tmp_path, **kind)
    found = summarise(folder)
    assert "nan" not in text_table(found)
    write_csvs(found, folder)
    assert "nan" not in (folder / "costs.csv").read_text()
    assert all(path.stat().st_size > 5_000 for path in save_figures(folder, found))


def test_without_a_spread_no_verdict_is_given(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path, repetitions=1))
    assert verdict(found.comparisons[SBS]) == "no spread"
    assert math.isnan(found.comparisons[SBS].seconds.low)


def test_reading_a_run_needs_no_torch(tmp_path: Path) -> None:
    folder = made_up_latency(tmp_path)
    code = (
        "import sys; from pathlib import Path; from src.reports.latency_figures "
        "import save_figures;"
        "from src.reports.latency_tables import summarise, text_table;"
        f"f = Path({str(folder)!r}); save_figures(f); text_table(summarise(f));"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
