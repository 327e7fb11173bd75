"""What a benchmark's report shows: selectors and judges apart, no claim that does not follow."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from src.methods import METHODS as REGISTERED
from src.reports.benchmark import benchmark_figure, benchmark_text, findings, report, tables
from src.reports.benchmark_study import LOST, Study, study_benchmark
from src.reports.table import adjusted, write_tables
from src.runs import evaluation
from src.runs.measures import CONTRAST, WRONG, Measure
from src.runs.records import Record, RunFolderError
from src.stats.frechet import distance
from src.stats.intervals import holm
from tests.generator.made_up_run import (
    COMMITTED,
    MEASURES,
    METHODS,
    OWN,
    SET,
    UNREAD,
    change_records,
    first_release,
    keep_measures,
    made_up_run,
)

ALL = (*MEASURES, OWN, SET)


def study_of(output: Path, **kind: Any) -> Study:
    return study_benchmark(made_up_run(output, **kind))


def text_of(folder: Path) -> str:
    """Without the ends of lines that are wrapped."""
    return benchmark_text(study_benchmark(folder)).replace("\n    ", " ")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> str:
    return text_of(made_up_run(tmp_path_factory.mktemp("plain")))


def sentences(folder: Path) -> str:
    return "\n".join(findings(study_benchmark(folder)))


def test_differences_are_paired_by_prompt_with_intervals(tmp_path: Path) -> None:
    study = study_of(tmp_path, failed=7)
    row, base = study.rows["best_of_n", "tags"], study.rows["baseline", "tags"]
    assert row["difference"] == pytest.approx(row["mean"] - base["mean"])
    # the prompts' own levels spread by 1, which an unpaired interval would show
    assert row["high"] - row["low"] < 0.5
    assert (row["prompts"], row["paired_prompts"], base["difference"]) == (16, 16, None)
    assert len(study.failed) == 7


@pytest.mark.parametrize(
    ("difference", "p", "verdicts"),
    [
        (0.1, 0.05, ("better", "worse")),
        (-0.1, 0.01, ("worse", "better")),
        (0.1, 0.06, ("unclear", "unclear")),
        (0.1, math.nan, ("unclear", "unclear")),
    ],
)
def test_a_difference_counts_by_its_p_and_the_measures_direction(
    difference: float, p: float, verdicts: tuple[str, str]
) -> None:
    measures = [Measure("m", "judge", up) for up in (True, False)]
    assert tuple(m.verdict(difference, p) for m in measures) == verdicts


def test_claims_of_one_table_are_adjusted_together_and_nothing_else_is() -> None:
    ps = {"better": 0.03, "worse": 0.001, "unclear": 0.5, "not independent": 0.01, "control": 0.01}
    rows = [{"verdict": verdict, "p": p} for verdict, p in ps.items()]
    rows += [{"verdict": "unclear", "p": math.nan}, {"verdict": "", "p": None}]
    found = adjusted(rows)
    assert [row["p_holm"] for row in found] == [*holm([0.03, 0.001, 0.5]), *[None] * 4]
    assert [row["verdict"] for row in found] == ["unclear", *[r["verdict"] for r in rows[1:]]]


def test_a_judges_prompt_specific_part_stands_beside_it_and_has_the_verdict(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    rng = np.random.default_rng(1)

    def change(index: int, record: Record) -> None:
        raw = record["judges"]["msd_kld"]  # all that best_of_n gains is gained by any reference
        part = {"sbs": -1.0}.get(record["method"], 0) + rng.normal(0, 0.1)
        record["judges"] |= {"msd_kld_wrong": raw - part, "msd_kld_contrast": part}

    change_records(folder, change)
    parts = [replace(MEASURES[1], name=f"msd_kld{end}", role="judge") for end in (WRONG, CONTRAST)]
    keep_measures(folder, *MEASURES, *parts)
    study = study_benchmark(folder)
    wrong, contrast = (study.rows["best_of_n", part.name] for part in parts)
    assert (wrong["verdict"], wrong["p_holm"]) == ("control", None)
    assert contrast["verdict"] == "unclear"
    text = benchmark_text(study)
    assert "own minus wrong" in text.splitlines()[2]
    blocks = text.split("\n\n")
    (block,) = (b.splitlines() for b in blocks if b.startswith("msd_kld"))
    assert [line.split()[-1] for line in block[2:]] == ["unclear", "better"]
    assert "msd_kld_wrong" not in text
    said = " ".join(findings(study))
    assert "sbs: better by tags, which chose the clips; better by the primary judge" in said
    assert "judge msd_kld_contrast: it follows." in said
    assert not any("wrong" in ax.get_title() for ax in benchmark_figure(study).axes)


def test_where_the_selector_gains_nothing_no_judge_is_said_to_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "sbs", (0.0, -0.5, 2000, 24))
    monkeypatch.setitem(METHODS, "best_of_n", (0.0, 0.0, 2000, 8))
    said = sentences(made_up_run(tmp_path))
    unclear = "unclear by tags, which chose the clips"
    assert f"sbs: {unclear}; better by the primary judge msd_kld." in said
    assert f"best_of_n: {unclear}; unclear by the primary judge msd_kld." in said
    assert "follow" not in said


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ({"methods": ("best_of_n", "sbs"), "more": (SET,)}, "baseline is not among the methods"),
        ({"judged": False}, "tags chose these clips and no judge was asked"),
        (
            {"prompts": 1, "more": (OWN, SET)},
            "No intervals are given: they need 2 finished",
        ),
        ({"prompts": 5}, "5 prompts are too few to rely on these intervals."),
        ({"prompts": 0, "failed": 2}, "No prompt is finished."),
        ({"methods": ("baseline",), "failed": 2}, "baseline f0: tags: names no tag"),
        ({"more": (OWN,), "unread": UNREAD}, "clap reads only the start of 12 of 64 captions"),
        ({"caveats": ["What comes after 30 s may drift."]}, "after 30 s may drift."),
    ],
)
def test_what_to_know_is_said_where_it_holds_and_only_there(
    tmp_path: Path, plain: str, kind: dict[str, Any], said: str
) -> None:
    folder = made_up_run(tmp_path, **kind)
    report(folder)
    text = text_of(folder)
    assert said in text
    assert said not in plain
    assert ("[" in text) == (kind.get("prompts", 16) > 1 and "methods" not in kind)
    for name in ("summary.csv", "benchmark.png"):
        assert (folder / name).exists() == (kind.get("prompts") != 0)


def test_a_clip_without_a_number_is_left_out_of_that_measure_and_counted(tmp_path: Path) -> None:
    def change(index: int, record: Record) -> None:
        del record["judges"]["mtt_vgg"]
        record["unjudged"] = {"mtt_vgg": "names no tag; one of: " + "rock, pop, " * 100}
        if index == 1:
            del record["judges"]["msd_kld"]
            record["unjudged"]["msd_kld"] = "no reference"

    folder = made_up_run(tmp_path)
    change_records(folder, change)
    study = study_benchmark(folder)
    (none,) = (line for line in findings(study) if line.startswith("mtt_vgg: no number"))
    assert none.startswith("mtt_vgg: no number for 48 clip(s): names no tag; one of: rock,")
    assert len(none) < 250
    assert none.endswith(" ..")
    assert "msd_kld: no number for 1 clip(s): no reference" in findings(study)
    assert study.rows["best_of_n", "msd_kld"]["paired_prompts"] == 15
    row = study.rows["best_of_n", "mtt_vgg"]
    assert [row[k] for k in ("prompts", "mean", "difference", "low")] == [0, None, None, None]


def test_silent_winners_and_candidates_without_a_score_are_counted(tmp_path: Path) -> None:
    def change(index: int, record: Record) -> None:
        record["winner"] |= {"level": -75.2, "silent": True} if index == 1 else {}
        out = {"slot": 1, "score": {"reason": "the clip is digital silence"}}
        record["tree"] = [{"slot": 0, "score": {"value": 1.0}}, out]

    folder = made_up_run(tmp_path)
    change_records(folder, change)
    text = " ".join(findings(study_benchmark(folder)))
    assert "1 of 48 winners are silent (RMS below -60 dB of full scale): " in text
    assert "48 candidate(s) had no score and were out: the clip is digital silence (48)" in text


def test_a_measure_of_sets_is_one_distance_to_the_references_with_a_p(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    for method, prompt in (("baseline", "p3"), ("reference", "p5")):
        evaluation.embedding_file(folder, "fad_msd", method, prompt).unlink()
    refused = {"unjudged": {"fad_msd": "no reference"}}
    change_records(
        folder,
        lambda _, r: r.update(refused) if (r["method"], r["prompt_id"]) == ("sbs", "p4") else None,
    )

    def heard(method: str, *without: int) -> np.ndarray:
        prompts = [f"p{n}" for n in range(16) if n not in without]
        return np.concatenate(
            list(evaluation.load_embeddings(folder, "fad_msd", method, prompts).values())
        )

    study = study_benchmark(folder)
    base, best, sbs = rows = study.of("fad_msd")
    assert [row["prompts"] for row in rows] == [14, 15, 14]
    assert [row["windows"] for row in rows] == [28, 30, 28]
    assert best["mean"] == pytest.approx(distance(heard("best_of_n", 5), heard("reference")))
    # Differences are over the prompts that both methods have.
    assert [row["paired_prompts"] for row in rows] == [None, 14, 13]
    to = heard("reference", 3, 4)
    expected = distance(heard("sbs", 3, 4, 5), to) - distance(heard("baseline", 4, 5), to)
    assert sbs["difference"] == pytest.approx(expected)
    assert best["p"] == pytest.approx(1 / 201)
    assert sbs["p"] > 0.05
    assert (base["difference"], sbs["low"]) == (None, None)
    assert study.unjudged["fad_msd"] == ["no reference", *[LOST] * 4]
    assert "fad_msd: no number for 5 clip(s): no reference" in findings(study)


def test_other_measures_of_sets_read_the_same_embeddings_and_say_what_chance_gives(
    tmp_path: Path,
) -> None:
    family = {"statistic": "kernel", "embeddings": "fad_msd"}
    kad = replace(SET, name="kad_msd", **family)
    spread = replace(kad, name="spread_msd", higher_is_better=True, statistic="spread")
    folder = made_up_run(tmp_path, more=(SET, kad, spread))
    for method in ("best_of_n", "reference"):  # a spread needs no reference
        evaluation.embedding_file(folder, "fad_msd", method, "p3").unlink()
    study = study_benchmark(folder)
    base, best, _ = study.of("kad_msd")
    assert [row["prompts"] for row in study.of("kad_msd")] == [15, 15, 15]
    assert [row["prompts"] for row in study.of("spread_msd")] == [16, 15, 16]
    assert (best["verdict"], best["p"]) == ("better", pytest.approx(1 / 201))
    assert base["mean"] > base["null_high"] > 0 > base["null_low"]
    assert study.rows["sbs", "spread_msd"]["p"] > 0.05
    assert study.rows["sbs", "fad_msd"]["null"] > 0.2, "all of it bias"
    text = text_of(folder)
    assert "kad_msd by chance, if clips were no different from references (mean" in text
    shown = f".{study.digits('kad_msd')}f"
    assert f"baseline {base['null']:{shown}} ({base['null_low']:{shown}} to" in text
    assert "between the references." in text
    assert "null" not in tables(study_of(tmp_path / "without"))["summary"][0]


def test_a_damaged_embedding_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    evaluation.embedding_file(folder, "fad_msd", "sbs", "p3").write_bytes(b"\x93NUMPY")
    with pytest.raises(RunFolderError, match=r"sbs/p3.npy cannot be read"):
        study_benchmark(folder)


def test_a_primary_judge_of_sets_is_followed_by_its_p(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    keep_measures(folder, MEASURES[0], Measure("fad_msd", "primary judge", False, kind="set"))
    said = sentences(folder)
    assert "better by the primary judge fad_msd: it follows." in said
    assert "unclear by the primary judge fad_msd: whether it follows is not shown." in said


def test_a_verifier_that_judges_its_own_selection_is_no_judge(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(OWN,))
    keep_measures(folder, MEASURES[0], OWN)
    assert study_benchmark(folder).primary is None
    assert "tags chose these clips and no judge is independent of it" in sentences(folder)


def test_per_clip_csv_has_the_records_numbers_and_why_one_is_lacking(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, failed=1, more=(SET,))

    def change(index: int, record: Record) -> None:
        if index == 0:
            del record["judges"]["mtt_vgg"]
            record["unjudged"] = {"mtt_vgg": "names no tag", "fad_msd": "no reference"}

    change_records(folder, change)
    study = study_benchmark(folder)
    first, *rows, last = tables(study)["per_clip"]
    assert list(first) == [
        *("method", "prompt_id", "status", "tags", "msd_kld", "mtt_vgg", "unjudged"),
    ]
    assert first["mtt_vgg"] is None
    assert first["unjudged"] == "mtt_vgg: names no tag; fad_msd: no reference"
    for row, record in zip(rows, study.done[1:], strict=True):
        assert (row["method"], row["prompt_id"]) == (record["method"], record["prompt_id"])
        assert float(row["tags"]) == record["winner"]["score"]["value"]
        assert float(row["mtt_vgg"]) == record["judges"]["mtt_vgg"]
    assert (last["status"], last["tags"], last["unjudged"]) == (
        "failed",
        None,
        "tags: names no tag",
    )


def test_a_run_of_the_first_release_is_read_as_it_was(tmp_path: Path) -> None:
    study = study_benchmark(first_release(tmp_path))
    write_tables(tmp_path, tables(study))
    for name in ("summary.csv", "per_clip.csv"):
        assert (tmp_path / name).read_text() == (COMMITTED / name).read_text()
    assert "primary judge; MSD_musicnn (ebd4de86)" in benchmark_text(study)


def test_a_method_that_is_not_registered_is_drawn_too(tmp_path: Path) -> None:
    with patch.dict(REGISTERED):
        del REGISTERED["sbs"]
        assert benchmark_figure(study_of(tmp_path)).axes


def test_panels_name_their_measures_and_mark_what_is_no_evidence(tmp_path: Path) -> None:
    figure = benchmark_figure(study_of(tmp_path, more=(OWN, SET)))
    *panels, cost = figure.axes
    assert [ax.get_title() for ax in panels] == [
        *("tags ↑\nselector: own verifier", "msd_kld ↓\nprimary judge", "mtt_vgg ↑ †\njudge"),
        *("clap ↑\nown verifier", "fad_msd ↓ †\njudge"),
    ]
    assert cost.get_title() == "cost\nper prompt"
    assert [bool(ax.patch.get_hatch()) for ax in panels] == [True, False, False, True, False]
    # better is to the right
    assert [ax.xaxis_inverted() for ax in panels] == [not m.higher_is_better for m in ALL]
    tops = [ax.get_subplotspec().rowspan.start for ax in figure.axes]  # type: ignore[union-attr]
    assert tops == [0, 0, 0, 1, 1, 1]
    assert figure.get_size_inches()[0] < 12
    assert "fad_msd: MSD_musicnn (ebd4de86)" in figure.get_supxlabel()


def test_a_measure_of_sets_is_one_diamond_a_method_with_its_p(tmp_path: Path) -> None:
    study = study_of(tmp_path, more=(SET,))
    panel = benchmark_figure(study).axes[3]
    drawn = [np.ravel(line.get_xdata())[0] for line in panel.lines if line.get_marker() == "D"]
    assert drawn == [row["difference"] for row in study.of("fad_msd")[1:]]
    assert panel.texts[0].get_text().endswith(", p = 0.005")
    assert not panel.collections
