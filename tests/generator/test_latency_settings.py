"""The settings of latency_experiment.py: cells, wrong usage, what makes another run."""

from dataclasses import replace

import pytest

from src.experiments.latency_settings import LatencySettings
from src.runs.settings import parse

SETTINGS = LatencySettings(profile="builtin", budgets=(2, 4), beam_width=2)


def test_cells_are_methods_times_budgets_and_the_baseline_once() -> None:
    settings = replace(SETTINGS, budgets=(4, 6, 8), beam_width=4, lookahead_k=2)
    assert [cell.name for cell in settings.cells()] == [
        *("baseline", "best_of_n n=4", "best_of_n n=6", "best_of_n n=8"),
        *("sbs n=4 m=4", "sbs n=8 m=4", "lookahead n=4 m=4 k=2", "lookahead n=8 m=4 k=2"),
    ]
    assert [cell.name for cell in settings.skipped()] == ["sbs n=6 m=4", "lookahead n=6 m=4 k=2"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--repetitions", "0"), "--repetitions must be 1 or more"),
        (("--batch", "0"), "--batch must be 1 or more"),
        (("--beam_width", "0"), "--beam_width must be 1 or more"),
        (("--budgets", "4", "4"), "--budgets needs one or several different values, not 4 4"),
        (("--budgets", "0"), "candidates must be 1 or more"),
        (("--lookahead_k", "-1"), "lookahead_k must be 0 or more"),
        (("--duration", "0.015"), "not a whole number of frames"),
        (("--method", "sbs", "--budgets", "6"), "divides no N of --budgets"),
        (("--method",), "--method needs one or several different values, not nothing"),
    ],
)
def test_settings_that_cannot_work_end_with_wrong_usage(
    flags: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(LatencySettings, flags, prog="latency_experiment.py")
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_the_defaults_are_every_method_at_four_budgets() -> None:
    settings = parse(LatencySettings, ())
    assert settings.budgets == (4, 8, 16, 32)
    assert settings.num_samples == 5
    assert len(settings.cells()) == 13
    assert settings.skipped() == ()


def test_the_benchmark_with_the_same_parts_has_no_judges() -> None:
    parts = replace(SETTINGS, verifier="tags", server="auto").as_benchmark()
    assert (parts.verifier, parts.server, parts.judges, parts.model) == (
        *("tags", "auto", (), "builtin"),
    )
    assert parts.num_samples == SETTINGS.num_samples


def test_what_changes_seconds_makes_another_run_and_what_does_not_does_not() -> None:
    own = SETTINGS.decisive()
    for change in ({"max_rows": 8}, {"repetitions": 9}, {"batch": 2}, {"verifier": "tags"}):
        assert replace(SETTINGS, **change).decisive() != own  # type: ignore[arg-type]
    assert replace(SETTINGS, log_level="error").decisive() == own
    assert replace(SETTINGS, server="auto").decisive() == own  # perplexity asks no server
    served = replace(SETTINGS, verifier="tags")
    assert replace(served, server="auto").decisive() != served.decisive()
    assert replace(served, server="http://there").decisive() == served.decisive()
