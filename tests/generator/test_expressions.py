"""Expressions of verifiers: how they are read and named, and their numbers in searches and pools.

Numbers are held against formulas written out here, on fakes and on a made-up pool.
"""

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from src.experiments.settings import BenchmarkSettings
from src.methods import METHODS
from src.protocol import NoScore, Score
from src.runs.evaluation import measures
from src.runs.pool import PoolError, load_pool
from src.runs.run import Run
from src.runs.settings import parse as parse_arguments
from src.scoring import ExpressionError, canonical, components, parse
from src.search import search
from src.stats.best_of_n import best_of_n, within_prompt_std
from src.verifier import Calibration, CalibrationError, Constant, build_verifier
from tests.generator.fake_pool import PROMPTS, WEIGHTS, FakeClient
from tests.generator.fake_search import RATE, FakeGenerator, FakeJudge
from tests.generator.made_up_pool import made_up_pool

NESTED = "min(tags,0.5*pmi+perplexity)"


@pytest.mark.parametrize(
    ("text", "name", "verifiers"),
    [
        ("min( tags , pmi )", "min(tags,pmi)", ("tags", "pmi")),
        ("mean(tags,1*pmi)", "mean(tags,pmi)", ("tags", "pmi")),
        ("lcb(tags,pmi,clap;1)", "lcb(tags,pmi,clap;1.0)", ("tags", "pmi", "clap")),
        ("min(tags, 5e-1*pmi + tags)", "min(tags,0.5*pmi+tags)", ("tags", "pmi")),
        ("0.5*min(a,b)+ c", "0.5*min(a,b)+c", ("a", "b", "c")),
        ("lcb(min(a,b),mean(b,c);0.5)", "lcb(min(a,b),mean(b,c);0.5)", ("a", "b", "c")),
        # verifiers and sums as they were written
        ("min", "min", ("min",)),
        ("tags + 1.0*pmi", "tags + 1.0*pmi", ("tags", "pmi")),
    ],
)
def test_an_expression_has_one_name_however_it_is_spaced(
    text: str, name: str, verifiers: tuple[str, ...]
) -> None:
    assert (canonical(text), canonical(name)) == (name, name)
    assert components(text) == verifiers


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("min(tags,,pmi)", r"a verifier's name is expected before ',pmi\)'"),
        ("min(tags,pmi", r"',' or '\)' is expected at its end"),
        ("min(tags,pmi))", r"'\+' or the end is expected before '\)'"),
        ("min(tags pmi)", r"',' or '\)' is expected before 'pmi\)'"),
        ("min(tags,pmi;1)", r"',' or '\)' is expected before ';1\)'"),
        ("lcb(tags,pmi)", r"';' and lambda \(';1.0'\) is expected before '\)'"),
        ("lcb(tags,pmi;1,2)", r"'\)' is expected before ',2\)'"),
        ("lcb(tags,pmi;0)", "lambda '0' is not a positive number"),
        ("lcb(tags,pmi;)", r"lambda '\)' is not a positive number"),
        ("min(tags,0*pmi)", "the weight '0' is not a positive number"),
        ("1e308*pmi", "the weight '1e308' is not a positive number, 1e[+]09 at most"),
        ("min(tags," * 999 + "pmi" + ")" * 999, "more than 32 brackets"),
        ("min(tags)", "min needs two members or more"),
        ("min()", r"name is expected before '\)'"),
        ("tags-pmi", "'tags-pmi' is no verifier's name; a weight is written 0.7"),
        ("min(tags,0.7pmi)", "'0.7pmi' is no verifier's name"),
        ("max(tags,pmi)", "max is no function; there are min, mean, lcb"),
        ("min(tags,min(a,b),tags)", "names tags twice"),
        ("min(a,b)+2*min(a, b)", r"names min\(a,b\) twice"),
        ("2*(tags+pmi)", r"name is expected before '\(tags\+pmi\)'; write tags"),
        ("__import__('os')", "__import__ is no function|name is expected before \"'os'"),
    ],
)
def test_what_is_none_is_refused_with_the_place(text: str, reason: str) -> None:
    with pytest.raises(ExpressionError, match=reason):
        parse(text)
    with pytest.raises(SystemExit):
        parse_arguments(BenchmarkSettings, ["--verifier", text])


