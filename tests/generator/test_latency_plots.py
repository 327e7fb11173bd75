"""Figures of a latency run: made from records alone, and marked with what they show."""

from pathlib import Path

import pytest
from PIL import Image

from src.reports.benchmark_figure import DIGEST_KEY
from src.reports.latency_figures import cost_figure, latency_figure, save_figures
from src.reports.latency_summary import summarise
from src.runs.records import records_digest
from tests.generator.made_up_latency import made_up_latency, noisy


def test_the_pngs_carry_the_digest_of_their_records_and_repeat_themselves(tmp_path: Path) -> None:
    folder = made_up_latency(tmp_path, noisy)
    paths = save_figures(folder)
    assert [path.name for path in paths] == ["latency.png", "cost.png"]
    first = [path.read_bytes() for path in paths]
    for path in paths:
        with Image.open(path) as image:
            assert image.text[DIGEST_KEY] == records_digest(folder)  # type: ignore[attr-defined]
    assert [path.read_bytes() for path in save_figures(folder)] == first


def test_the_bars_stack_up_to_the_medians(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path))
    axes = latency_figure(found).axes
    assert [ax.get_title() for ax in axes] == list(found.methods)
    for ax in axes:
        own = [f.median for c, f in found.cells.items() if c.method == ax.get_title()]
        tops = [bar.get_y() + bar.get_height() for bar in ax.patches][-len(own) :]  # type: ignore[attr-defined]
        assert tops == pytest.approx(own)


def test_the_cost_figure_has_the_table_of_ratios(tmp_path: Path) -> None:
    found = summarise(made_up_latency(tmp_path))
    (table,) = cost_figure(found).axes[1].tables
    cells = {at: cell.get_text().get_text() for at, cell in table.get_celld().items()}
    assert len({row for row, _ in cells}) == len(found.comparisons) + 1
    assert "lookahead n=8 m=4 k=1" in cells.values()
    assert "1.75" in cells.values()
