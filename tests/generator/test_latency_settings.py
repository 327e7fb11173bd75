"""The settings of latency_experiment.py: cells, wrong usage, what makes another run."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from src.experiments.latency_settings import LatencySettings
from src.runs.settings import parse

SETTINGS = LatencySettings(profile="builtin", budgets=(2, 4), beam_width=2)


def test_cells_are_methods_times_budgets_and_the_baseline_once() -> None:
    settings = replace(SETTINGS, budgets=(4, 6, 8), beam_width=4, lookahead_k=2)
    cells, skipped = settings.cells()
    assert [cell.name for cell in cells] == [
        *("baseline", "best_of_n N=4", "best_of_n N=6", "best_of_n N=8"),
        *("sbs N=4 M=4", "sbs N=8 M=4", "lookahead N=4 M=4 k=2", "lookahead N=8 M=4 k=2"),
    ]
    assert [cell.name for cell in skipped] == ["sbs N=6 M=4", "lookahead N=6 M=4 k=2"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--repetitions", "0"), "--repetitions must be 1 or more"),
        (("--batch", "0"), "--batch must be 1 or more"),
        (("--beam_width", "0"), "beam_width must be 1 or more"),
        (("--budgets", "4", "4"), "--budgets needs one or several different values, not 4 4"),
        (("--budgets", "0"), "--budgets must be 1 or more, not 0"),
        (("--verifier", "pmi", "--guidance", "1"), "take a --guidance other than 1"),
        (("--lookahead_k", "-1"), "lookahead_k must be 0 or more"),
        (("--duration", "0.015"), "not a whole number of frames"),
        (
            ("--method", "sbs", "--budgets", "6"),
            "nothing to measure: sbs N=6 M=4 cannot run",
        ),
        (("--method",), "--method needs one or several different values, not nothing"),
    ],
)
def test_settings_that_cannot_work_end_with_wrong_usage(
    refused: Callable[..., str], flags: tuple[str, ...], said: str
) -> None:
    assert said in refused(LatencySettings, *flags)


def test_the_defaults_are_every_method_at_four_budgets() -> None:
    settings = parse(LatencySettings, ())
    assert (settings.budgets, settings.num_samples) == ((4, 8, 16, 32), 5)
    cells, skipped = settings.cells()
    assert (len(cells), skipped) == (13, [])


def test_what_changes_seconds_makes_another_run_and_what_does_not_does_not() -> None:
    own = SETTINGS.decisive()
    for change in ({"max_rows": 8}, {"repetitions": 9}, {"batch": 2}, {"verifier": "tags"}):
        assert replace(SETTINGS, **change).decisive() != own  # type: ignore[arg-type]
    assert replace(SETTINGS, log_level="error").decisive() == own
    assert replace(SETTINGS, server="auto").decisive() == own  # perplexity asks no server
    served = replace(SETTINGS, verifier="tags")
    assert replace(served, server="auto").decisive() != served.decisive()
    assert replace(served, server="http://there").decisive() == served.decisive()