def test_a_run_is_one_folder_however_its_expression_is_spaced_and_any_system_can_have_it(
    tmp_path: Path,
) -> None:
    one, other = (
        parse_arguments(BenchmarkSettings, ["--verifier", text])
        for text in ("lcb(tags, pmi; 1)", "lcb(tags,pmi;1.0)")
    )
    assert one.decisive() == other.decisive()
    with Run(tmp_path, f"benchmark-{one.verifier}-n8", {}, {}) as run:
        assert run.folder.name.rpartition("-")[0] == "benchmark-lcb-tags-pmi-1.0-n8"
    many = ",".join(f"verifier_{i}" for i in range(50))
    with Run(tmp_path, f"min({many})", {}, {}) as run:
        assert len(run.folder.name) < 255


def standard(numbers: dict, units: dict[str, tuple[float, float]]) -> dict:
    """z by verifier; 0 for those that the expression does not have."""
    return {n: (numbers.get(n, mean) - mean) / sd for n, (mean, sd) in units.items()}


def by_hand(z: dict) -> dict:
    """From standardised tags, pmi and perplexity."""
    t, m, p = z["tags"], z["pmi"], z["perplexity"]
    mean = (t + m + p) / 3
    sd = np.sqrt(((t - mean) ** 2 + (m - mean) ** 2 + (p - mean) ** 2) / 3)
    return {
        "min(tags,pmi)": np.minimum(t, m),
        "mean(tags,pmi,perplexity)": mean,
        "lcb(tags,pmi,perplexity;0.7)": mean - 0.7 * sd,
        NESTED: np.minimum(t, 0.5 * m + p),
        "2.0*min(tags,pmi)+perplexity": 2 * np.minimum(t, m) + p,
    }


UNITS = {"tags": (20.0, 7.0), "pmi": (0.02, 0.3), "perplexity": (0.55, 0.1)}  # mean, deviation
EXPRESSIONS = list(by_hand(dict.fromkeys(UNITS, 0.0)))


def calibration(**units: tuple[float, float]) -> Calibration:
    return Calibration(
        generator=FakeGenerator.checkpoint,
        constants={
            name: Constant.model_construct(
                checkpoint=WEIGHTS if name == "tags" else FakeGenerator.checkpoint,
                mean=mean,
                deviation=deviation,
            )
            for name, (mean, deviation) in units.items()
        },
    )


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_search_selects_by_members_in_the_calibrations_units(name: str) -> None:
    generator, client = FakeGenerator(), FakeClient()
    verifier = build_verifier(name, generator.checkpoint, client, calibration(**UNITS))  # type: ignore[arg-type]
    plan = METHODS["sbs"].make_plan(8, 0.3, 0.1, RATE, {"beam_width": 2})
    for result in search(plan, PROMPTS, generator, verifier, seed=1):
        scores = [node.score for node in result.nodes]
        for score in scores:
            assert score.value == pytest.approx(by_hand(standard(score.components, UNITS))[name])
        leaves = scores[-8:]
        assert result.winner.score.value == max(score.value for score in leaves)
        assert len({score.value for score in leaves}) > 1
    assert {names for names, _, _ in client.asked} == {("tags",)}  # the others cost nothing


def test_a_candidate_that_lacks_a_member_is_out_and_the_member_says_why() -> None:
    def leaves(client: FakeClient) -> list[Score | NoScore]:
        parts = (FakeGenerator().checkpoint, client, calibration(**UNITS))
        verifier = build_verifier("min(tags,pmi)", *parts)  # type: ignore[arg-type]
        plan = METHODS["best_of_n"].make_plan(8, 0.2, 0.1, RATE, {})
        (found,) = search(plan, PROMPTS[:1], FakeGenerator(), verifier, seed=1)
        return [node.score for node in found.nodes]

    whole = leaves(FakeClient())
    best = max(whole, key=lambda score: score.value)
    heard = best.components["tags"]
    without = leaves(FakeClient(unheard=[("tags", PROMPTS[0].text, heard)]))
    assert without[whole.index(best)] == NoScore(reason=f"tags: {heard:g} is unheard of")
    others = [score for score in whole if score.components["tags"] != heard]
    assert [score for score in without if isinstance(score, Score)] == others


