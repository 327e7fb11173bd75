"""What all reports share: tables, figures, and the commands that write any run's report anew and
compare two sets of runs."""

import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from src.budget import STAGES
from src.methods import METHODS
from src.reports.__main__ import REPORTS, main
from src.reports.figure import DIGEST_KEY, intervals, new_figure, save
from src.reports.pool_study import study_pool
from src.reports.reproduction import compare
from src.reports.reproduction import main as reproduce
from src.reports.table import (
    brackets,
    digits_of,
    ends,
    figures,
    interval_of,
    layout,
    shown,
    write_tables,
)
from src.runs.ending import Exit
from src.runs.pool import load_pool, token_file
from src.runs.records import Record, records_digest, search_key
from src.runs.run import Run
from src.stats.intervals import Interval
from tests.generator.made_up_latency import made_up_latency, noisy
from tests.generator.made_up_pool import made_up_pool
from tests.generator.made_up_run import OWN, SET, UNREAD, listening_run, made_up_run

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOTS = Path(__file__).parent / "snapshots"
ROWS = [
    {"name": "sbs", "value": 1.23456789, "count": 3, "known": True, "low": None},
    {"name": "baseline", "value": math.nan, "count": 30_000, "known": False, "low": -2.0},
]


def test_a_csv_has_six_digits_and_nothing_for_what_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "none.csv").touch()
    write_tables(tmp_path, {"some": ROWS, "none": []})
    assert (tmp_path / "some.csv").read_text().splitlines() == [
        *("name,value,count,known,low", "sbs,1.23457,3,True,", "baseline,,30000,False,-2"),
    ]
    assert not (tmp_path / "none.csv").exists()


def test_text_is_aligned_over_all_groups() -> None:
    texts = [{"": r["name"], "value": shown(r["value"], ".2f")} for r in ROWS]
    assert layout({"one": texts[:1], "other": texts[1:]}) == [
        *("          value", "", "one", "sbs        1.23", "", "other", "baseline      -"),
    ]


def test_numbers_are_written_with_three_figures_and_intervals_in_brackets() -> None:
    assert [figures(x) for x in (0.01234, 1.234, 1234.5, math.nan)] == [
        *("0.0123", "1.23", "1,234", "-"),
    ]
    assert brackets(Interval(0.5, 0.1, math.inf)) == "+0.50 [+0.10, +inf]"
    assert brackets(Interval(0.5, math.nan, math.nan), "+.1f") == "+0.5"
    assert brackets(None) == brackets(Interval(math.nan, 0, 0)) == "-"
    assert [digits_of(x) for x in ([None, 0.0123], [12.3, 0.1], [1234], [])] == [4, 1, 0, 2]


def test_an_interval_comes_back_from_its_columns() -> None:
    found = Interval(1.0, 0.5, 1.5)
    row = ends("gain", found) | ends("loss", None, "loss_")
    assert list(row) == ["gain", "low", "high", "loss", "loss_low", "loss_high"]
    assert interval_of(row, "gain") == found
    assert interval_of(row, "loss", "loss_") is None


def test_intervals_are_drawn_to_their_ends_and_never_backwards() -> None:
    figure = new_figure(3, 2, "title", "caption")
    ax = figure.subplots()
    found = [Interval(1, 0, 3), Interval(2, 2.5, 3), Interval(4, math.nan, math.nan)]
    intervals(ax, [0, 1, 2], found, "red")
    (bars,) = ax.collections
    drawn = [path.vertices[:, 1].tolist() for path in bars.get_paths()]
    assert drawn[:2] == [[0, 3], [2, 3]]
    assert len(ax.lines[0].get_xdata()) == 3  # type: ignore[arg-type]


def failed_run(output: Path) -> Path:
    return made_up_run(output, more=(OWN, SET), failed=7, unread=UNREAD)


