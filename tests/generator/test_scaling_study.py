"""A pool's study: which pairs there are, what they have in common, and what is known of them."""

import math
from pathlib import Path

import numpy as np
import pytest

from src.reports.pool_study import Study, difference, past_peak, relation, study_pool
from src.runs.pool import Pool, load_pool
from src.stats.best_of_n import agreement, best_of_n, expected_maximum, paired_interval
from src.stats.intervals import StatsError
from tests.generator.made_up_pool import MEASURES, PREFIXES, made_up_pool

BUDGETS = (2, 4, 8)
REFUSED = {"kin": (3, 4), "noise": (0,)}


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    return load_pool(made_up_pool(tmp_path_factory.mktemp("pool"), refused=REFUSED))


@pytest.fixture(scope="module")
def study(pool: Pool) -> Study:
    return study_pool(pool, BUDGETS)


def test_every_verifier_selects_and_everything_measures_judges_first(study: Study) -> None:
    assert study.selectors == ("perplexity", "tags", "noise")
    assert list(study.measures) == ["copy", "turning", "kin", "again", *study.selectors]
    assert study.judges == ("copy", "turning", "kin", "again")
    assert set(study.pairs) == {(s, m) for s in study.selectors for m in study.measures}
    assert study.budgets == (1, *BUDGETS)


def test_what_selector_and_measure_have_in_common_is_marked(study: Study) -> None:
    marks = {pair: found.relation for pair, found in study.pairs.items()}
    assert marks["tags", "tags"] == marks["tags", "again"] == "own"
    assert marks["noise", "noise"] == marks["perplexity", "perplexity"] == "own"
    assert marks["tags", "kin"] == "shares data"
    assert marks["tags", "copy"] == marks["noise", "again"] == marks["noise", "kin"] == ""
    assert sum(mark == "own" for mark in marks.values()) == 4


def test_relations_hold_in_both_directions(study: Study) -> None:
    measures = study.measures
    assert relation(measures, "again", "tags") == "own"
    assert relation(measures, "kin", "tags") == "shares data"


def test_a_pairs_numbers_are_best_of_n_of_each_prompt(pool: Pool, study: Study) -> None:
    pair = study.pairs["tags", "copy"]
    tags, copy = pool.pair("tags", "copy")
    for column, point in enumerate(pair.points):
        expected = [best_of_n(s, g, point.n) for s, g in zip(tags, copy, strict=True)]
        assert pair.values[:, column] == pytest.approx(expected)
        alone = [g.mean() for g in copy]
        gains = np.array(expected) - alone
        assert point.gain == pytest.approx(paired_interval(gains), abs=1e-12)
    assert pair.slope is not None
    assert pair.fit is not None
    assert pair.slope.mean == pytest.approx(pair.fit.b)


def test_a_judge_that_copies_the_selector_gains_as_much_whatever_its_direction(
    study: Study,
) -> None:
    own, copy = study.pairs["tags", "tags"], study.pairs["tags", "copy"]
    assert copy.standard == pytest.approx(own.standard)
    assert copy.points[-1].gain.mean < 0 < own.points[-1].gain.mean
    assert own.standard is not None
    assert own.standard.mean == pytest.approx(expected_maximum(8), abs=0.15)
    assert [t.ratio.mean for t in copy.transfers if t.ratio] == pytest.approx([1, 1, 1])
    assert [t.n for t in copy.transfers] == [2, 4, 8]


def test_a_judge_that_turns_has_falling_transfer_and_passes_its_peak(study: Study) -> None:
    turning = study.pairs["tags", "turning"]
    assert turning.change is not None
    assert turning.change.high < 0
    peak = past_peak(study, turning)
    assert peak is not None
    assert peak[0] == 2
    assert peak[1].high < 0
    assert past_peak(study, study.pairs["tags", "copy"]) is None
    copied = study.pairs["tags", "copy"].change
    assert copied is not None
    assert copied.mean == pytest.approx(0, abs=1e-9)


