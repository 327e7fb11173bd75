"""What a run is said to show: selectors and judges apart, and no claim that does not follow."""

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from src.reports.benchmark_summary import Measure, SetDifference, Summary, summarise
from src.reports.benchmark_tables import findings, text_table, write_per_clip, write_summary
from src.runs import embeddings
from src.runs.records import RunFolderError
from src.stats.frechet import distance
from src.stats.intervals import Interval
from tests.generator.first_release import COMMITTED, first_release
from tests.generator.made_up_run import METHODS, OWN, SET, made_up_run

UNREAD = {"of": 64, "tokens": 240}
REPOSITORY = Path(__file__).parents[2]


def sentences(summary: Summary) -> str:
    return "\n".join(findings(summary))


def csv_rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    with path.open() as file:
        return {(row["method"], row["measure"]): row for row in csv.DictReader(file)}


def test_each_measure_has_its_role_and_direction_and_a_row_a_method(tmp_path: Path) -> None:
    lines = text_table(summarise(made_up_run(tmp_path))).splitlines()
    blocks = [
        ("tags ↑", "own verifier (selector)"),
        ("msd_kld ↓", "primary judge"),
        ("mtt_vgg ↑", "judge"),
    ]
    for heading in blocks:
        at = lines.index("  ".join(heading))
        methods = [line.split()[0] for line in lines[at + 1 : at + 4]]
        assert methods == ["baseline", "best_of_n", "sbs"]
        assert lines[at + 1].split()[1] == "16"
        assert re.search(r"[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]$", lines[at + 2])
    at = next(i for i, line in enumerate(lines) if line.startswith("cost per prompt"))
    assert lines[at + 2].split() == ["best_of_n", "16", "2,000", "8", "2.5"]


def test_many_measures_fit_a_terminal(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(OWN, SET), unread={"clap": {"captions": 12} | UNREAD})
    assert max(map(len, text_table(summarise(folder)).splitlines())) <= 100


def test_differences_are_paired_by_prompt_with_intervals(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path))
    cell, base = summary.cells["best_of_n", "tags"], summary.cells["baseline", "tags"]
    assert isinstance(cell.difference, Interval)
    assert cell.value is not None
    assert base.value is not None
    assert cell.difference.mean == pytest.approx(cell.value - base.value)
    # the prompts' own levels spread by 1, which an unpaired interval would show
    assert cell.difference.high - cell.difference.low < 0.5
    assert base.difference is None


def test_a_judge_that_agrees_and_one_that_does_not_follow_are_both_said(tmp_path: Path) -> None:
    lines = "\n".join(findings(summarise(made_up_run(tmp_path))))
    assert re.search(
        r"best_of_n beats .* tags, which chose its clips; and .* agrees: better", lines
    )
    assert re.search(
        r"sbs beats .*; but the judge msd_kld does not follow: .* includes zero", lines
    )
    assert "mtt_vgg: not independent." in lines


def test_where_the_selector_gains_nothing_no_judge_is_said_to_follow_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METHODS, "sbs", (0.0, -0.5, 2000, 24))
    monkeypatch.setitem(METHODS, "best_of_n", (0.0, 0.0, 2000, 8))
    lines = "\n".join(findings(summarise(made_up_run(tmp_path))))
    nothing = "is not shown to differ from the baseline on tags, which chose its clips; the judge"
    assert re.search(rf"sbs {nothing} msd_kld: better by -.*\]\.", lines)
    assert re.search(rf"best_of_n {nothing} msd_kld: no difference shown: .* zero\.", lines)
    assert "follow" not in lines


@pytest.mark.parametrize(
    ("low", "high", "higher_is_better", "direction"),
    [
        (0.1, 0.2, True, "better"),
        (0.1, 0.2, False, "worse"),
        (-0.2, -0.1, True, "worse"),
        (-0.2, -0.1, False, "better"),
        (-0.1, 0.1, True, "unclear"),
        (0.0, 0.1, True, "unclear"),
        (math.nan, math.nan, True, "unclear"),
    ],
)
def test_an_interval_counts_by_its_side_of_zero_and_the_measures_direction(
    low: float, high: float, higher_is_better: bool, direction: str
) -> None:
    measure = Measure("m", "judge", higher_is_better)
    assert measure.direction(Interval((low + high) / 2, low, high)) == direction


