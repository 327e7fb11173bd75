"""Figures: made from records alone, and marked with what they show."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from src.reports.benchmark_figure import COLOURS, DIGEST_KEY, benchmark_figure, save_benchmark
from src.reports.benchmark_summary import summarise
from src.runs.records import records_digest
from tests.generator.made_up_run import OWN, SET, made_up_run


def test_the_png_carries_the_digest_of_its_records(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    with Image.open(save_benchmark(folder)) as image:
        assert image.text[DIGEST_KEY] == records_digest(folder)  # type: ignore[attr-defined]


def test_the_same_records_give_the_same_png(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    first = save_benchmark(folder).read_bytes()
    assert save_benchmark(folder).read_bytes() == first


def test_the_selectors_panel_is_marked_as_its_own_verifier(tmp_path: Path) -> None:
    figure = benchmark_figure(summarise(made_up_run(tmp_path)))
    selector, primary, other, cost = figure.axes
    assert selector.get_title() == "tags\nselector: own verifier"
    assert selector.patch.get_hatch()
    assert primary.get_title() == "msd_kld\nprimary judge"
    assert other.get_title() == "mtt_vgg †\njudge"
    assert not primary.patch.get_hatch()
    assert cost.get_title() == "cost\nper prompt"


def test_a_verifier_that_judges_its_own_selection_is_marked_like_the_selector(
    tmp_path: Path,
) -> None:
    figure = benchmark_figure(summarise(made_up_run(tmp_path, more=(OWN,))))
    own = figure.axes[3]
    assert own.get_title() == "clap\nown verifier"
    assert own.patch.get_hatch()


def test_a_measure_of_sets_is_one_diamond_a_method_with_its_p(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, more=(SET,)))
    figure = benchmark_figure(summary)
    panel = figure.axes[3]
    assert panel.get_title() == "fad_msd †\njudge"
    diamonds = [line for line in panel.lines if line.get_marker() == "D"]
    expected = [summary.cells[method, "fad_msd"].shift for method in ("best_of_n", "sbs")]
    assert [np.ravel(line.get_xdata())[0] for line in diamonds] == expected
    assert next(text.get_text().split(", ")[1] for text in panel.texts) == "p = 0.005"
    assert not panel.collections
    assert panel.xaxis_inverted()
    assert "fad_msd: MSD_musicnn (ebd4de86)" in figure.get_supxlabel()


def test_many_measures_go_into_rows_of_panels(tmp_path: Path) -> None:
    figure = benchmark_figure(summarise(made_up_run(tmp_path, more=(OWN, SET))))
    titles = [ax.get_title().split("\n")[0] for ax in figure.axes]
    assert titles == ["tags", "msd_kld", "mtt_vgg †", "clap", "fad_msd †", "cost"]
    tops = [ax.get_subplotspec().rowspan.start for ax in figure.axes]  # type: ignore[union-attr]
    assert tops == [0, 0, 0, 1, 1, 1]
    assert figure.get_size_inches()[0] < 12


def test_better_is_to_the_right_for_every_measure(tmp_path: Path) -> None:
    figure = benchmark_figure(summarise(made_up_run(tmp_path)))
    inverted = [ax.xaxis_inverted() for ax in figure.axes[:3]]
    assert inverted == [False, True, False]


@pytest.mark.parametrize(
    "kind",
    [
        {"methods": ("best_of_n", "sbs")},
        {"methods": ("baseline",)},
        {"prompts": 1},
        {"judged": False},
        {"methods": ("best_of_n", "sbs"), "more": (SET,)},
        {"prompts": 1, "more": (OWN, SET)},
    ],
)
def test_runs_without_a_baseline_judges_or_intervals_are_drawn_too(
    tmp_path: Path, kind: dict
) -> None:
    assert save_benchmark(made_up_run(tmp_path, **kind)).stat().st_size > 5_000


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from src.reports.benchmark_figure "
        "import save_benchmark;"
        f"save_benchmark(Path({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_method_that_has_no_colour_of_its_own_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(COLOURS, "sbs")
    assert save_benchmark(made_up_run(tmp_path)).stat().st_size > 10_000