def served_run(output: Path) -> Path:
    """With all stages, uploads and a server's memory."""

    def served(record: Record) -> Record:
        record["ledger"]["uploaded_bytes"] = 123_400_000
        seconds = record["wall_seconds"] / len(STAGES)
        record["ledger"]["seconds"] = dict.fromkeys(STAGES, seconds) | {"wav": 6e-5}
        record["memory"] = {"gpu": None, "resident": 2.1e10, "server": 2.1e10}
        return record

    return made_up_latency(output, lambda c, r, p: noisy(c, r, p) / 100, change=served)


@pytest.mark.parametrize(
    ("kind", "make", "figures"),
    [
        ("benchmark", failed_run, ["benchmark.png"]),
        ("latency", served_run, ["latency.png", "cost.png"]),
    ],
)
def test_the_text_is_that_of_the_snapshot_and_figures_repeat_themselves(
    tmp_path: Path, kind: str, make: Callable[[Path], Path], figures: list[str]
) -> None:
    folder = make(tmp_path)
    text, failed = REPORTS[kind](folder)
    assert failed == (kind == "benchmark")
    assert text + "\n" == (SNAPSHOTS / f"{kind}.txt").read_text()
    assert max(map(len, text.splitlines())) <= 100
    drawn = [(folder / name).read_bytes() for name in figures]
    REPORTS[kind](folder)
    assert [(folder / name).read_bytes() for name in figures] == drawn
    for name in figures:
        with Image.open(folder / name) as image:
            assert image.text[DIGEST_KEY] == records_digest(folder)  # type: ignore[attr-defined]


def test_a_saved_figure_has_every_methods_colour_although_each_is_of_few_pixels(
    tmp_path: Path,
) -> None:
    figure = new_figure(7.5, 4.0, "colours", "")
    ax = figure.subplots()
    ax.imshow(
        np.linspace(0, 1, 10_000).reshape(100, 100), cmap=mpl.colormaps["viridis"].resampled(99)
    )
    colours = ["#FFFFFF", *(method.colour for method in METHODS.values())]
    for x, colour in enumerate(colours):
        ax.plot([9 * x], [50], "s", c=colour, markersize=4)
    save(figure, tmp_path / "colours.png", made_up_run(tmp_path / "run"))
    drawn = np.asarray(Image.open(tmp_path / "colours.png").convert("RGB"), int).reshape(-1, 3)
    for colour in colours:
        assert abs(drawn - [*bytes.fromhex(colour[1:])]).max(axis=1).min() <= 8, colour


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (made_up_run, {"summary.csv", "per_clip.csv", "benchmark.png", "index.html"}),
        (listening_run, {"summary.csv", "per_clip.csv", "benchmark.png", "index.html"}),
        (made_up_latency, {"summary.csv", "costs.csv", "lines.csv", "latency.png", "cost.png"}),
    ],
)
def test_the_command_writes_a_runs_report_without_torch(
    tmp_path: Path, make: Callable[[Path], Path], expected: set[str]
) -> None:
    folder = make(tmp_path)
    before = {path.name for path in folder.iterdir()}
    code = (
        "import sys; from src.reports.__main__ import main; "
        f"assert main([{str(folder)!r}]) == 0; sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == Exit.DONE, done.stderr
    assert done.stdout.startswith("made up")
    assert {path.name for path in folder.iterdir()} - before == expected


def test_a_folder_that_is_no_runs_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Run(tmp_path, "other", {"script": "another"}, {}) as run:
        pass
    assert main([str(run.folder)]) == Exit.FOLDER
    assert "is no run's folder" in capsys.readouterr().err
    assert main([str(tmp_path / "nothing")]) == Exit.FOLDER
    assert "is no run's folder" in capsys.readouterr().err


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
    assert reproduce([str(folder.parent), str(other.parent)]) == Exit.DONE
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{folder.name}: 12 of 12 clips have the same tokens")
    assert lines[1] == f"another run: {other.parent} has no run of the same settings."