def test_without_a_baseline_there_are_no_differences_and_that_is_said(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, methods=("best_of_n", "sbs")))
    assert all(cell.difference is None for cell in summary.cells.values())
    assert "baseline is not among the methods" in text_table(summary)


def test_without_judges_the_selectors_number_is_called_no_evidence(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, judged=False)))
    assert "tags chose these clips and no judge was asked" in text


def test_one_prompt_has_no_intervals_and_that_is_said(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, prompts=1)))
    assert "No intervals are given: they need 2 finished prompts or more." in text
    assert "[" not in text


def test_intervals_over_few_prompts_are_called_so(tmp_path: Path) -> None:
    few = text_table(summarise(made_up_run(tmp_path, prompts=5)))
    assert "5 prompts are too few to rely on these intervals." in few
    assert "too few" not in text_table(summarise(made_up_run(tmp_path)))


def test_a_run_without_a_finished_prompt_is_reported_too(tmp_path: Path) -> None:
    text = text_table(summarise(made_up_run(tmp_path, prompts=0, failed=2)))
    assert "No prompt is finished." in text
    assert "sbs f0: tags: names no tag" in text


def test_failed_prompts_are_counted_and_shown_with_their_reason(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, failed=7))
    assert len(summary.failed) == 7
    assert len(summary.cells["sbs", "tags"].values) == 16
    text = text_table(summary)
    assert "Failed: 7" in text
    assert "sbs f0: tags: names no tag" in text