def test_a_pair_is_over_the_prompts_that_both_have(pool: Pool, study: Study) -> None:
    counts = {pair: len(found.prompts) for pair, found in study.pairs.items()}
    assert counts["tags", "copy"] == 12
    assert counts["tags", "kin"] == 10
    assert counts["noise", "copy"] == 11
    assert counts["noise", "kin"] == 9
    assert "p3" not in study.pairs["tags", "kin"].prompts
    assert study.refused["kin"] == ("kin: names no tag",) * 2
    assert set(study.refused) == {"kin", "noise"}
    assert study.agreement["copy", "kin"].prompts == 10


def test_the_primary_judge_is_the_first_that_is_independent(study: Study, tmp_path: Path) -> None:
    assert study.primary("tags") == "copy"
    of_kin = load_pool(made_up_pool(tmp_path, measures=("tags", "noise", "kin", "again")))
    kin_first = study_pool(of_kin, BUDGETS)
    assert kin_first.judges == ("kin", "again")
    assert kin_first.primary("tags") is None
    assert kin_first.primary("noise") == "kin"


def test_selectors_are_compared_over_the_prompts_that_both_have(pool: Pool, study: Study) -> None:
    found = difference(study, "copy", "tags", "noise")
    expected = []
    for prompt, noise in pool.values("noise").items():
        g = pool.values("copy")[prompt]
        of_tags = best_of_n(pool.values("tags")[prompt], g, 8) - g.mean()
        expected.append(-(of_tags - (best_of_n(noise, g, 8) - g.mean())))
    assert found == pytest.approx(paired_interval(expected), abs=1e-12)
    assert found is not None
    assert found.low > 0


def test_agreement_is_positive_where_both_call_the_same_clips_better(study: Study) -> None:
    assert len(study.agreement) == 7 * 6 / 2
    assert study.agreement["copy", "tags"].tau == pytest.approx((1, 1, 1))
    noise = study.agreement["copy", "noise"].tau
    assert noise.mean == pytest.approx(0, abs=0.15)


def test_prefixes_are_ranked_against_whole_clips(pool: Pool, study: Study) -> None:
    found = {(p.verifier, p.measure, p.seconds): p.agreement for p in study.prefixes}
    for seconds in PREFIXES:
        first, whole = pool.pair("tags", "tags", a_seconds=seconds)
        expected = agreement(first, whole).mean()
        assert found["tags", "tags", seconds].tau.mean == pytest.approx(expected)
        # of the judge that copies tags with the other sign, the same
        assert found["tags", "copy", seconds].tau.mean == pytest.approx(expected)
    own = [found["tags", "tags", t].tau.mean for t in PREFIXES]
    assert own == sorted(own)
    assert found["tags", "copy", 5.0].tau.mean == pytest.approx(1)
    assert ("tags", "tags", 5.0) not in found
    assert not {p.verifier for p in study.prefixes} & set(study.judges)


def test_budgets_larger_than_the_pool_are_left_out_and_listed(tmp_path: Path) -> None:
    pool = load_pool(made_up_pool(tmp_path, prompts=3, size=4))
    found = study_pool(pool, (4, 8, 2, 8))
    assert (found.budgets, found.dropped) == ((1, 2, 4), (8,))
    with pytest.raises(StatsError, match="budgets of 1 or more"):
        study_pool(pool, (0, 2))


def test_constant_scores_select_nothing_and_divide_nothing(tmp_path: Path) -> None:
    with_flat = load_pool(made_up_pool(tmp_path, measures=(*MEASURES, "flat")))
    found = study_pool(with_flat, BUDGETS)
    assert found.pairs["flat", "flat"].standard is None
    assert found.pairs["tags", "flat"].standard is None
    gain = found.pairs["flat", "copy"].points[-1].gain
    assert gain == pytest.approx((0, 0, 0), abs=1e-9)
    assert {t.ratio for t in found.pairs["flat", "copy"].transfers} == {None}
    assert {t.ratio for t in found.pairs["tags", "flat"].transfers} == {None}
    assert found.agreement["copy", "flat"].prompts == 0
    assert math.isnan(found.pairs["flat", "flat"].fit.r2)  # type: ignore[union-attr]