def test_a_sum_is_what_it_was_to_the_last_bit_and_needs_no_mean() -> None:
    units = {name: Constant.model_construct(deviation=d) for name, (_, d) in UNITS.items()}
    numbers = {"tags": 13.7, "perplexity": 0.123456789}
    deviations = {name: constant.deviation for name, constant in units.items()}
    found = parse("0.7*tags+0.3*perplexity").value(numbers, deviations, {})
    assert float(found) == 0.7 * 13.7 / 7.0 + 0.3 * 0.123456789 / 0.1


def test_constants_that_are_absent_name_the_command_that_makes_them() -> None:
    known = calibration(tags=UNITS["tags"])
    with pytest.raises(CalibrationError, match=r"the spread of pmi .* --verifiers tags pmi"):
        build_verifier("min(tags,pmi)", FakeGenerator.checkpoint, FakeClient(), known)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three prompts of six candidates; tags has no score of the second."""
    measured = ("tags", "noise", "again", "kin", "copy")
    return made_up_pool(tmp_path, 3, 6, measured, {"tags": (1,)}, guided=True)


def test_a_pools_members_are_in_units_of_the_pool(folder: Path) -> None:
    pool = load_pool(folder, [*EXPRESSIONS, "min(tags, pmi)"])
    units = {}
    for part in UNITS:
        pools = list(pool.values(part).values())
        units[part] = (np.concatenate(pools).mean(), within_prompt_std(pools))
    for name in EXPRESSIONS:
        for seconds in (None, 2.0):  # beginnings are in the units of whole clips
            found = pool.values(name, seconds)
            assert list(found) == ["p0", "p2"]
            for prompt, values in found.items():
                numbers = {part: pool.values(part, seconds)[prompt] for part in UNITS}
                assert values == pytest.approx(by_hand(standard(numbers, units))[name])
    assert [n for n in pool.measures if n.startswith("min")] == ["min(tags,pmi)", NESTED]
    assert "; from means: tags " in pool.measures["min(tags,pmi)"].note
    with pytest.raises(PoolError, match="no verifier 'clap'"):
        pool.values("min(tags,clap)")


def test_best_of_n_by_an_expression_is_exact_and_who_lacks_a_member_is_out(folder: Path) -> None:
    pool = load_pool(folder)
    pool._values["tags", "whole"]["p0"][2] = math.nan
    scores, seen = pool.values("min(tags,pmi)")["p0"], pool.values("noise")["p0"]
    assert np.isnan(scores).tolist() == [False, False, True, False, False, False]
    draws = [
        max((i for i in d if i != 2), key=scores.__getitem__) for d in combinations(range(6), 3)
    ]
    judged = np.where(np.isnan(scores), np.nan, seen)
    assert best_of_n([scores], [judged], [3])[0, 0] == pytest.approx(seen[draws].mean())


def test_a_prompt_of_which_no_candidate_has_all_members_is_left_out(folder: Path) -> None:
    pool = load_pool(folder)
    for name, lacking in (("tags", [0, 2, 4]), ("noise", [1, 3, 5])):
        pool._values[name, "whole"]["p0"][lacking] = math.nan
    assert {*pool.values("tags")} == {*pool.values("tags+pmi")} == {"p0", "p2"}
    assert {*pool.values("tags+noise")} == {"p2"}


def test_relations_are_those_of_the_members(folder: Path) -> None:
    pool = load_pool(folder)
    selector = pool.sum_of("lcb(noise,mean(tags,perplexity);1.0)")
    related = {name: measure.relation(selector) for name, measure in pool.measures.items()}
    assert related == {
        **dict.fromkeys(("perplexity", "pmi", "tags", "noise", "again"), "own"),
        **{"kin": "shares data", "copy": ""},
    }
    judges = [FakeJudge("kin", shares=("tags",)), FakeJudge("again", own=("tags",))]
    known = calibration(**UNITS)
    verifier = build_verifier(NESTED, FakeGenerator.checkpoint, FakeClient(), known)  # type: ignore[arg-type]
    own, kin, again = measures(verifier, judges)
    assert (own.name, own.role) == (NESTED, "selector")
    assert {*own.is_verifier} == {"tags", "pmi", "perplexity"}
    assert (kin.role, kin.relation(own)) == ("judge", "shares data")
    assert (again.role, again.relation(own)) == ("own verifier", "own")