def test_a_clip_without_a_number_is_left_out_of_that_measure_and_counted(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        del record["judges"]["mtt_vgg"]
        record["unjudged"] = {"mtt_vgg": "names no tag"}
    del records[1]["judges"]["msd_kld"]
    records[1]["unjudged"]["msd_kld"] = "no reference"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = summarise(folder)
    text = text_table(summary)
    assert "mtt_vgg: no number for 48 clip(s): names no tag" in text
    assert "msd_kld: no number for 1 clip(s): no reference" in text
    assert summary.cells["best_of_n", "mtt_vgg"].value is None
    assert len(summary.cells["best_of_n", "msd_kld"].paired) == 15
    write_summary(summary, tmp_path / "summary.csv")
    row = csv_rows(tmp_path / "summary.csv")["best_of_n", "mtt_vgg"]
    assert (row["prompts"], row["mean"], row["difference"], row["low"]) == ("0", "", "", "")


def test_cost_is_per_prompt_and_leaves_out_judging(tmp_path: Path) -> None:
    cost = summarise(made_up_run(tmp_path)).costs["sbs"]
    assert (cost.frames, cost.clips, cost.seconds) == (2000, 24, 2.5)


def test_the_csv_has_the_tables_numbers_and_is_the_same_each_time(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    write_summary(summarise(folder), tmp_path / "one.csv")
    write_summary(summarise(folder), tmp_path / "two.csv")
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()
    rows = csv_rows(tmp_path / "one.csv")
    assert len(rows) == 9
    row = rows["best_of_n", "msd_kld"]
    cell = summarise(folder).cells["best_of_n", "msd_kld"]
    assert isinstance(cell.difference, Interval)
    assert float(row["difference"]) == pytest.approx(cell.difference.mean, rel=1e-5)
    assert float(row["high"]) == pytest.approx(cell.difference.high, rel=1e-5)
    assert (row["role"], row["kind"], row["higher_is_better"], row["prompts"], row["p"]) == (
        *("primary judge", "clip", "False", "16", ""),
    )
    assert rows["baseline", "tags"]["difference"] == ""


def test_a_measure_of_sets_is_one_distance_to_the_references_with_a_p(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    summary = summarise(folder)
    prompts = [f"p{n}" for n in range(16)]
    clips, references = (
        np.concatenate(list(embeddings.load(folder, "fad_msd", place, prompts).values()))
        for place in ("best_of_n", "reference")
    )
    cell, base = summary.cells["best_of_n", "fad_msd"], summary.cells["baseline", "fad_msd"]
    assert cell.value == pytest.approx(distance(clips, references))
    assert (cell.clips, cell.windows, cell.values) == (16, 32, {})
    assert isinstance(cell.difference, SetDifference)
    assert base.value is not None
    assert cell.value is not None
    assert cell.difference.value == pytest.approx(cell.value - base.value)
    assert cell.difference.p == pytest.approx(1 / 201)
    assert base.difference is None
    sbs = summary.cells["sbs", "fad_msd"].difference
    assert isinstance(sbs, SetDifference)
    assert sbs.p > 0.05
    fad = summary.measures[-1]
    assert (fad.direction(cell.difference), fad.direction(sbs)) == ("better", "unclear")
    text = text_table(summary)
    assert "fad_msd ↓  judge, one number for a method's clips" in text
    assert re.search(r"best_of_n +16 +[\d.]+  -[\d.]+, p = 0.005", text)
    assert "fad_msd: from 16 clips (32 windows) of each method." in text
    assert "change places by chance (200 times)" in sentences(summary)
    write_summary(summary, tmp_path / "summary.csv")
    row = csv_rows(tmp_path / "summary.csv")["best_of_n", "fad_msd"]
    assert (row["kind"], row["windows"], row["low"], row["p"]) == ("set", "32", "", "0.00497512")
    assert float(row["mean"]) == pytest.approx(cell.value, rel=1e-5)


def test_a_measure_of_sets_compares_the_prompts_that_both_methods_have(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    for method, prompt in (("baseline", "p3"), ("sbs", "p4"), ("reference", "p5")):
        embeddings.place(folder, "fad_msd", method, prompt).unlink()
    summary = summarise(folder)
    cells = {method: summary.cells[method, "fad_msd"] for method in summary.methods}
    assert [cell.clips for cell in cells.values()] == [14, 15, 14]
    assert [cell.paired_clips for cell in cells.values()] == [0, 14, 13]
    both = [f"p{n}" for n in range(16) if n not in (3, 4, 5)]
    sbs, base, references = (
        np.concatenate(list(embeddings.load(folder, "fad_msd", place, both).values()))
        for place in ("sbs", "baseline", "reference")
    )
    difference = cells["sbs"].difference
    assert isinstance(difference, SetDifference)
    expected = distance(sbs, references) - distance(base, references)
    assert difference.value == pytest.approx(expected)
    text = sentences(summary)
    assert "fad_msd: from baseline 14 clips (28 windows), best_of_n 15 clips (30 windows)" in text
    assert "fad_msd: no number for 5 clip(s): its embedding, or that of its reference" in text


def test_an_unjudged_clips_embedding_is_not_counted(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["unjudged"] = {"fad_msd": "the reference cannot be read"}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = summarise(folder)
    assert summary.cells["baseline", "fad_msd"].clips == 15
    assert "fad_msd: no number for 1 clip(s): the reference cannot be read" in sentences(summary)


def test_a_long_reason_is_shown_by_its_beginning(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[0]["unjudged"] = {"mtt_vgg": "names no tag; name one of: " + "rock, pop, " * 100}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (line,) = (x for x in findings(summarise(folder)) if "no number" in x)
    assert line.startswith("mtt_vgg: no number for 1 clip(s): names no tag; name one of: rock,")
    assert len(line) < 250
    assert line.endswith(" ..")


def test_one_clip_has_no_distance_and_that_is_said(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, prompts=1, more=(SET,)))
    assert summary.cells["sbs", "fad_msd"].value is None
    assert "fad_msd: no distance for fewer than 2 clips of a method." in sentences(summary)


def test_a_damaged_embedding_is_an_error_that_names_it(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(SET,))
    embeddings.place(folder, "fad_msd", "sbs", "p3").write_bytes(b"\x93NUMPY")
    with pytest.raises(RunFolderError, match=r"sbs/p3.npy cannot be read"):
        summarise(folder)


def test_a_primary_judge_of_sets_is_followed_by_its_p(tmp_path: Path) -> None:
    primary = {**SET, "role": "primary judge"}
    folder = made_up_run(tmp_path, more=(SET,))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["measures"] = [manifest["measures"][0], primary]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    text = sentences(summarise(folder))
    assert re.search(
        r"best_of_n beats .*; and the judge fad_msd agrees: better by -.*, p = 0.005", text
    )
    assert re.search(r"sbs beats .*; but .* does not follow: .*, p = [\d.]+ over 0.05", text)


def test_a_verifier_that_judges_its_own_selection_is_marked_and_never_evidence(
    tmp_path: Path,
) -> None:
    folder = made_up_run(tmp_path, more=(OWN,))
    summary = summarise(folder)
    text = text_table(summary)
    assert "clap ↑  own verifier (no evidence)" in text
    assert "clap: its number is that of tags, which chose these clips, or of a part of it" in text
    assert not next(m for m in summary.measures if m.name == "clap").is_evidence
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["measures"] = [manifest["measures"][0], OWN]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    alone = summarise(folder)
    assert alone.primary is None
    assert "tags chose these clips and no judge is independent of it" in sentences(alone)


def test_every_measures_checkpoint_is_named_under_the_table_and_in_the_csv(tmp_path: Path) -> None:
    summary = summarise(made_up_run(tmp_path, more=(OWN, SET)))
    lines = text_table(summary).splitlines()
    assert "  clap: clap.pt (12345678)" in lines
    assert "  fad_msd: MSD_musicnn (ebd4de86)" in lines
    write_summary(summary, tmp_path / "summary.csv")
    rows = csv_rows(tmp_path / "summary.csv")
    assert rows["sbs", "clap"]["checkpoint"] == "clap.pt (12345678)"
    assert rows["sbs", "tags"]["checkpoint"] == ""


def test_captions_that_are_longer_than_a_measure_reads_are_reported(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, more=(OWN,), unread={"clap": {"captions": 12} | UNREAD})
    expected = "clap reads only the start of 12 of 64 captions (240 tokens unread)."
    assert expected in findings(summarise(folder))
    assert "captions" not in sentences(summarise(made_up_run(tmp_path)))


def test_per_clip_has_every_clip_every_measure_and_why_one_is_lacking(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path, failed=1, more=(SET,))
    path = folder / "records.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    del records[0]["judges"]["mtt_vgg"]
    records[0]["unjudged"] = {"mtt_vgg": "names no tag", "fad_msd": "no reference"}
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    write_per_clip(summarise(folder), tmp_path / "per_clip.csv")
    with (tmp_path / "per_clip.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [
        *("method", "prompt_id", "status", "tags", "msd_kld", "mtt_vgg", "unjudged"),
    ]
    assert len(rows) == 3 * 16 + 1
    assert rows[0]["mtt_vgg"] == ""
    assert rows[0]["unjudged"] == "mtt_vgg: names no tag; fad_msd: no reference"
    for row, record in zip(rows[1:-1], records[1:-1], strict=True):
        assert (row["method"], row["prompt_id"]) == (record["method"], record["prompt_id"])
        assert float(row["tags"]) == record["winner"]["score"]["value"]
        assert float(row["mtt_vgg"]) == record["judges"]["mtt_vgg"]
    assert (rows[-1]["status"], rows[-1]["tags"]) == ("failed", "")
    assert rows[-1]["unjudged"] == "tags: names no tag"


def test_a_run_of_the_first_release_is_read_as_it_was(tmp_path: Path) -> None:
    summary = summarise(first_release(tmp_path))
    write_summary(summary, tmp_path / "summary.csv")
    write_per_clip(summary, tmp_path / "per_clip.csv")
    for name in ("summary.csv", "per_clip.csv"):
        assert (tmp_path / name).read_text() == (COMMITTED / name).read_text()
    assert "  msd_kld: MSD_musicnn (ebd4de86)" in text_table(summary).splitlines()


def test_the_module_prints_and_writes_a_runs_results(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path)
    command = [sys.executable, "-m", "src.reports.benchmark_tables", str(folder)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == text_table(summarise(folder)) + "\n"
    assert (folder / "summary.csv").exists()
    assert (folder / "per_clip.csv").exists()
