"""Run folders: whole lines, whole files, one process at a time, and going on after a stop."""

import json
import lzma
from pathlib import Path

import pytest

from src.cells import SearchCell
from src.data.files import write_whole
from src.runs.records import (
    CANDIDATES,
    COMPRESSED,
    MANIFEST,
    RECORDS,
    RunFolderError,
    key_of,
    read_manifest,
    read_records,
    records_digest,
    scores_key,
    search_key,
)
from src.runs.run import Run

BASELINE, SBS = search_key("baseline"), search_key("sbs")
IDENTITY = {"seed": 42, "method": ["baseline"]}


def open_run(folder: Path, identity=IDENTITY, **here) -> Run:
    return Run(folder, "benchmark builtin tags", identity, {"measures": []}, here)


def line(prompt: str, status: str = "ok", **more) -> dict:
    return {**BASELINE, "prompt_id": prompt, "status": status, **more}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run with one finished prompt."""
    with open_run(tmp_path) as run:
        run.append(line("a"))
    return run.folder


def test_a_run_is_named_after_a_hash_of_its_settings(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert run.folder.parent == tmp_path
        assert run.folder.name.startswith("benchmark-builtin-tags-")
    with open_run(tmp_path, {"method": ["baseline"], "seed": 42}) as same:
        assert same.folder == run.folder
    with open_run(tmp_path, {**IDENTITY, "seed": 43}) as other:
        assert other.folder != run.folder


def test_a_dry_start_reads_what_is_there_and_writes_nothing(tmp_path: Path) -> None:
    with Run(tmp_path, "benchmark builtin tags", IDENTITY, {}, dry=True) as dry:
        assert not dry.is_done(BASELINE, "a")
    assert not list(tmp_path.iterdir())
    with open_run(tmp_path) as run:  # in use, which is no hindrance
        run.append(line("a"))
        before = {path: path.read_bytes() for path in run.folder.iterdir()}
        dry = Run(tmp_path, "benchmark builtin tags", IDENTITY, {}, dry=True)
        assert (dry.folder, dry.done) == (run.folder, 1)
        assert dry.is_done(BASELINE, "a")
        assert {path: path.read_bytes() for path in run.folder.iterdir()} == before


def test_what_was_appended_is_there_after_a_new_start(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert not run.resumed
        run.append(line("a", score=1.5))
    with open_run(tmp_path) as run:
        assert run.resumed
        assert run.is_done(BASELINE, "a")
        assert not run.is_done(BASELINE, "b")
        assert not run.is_done(SBS, "a")
        (record,) = run.records.values()
        assert (record["score"], record["start"]) == (1.5, 0)


def test_a_failed_prompt_is_taken_up_again_and_its_later_success_counts(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.append(line("a", "failed", reason="no tag"))
    with open_run(tmp_path) as run:
        assert not run.is_done(BASELINE, "a")
        run.append(line("a"))
        assert run.is_done(BASELINE, "a")
    assert [r["status"] for r in read_records(run.folder).values()] == ["ok"]
    assert len((run.folder / RECORDS).read_text().splitlines()) == 2


@pytest.mark.parametrize(
    "torn", [b"{", b'{"kind":"search","method":"baseline","prompt_id":"b","status":"ok"}', b"\xe2"]
)
def test_a_torn_last_line_is_dropped_and_its_prompt_done_again(
    folder: Path, tmp_path: Path, torn: bytes
) -> None:
    path = folder / RECORDS
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert list(read_records(folder)) == [key_of(BASELINE, "a")]
    with open_run(tmp_path) as run:
        assert path.read_bytes() == whole
        assert not run.is_done(BASELINE, "b")
        run.append(line("b"))
    assert len(read_records(folder)) == 2


@pytest.mark.parametrize("damaged", [b"no json", b"[]", b'{"kind":"search"}', b'{"prompt_id":"a"}'])
def test_a_damaged_line_in_the_middle_is_named(
    folder: Path, tmp_path: Path, damaged: bytes
) -> None:
    path = folder / RECORDS
    path.write_bytes(damaged + b"\n" + path.read_bytes())
    with pytest.raises(RunFolderError, match="line 1 is not a record"):
        open_run(tmp_path)


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    with open_run(tmp_path), pytest.raises(RunFolderError, match="in use by another process"):
        open_run(tmp_path)
    open_run(tmp_path).close()


def test_a_folder_of_other_settings_is_never_written_to(folder: Path, tmp_path: Path) -> None:
    manifest = read_manifest(folder)
    write_whole(folder / MANIFEST, json.dumps({**manifest, "hash": "0" * 64}))
    with pytest.raises(RunFolderError, match="other settings"):
        open_run(tmp_path)


def test_every_start_is_in_the_manifest_with_commit_versions_and_machine(tmp_path: Path) -> None:
    with open_run(tmp_path, device="cpu"):
        pass
    with open_run(tmp_path, device="cuda") as run:
        run.append(line("a"))
    manifest = read_manifest(run.folder)
    assert manifest["identity"] == IDENTITY
    assert [start["device"] for start in manifest["starts"]] == ["cpu", "cuda"]
    for start in manifest["starts"]:
        assert set(start["versions"]) >= {"python", "torch", "audiocraft"}
        assert {"commit", "dirty", "cpu_count", "command", "time"} <= set(start)
    assert read_records(run.folder)[key_of(BASELINE, "a")]["start"] == 1


def test_another_commit_is_said_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for commit in ("aaa", "bbb"):
        monkeypatch.setattr("src.runs.run.commit", lambda c=commit: {"commit": c, "dirty": False})
        with open_run(tmp_path) as run:
            pass
    assert [s["commit"] for s in read_manifest(run.folder)["starts"]] == ["aaa", "bbb"]
    assert "begun at commit aaa and goes on at bbb" in caplog.text


def test_a_number_that_is_not_finite_is_never_written(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        with pytest.raises(ValueError, match="JSON compliant"):
            run.append(line("a", score=float("nan")))
        assert not run.is_done(BASELINE, "a")
    assert (run.folder / RECORDS).read_bytes() == b""


def test_compressed_records_are_read_as_before_and_expanded_when_the_run_goes_on(
    folder: Path, tmp_path: Path
) -> None:
    lines, records = (folder / RECORDS).read_bytes(), read_records(folder)
    digest = records_digest(folder)
    (folder / COMPRESSED).write_bytes(lzma.compress(lines))
    (folder / RECORDS).unlink()
    assert read_records(folder) == records
    assert records_digest(folder) == digest
    with open_run(tmp_path) as run:
        assert run.is_done(BASELINE, "a")
    assert not (folder / RECORDS).exists()  # nothing was added
    with open_run(tmp_path) as run:
        run.append(line("b"))
    assert not (folder / COMPRESSED).exists()
    assert (folder / RECORDS).read_bytes().startswith(lines)
    assert len(read_records(folder)) == 2
    assert records_digest(folder) != digest


CELL = {"candidates": 4, "beam_width": 2, "lookahead_k": 0}


@pytest.mark.parametrize(
    ("early", "key"),
    [
        ({"method": "sbs"}, SBS),
        ({"method": "candidates"}, CANDIDATES),
        ({"method": "scores tags"}, scores_key("tags")),
        (
            {"method": "sbs n=4 m=2 k=0 step=2 seed=42", "search": "sbs", **CELL}
            | {"step_size": 2.0, "seed": 42},
            search_key("sbs", SearchCell("sbs", 4, {"beam_width": 2}, 2.0, 42)),
        ),
        (
            {"method": "sbs n=4 m=2 rep=3", "cell": {"method": "sbs", **CELL}, "repetition": 3},
            search_key("sbs", SearchCell("sbs", 4, {"beam_width": 2}), 3),
        ),
    ],
)
def test_records_of_earlier_versions_are_found_by_the_fields_of_their_key(
    tmp_path: Path, early: dict, key: dict
) -> None:
    with open_run(tmp_path) as run:
        pass
    record = {"prompt_id": "a", "status": "ok", "score": 1.5}
    (run.folder / RECORDS).write_text(json.dumps(early | record) + "\n")
    with open_run(tmp_path) as run:
        assert run.is_done(key, "a")
        assert (run.latest(key, "a") or {}) | key | record == run.latest(key, "a")
        run.append({**key, **record, "score": 2.5})
    assert [found["score"] for found in read_records(run.folder).values()] == [2.5]


def test_a_key_tells_methods_cells_measures_and_repetitions_apart() -> None:
    cells = [SearchCell("sbs", n, {"beam_width": 2}, 2.0, seed) for n in (2, 4) for seed in (1, 2)]
    keys: list = [BASELINE, SBS, CANDIDATES, scores_key("tags"), scores_key("clap")]
    keys += [search_key("sbs", cell) for cell in cells]
    keys += [search_key("sbs", cells[0], repetition) for repetition in (1, 2)]
    assert len({key_of(key, prompt) for key in keys for prompt in ("a", "b")}) == 2 * len(keys)
    whole = search_key("sbs", SearchCell("sbs", 2, {"beam_width": 2}, 2, 1))
    assert key_of(whole | {"status": "ok", "prompt_id": "a"}) == key_of(keys[5], "a")


def scored(measure: str, start: int = 0, **more: str) -> dict:
    return {**scores_key(measure), "prompt_id": "a", "start": start, **more}


@pytest.mark.parametrize(
    ("lines", "definition"),
    [
        ([scored("msd_kld")], "whole reference"),
        ([scored("msd_kld"), scored("msd_kld_contrast", 1)], "whole reference"),
        ([scored("msd_kld"), scored("msd_kld_contrast")], ""),
        ([scored("msd_kld", 1), scored("msd_kld_contrast")], ""),
        ([scored("msd_kld", definition="")], ""),  # of a single prompt there is no contrast
        ([scored("mtt_vgg")], ""),
        ([scored("tags")], ""),
    ],
)
def test_scores_older_than_a_judges_controls_are_of_another_definition(
    tmp_path: Path, lines: list[dict], definition: str
) -> None:
    (tmp_path / RECORDS).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert next(iter(read_records(tmp_path).values()))["definition"] == definition
