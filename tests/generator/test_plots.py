"""Figures: made from records alone, and marked with what they show."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from src.plots import DIGEST_KEY, benchmark_figure, save_benchmark
from src.records import records_digest
from src.report import summarise
from tests.generator.made_up_run import made_up_run


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
    ],
)
def test_runs_without_a_baseline_judges_or_intervals_are_drawn_too(
    tmp_path: Path, kind: dict
) -> None:
    assert save_benchmark(made_up_run(tmp_path, **kind)).stat().st_size > 5_000


def test_drawing_needs_no_torch(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    code = (
        "import sys; from pathlib import Path; from src.plots import save_benchmark;"
        f"save_benchmark(Path({str(folder)!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
