"""A pool's study: which rows there are, what selector and measure have in common, every number."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest

from src.reports.pool_study import LOG_P, Study, study_pool
from src.reports.table import Row, interval_of
from src.runs.pool import Pool, load_pool
from src.stats.best_of_n import CONSTANT, NO_GAIN, best_of_n, expected_maximum, fit, tau
from src.stats.intervals import StatsError, mean_interval
from tests.generator.made_up_pool import MEASURES, PREFIXES, made_up_pool

BUDGETS = (2, 4, 8)
REFUSED = {"kin": (3, 4), "noise": (0,)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool"), refused=REFUSED))


@pytest.fixture(scope="module")
def study(pool: Pool) -> Study:
    return study_pool(pool, BUDGETS)


def row_of(study: Study, table: str, selector: str, measure: str, **values: object) -> Row:
    (row,) = study.rows(table, selector=selector, measure=measure, **values)
    return row


def test_every_verifier_selects_and_everything_measures_judges_first(study: Study) -> None:
    assert study.selectors == ("perplexity", "tags", "noise")
    assert list(study.measures) == ["copy", "turning", "kin", "again", *study.selectors, LOG_P]
    assert study.judges == ("copy", "turning", "kin", "again")
    assert [study.measures[j].role for j in study.judges] == ["primary judge", *["judge"] * 3]
    pairs = {(row["selector"], row["measure"]) for row in study.tables["matrix"]}
    others = [measure for measure in study.measures if measure != LOG_P]
    assert pairs == {("perplexity", LOG_P), *product(study.selectors, others)}
    assert study.budgets == (1, *BUDGETS)


def test_what_selector_and_measure_have_in_common_is_marked_and_no_evidence(study: Study) -> None:
    marks = {(r["selector"], r["measure"]): r["relation"] for r in study.tables["matrix"]}
    own = {("tags", "again"), ("perplexity", LOG_P), *((s, s) for s in study.selectors)}
    assert {pair for pair, mark in marks.items() if mark == "own"} == own
    assert {pair for pair, mark in marks.items() if mark == "shares data"} == {("tags", "kin")}
    for row in study.tables["matrix"]:
        related = marks[row["selector"], row["measure"]] != ""
        assert (row["verdict"] == "not independent") == related or row["verdict"] is None
        assert (row["p_holm"] is None) == (related or row["verdict"] is None)


def test_a_pairs_numbers_are_best_of_n_of_each_prompt(pool: Pool, study: Study) -> None:
    tags, copy = pool.pair("tags", "copy")
    values = best_of_n(tags, copy, (1, *BUDGETS))
    for column, row in enumerate(study.rows("scaling", selector="tags", measure="copy")):
        gains = values[:, column] - [g.mean() for g in copy]
        assert row["n"] == study.budgets[column]
        assert row["mean"] == pytest.approx(values[:, column].mean())
        assert interval_of(row, "gain") == pytest.approx(mean_interval(gains), abs=1e-12)
    line = row_of(study, "fits", "tags", "copy")
    assert interval_of(line, "b", "b_") == pytest.approx(fit(values, study.budgets).b)


def test_a_judge_that_copies_the_selector_gains_as_much_whatever_its_direction(
    study: Study,
) -> None:
    own, copy = (row_of(study, "matrix", "tags", m) for m in ("tags", "copy"))
    assert interval_of(copy, "gain_sd") == pytest.approx(interval_of(own, "gain_sd"))
    assert copy["verdict"] == "better"
    assert own["gain_sd"] == pytest.approx(expected_maximum(8), abs=0.15)
    ratios = study.rows("transfer", selector="tags", measure="copy")
    assert [row["n"] for row in ratios] == [2, 4, 8]
    assert [row["transfer"] for row in ratios] == pytest.approx([1, 1, 1])
    assert ratios[0]["change"] == pytest.approx(0, abs=1e-9)
    assert (copy["best_n"], copy["since_best"]) == (8, 0)


def test_gains_are_given_in_own_deviations_and_in_ranks_too(pool: Pool, study: Study) -> None:
    tags, copy = pool.pair("tags", "copy")
    row = row_of(study, "matrix", "tags", "copy")
    gains = np.diff(best_of_n(tags, copy, (1, 8)))[:, 0] / [-g.std(ddof=1) for g in copy]
    assert interval_of(row, "gain_own_sd", "own_") == pytest.approx(mean_interval(gains))
    assert row["gain_rank"] == pytest.approx(expected_maximum(8), abs=0.1)
    own, log_p = (row_of(study, "matrix", "perplexity", m) for m in ("perplexity", LOG_P))
    assert own["gain_rank"] == pytest.approx(log_p["gain_rank"])
    assert own["gain_sd"] != log_p["gain_sd"]
    assert study.rows("matrix", selector="tags", measure=LOG_P) == []
    falls = row_of(study, "transfer", "tags", "turning", n=8)
    assert falls["change_rank_high"] < 0
    assert falls["transfer_rank"] < row_of(study, "transfer", "tags", "copy", n=8)["transfer_rank"]


def test_a_control_has_no_claim_and_no_place_among_judges(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, measures=(*MEASURES, "copy_wrong")))
    found = study_pool(pool, BUDGETS)
    row = row_of(found, "matrix", "tags", "copy_wrong")
    assert (row["verdict"], row["p_holm"]) == ("control", None)
    assert "copy_wrong" not in (*found.judges, *found.shown)
    assert found.rows("selectors", judge="copy_wrong") == []


def test_a_judge_that_turns_has_falling_transfer_and_passes_its_peak(
    pool: Pool, study: Study
) -> None:
    assert row_of(study, "transfer", "tags", "turning", n=8)["change_high"] < 0
    row = row_of(study, "matrix", "tags", "turning")
    assert row["best_n"] == 2
    at = best_of_n(*pool.pair("tags", "turning"), (2, 8))
    lost = mean_interval(at[:, 1] - at[:, 0])
    assert interval_of(row, "since_best", "since_") == pytest.approx(lost, abs=1e-12)
    assert lost.mean < 0


def test_a_pair_is_over_the_prompts_that_both_have(study: Study) -> None:
    counts = {(r["selector"], r["measure"]): r["prompts"] for r in study.tables["matrix"]}
    assert counts["tags", "copy"] == 12
    assert counts["tags", "kin"] == 10
    assert counts["noise", "copy"] == 11
    assert counts["noise", "kin"] == 9
    assert study.rows("agreement", a="copy", b="kin")[0]["prompts"] == 10
    assert study.refused == {
        "kin": ("kin: names no tag",) * 2,
        "noise": ("noise: names no tag",),
    }


def test_selectors_are_compared_over_the_prompts_that_both_have(pool: Pool, study: Study) -> None:
    values = {name: pool.values(name) for name in ("tags", "noise", "copy")}
    expected = []
    for prompt, noise in values["noise"].items():
        judged = [values["copy"][prompt]] * 2
        of_tags, of_noise = best_of_n([values["tags"][prompt], noise], judged, [8])[:, 0]
        expected.append(of_noise - of_tags)  # less of copy is better
    (row,) = study.rows("selectors", judge="copy", n=8, selector="tags", other="noise")
    assert interval_of(row, "difference") == pytest.approx(mean_interval(expected), abs=1e-12)
    assert row["verdict"] == "better"
    assert study.rows("selectors", judge="kin", n=8, selector="tags")[0]["verdict"] == (
        "not independent"
    )


def test_agreement_is_positive_where_both_call_the_same_clips_better(study: Study) -> None:
    assert len(study.tables["agreement"]) == 7 * 6 / 2
    (copied,) = study.rows("agreement", a="copy", b="tags")
    assert interval_of(copied, "tau") == pytest.approx((1, 1, 1))
    (noise,) = study.rows("agreement", a="copy", b="noise")
    assert noise["tau"] == pytest.approx(0, abs=0.15)


def test_prefixes_are_ranked_against_whole_clips(pool: Pool, study: Study) -> None:
    rows = study.rows("prefix", verifier="tags")
    found = {(row["measure"], row["seconds"]): row["tau"] for row in rows}
    for seconds in PREFIXES:
        expected = tau(*pool.pair("tags", "tags", a_seconds=seconds)).mean()
        assert found["tags", seconds] == pytest.approx(expected)
        # of the judge that copies tags with the other sign, the same
        assert found["copy", seconds] == pytest.approx(expected)
    own = [found["tags", t] for t in PREFIXES]
    assert own == sorted(own)
    assert found["copy", 5.0] == pytest.approx(1)
    assert ("tags", 5.0) not in found
    assert {row["verifier"] for row in study.tables["prefix"]} == set(study.selectors)


def test_budgets_larger_than_the_pool_are_left_out_and_listed(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=3, size=4))
    found = study_pool(pool, (4, 8, 2, 8))
    assert (found.budgets, found.dropped) == ((1, 2, 4), (8,))
    with pytest.raises(StatsError, match="budgets of 1 or more"):
        study_pool(pool, (0, 2))


def test_constant_scores_select_nothing_and_divide_nothing(tmp_path: Path) -> None:
    with_flat = load_pool(made_up_pool(tmp_path, measures=(*MEASURES, "flat")))
    found = study_pool(with_flat, BUDGETS)
    for selector, measure in (("flat", "flat"), ("tags", "flat")):
        row = row_of(found, "matrix", selector, measure)
        assert (row["gain_sd"], row["verdict"]) == (None, None)
    row = row_of(found, "scaling", "flat", "copy", n=8)
    assert interval_of(row, "gain") == pytest.approx((0, 0, 0), abs=1e-9)
    for selector, measure, reason in (("flat", "copy", NO_GAIN), ("tags", "flat", CONSTANT)):
        rows = found.rows("transfer", selector=selector, measure=measure)
        assert {(row["transfer"], row["reason"]) for row in rows} == {(None, reason)}
    (agreed,) = found.rows("agreement", a="copy", b="flat")
    assert (agreed["prompts"], interval_of(agreed, "tau")) == (0, None)
    assert np.isnan(row_of(found, "fits", "flat", "flat")["r2"])
