"""What a run does with its judges: roles, numbers, reasons, files, and judging again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.budget import Ledger
from src.data.audio import Clip, read_audio
from src.data.prompts import Prompt
from src.experiments.searching import search_what_is_left
from src.methods import METHODS
from src.protocol import Checkpoint, Score
from src.runs.build import Parts, checkpoints_of
from src.runs.evaluation import finish, judge_again, judge_clip, measures, unread_captions
from src.runs.records import RECORDS, read_records, search_key
from src.runs.run import Run
from src.runs.settings import SaveAudio
from src.runs.work import here
from src.scoring import VerifierError
from src.tree.node import SearchResult, Winner
from tests.generator.fake_search import (
    RATE,
    FakeJudge,
    FakeSetJudge,
    FakeVerifier,
    Narrow,
    heard,
)
from tests.generator.made_up_run import record

PROMPT = Prompt(id="a", text="a slow piano", key="a")


def selector(*names: str) -> SimpleNamespace:
    checkpoints = {name: Checkpoint(name=f"{name}.pt", sha256="1" * 64) for name in names}
    return SimpleNamespace(name="+".join(names), checkpoints=checkpoints)


def clip(level: float) -> Clip:
    return Clip(np.full((1, 10), level, dtype=np.float32), 10)


def result(level: float = 0.5, method: str = "baseline") -> SearchResult:
    winner = Winner(0, Score(value=1.0), -1.0, np.zeros((4, 5), dtype=np.int16), clip(level))
    leaves = {0: clip(level), 1: clip(level / 2)}
    return SearchResult(PROMPT, method, winner, [], Ledger(frames=5, clips=1), leaves)  # type: ignore[arg-type]


FAR, NEAR = FakeJudge("far"), FakeJudge("near", ("tags",))
CLAP, MUQ = FakeJudge("clap", own=("clap",)), FakeJudge("muq", own=("muq",))


@pytest.mark.parametrize(
    ("selecting", "judges", "roles"),
    [
        # the first judge is primary, unless it shares the selector's data
        (("tags",), (FAR, NEAR), ("primary judge", "judge")),
        (("tags",), (NEAR, FAR), ("judge", "judge")),
        (("perplexity",), (NEAR, FAR), ("primary judge", "judge")),
        # a number that a part of the selector has judges nothing
        (("clap", "quality"), (CLAP, MUQ), ("own verifier", "judge")),
        (("clap",), (MUQ, CLAP), ("primary judge", "own verifier")),
    ],
)
def test_who_judges_and_who_is_no_evidence(
    selecting: tuple[str, ...], judges: tuple[FakeJudge, ...], roles: tuple[str, ...]
) -> None:
    listed = measures(selector(*selecting), judges)  # type: ignore[arg-type]
    assert [(m.name, m.role) for m in listed] == [
        ("+".join(selecting), "selector"),
        *((judge.name, role) for judge, role in zip(judges, roles, strict=True)),
    ]
    same_data = "not independent of tags: same training data"
    assert [m.note for m in listed[1:]] == [
        same_data if judge is NEAR and "tags" in selecting else "" for judge in judges
    ]


def test_every_measure_names_its_checkpoint_and_its_kind() -> None:
    listed = measures(selector("tags", "clap"), [FakeJudge("one"), FakeSetJudge()])  # type: ignore[arg-type]
    assert [m.checkpoint for m in listed] == [
        "tags.pt (11111111), clap.pt (11111111)",
        "fake (22222222)",
        "fake (22222222)",
    ]
    assert [m.kind for m in listed] == ["clip", "clip", "set"]


def test_a_redefined_judge_makes_another_runs_folder() -> None:
    plain, loud = FakeJudge("one"), FakeJudge("one")
    loud.definition = "loud"  # type: ignore[misc]
    parts = SimpleNamespace(generator=plain, verifier=selector("tags"), judges=[plain], value=None)
    assert list(checkpoints_of(parts)) == ["generator", "tags", "one"]  # type: ignore[arg-type]
    parts.judges = [loud]
    assert list(checkpoints_of(parts)) == ["generator", "tags", "one, loud"]  # type: ignore[arg-type]
    assert measures(selector("tags"), [loud])[1].origin == "fake (22222222), loud"  # type: ignore[arg-type]


def test_a_clip_that_a_judge_has_no_number_for_keeps_the_others_and_the_reason(
    tmp_path: Path,
) -> None:
    judges = [FakeJudge("one"), FakeJudge("two", problem="no reference")]
    written = finished_in(tmp_path, result(), judges, "none")
    assert written["status"] == "ok"
    assert written["judges"] == {"one": 0.5}
    assert written["unjudged"] == {"two": "no reference"}
    assert written["ledger"]["seconds"]["judge"] > 0


def test_a_lost_server_ends_the_run_instead_of_leaving_clips_unjudged(tmp_path: Path) -> None:
    class Lost(FakeJudge):
        def judge(self, clips, prompts) -> list[float]:
            raise VerifierError("gone")

    with pytest.raises(VerifierError):
        judge_clip(clip(1), PROMPT, "baseline", [Lost("lost")], tmp_path)


def finished_in(folder: Path, of: SearchResult, judges: Sequence[Any], save: SaveAudio) -> dict:
    """The record of a search whose files are in the folder."""
    done = finish(of, judges, folder, save)
    with Run(folder, "run", {}, {}, folder=folder) as run:
        run.keep(replace(done, record=None))
    assert done.record is not None
    return done.record


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        ("none", []),
        ("winners", ["audio/sbs/a.wav"]),
        ("all", ["audio/sbs/a.wav", "audio/sbs/a/000.wav", "audio/sbs/a/001.wav"]),
    ],
)
def test_audio_is_saved_as_asked(choice: SaveAudio, files: list[str], tmp_path: Path) -> None:
    written = finished_in(tmp_path, result(method="sbs"), [], choice)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.wav")) == files
    assert written.get("audio") == (files[0] if files else None)
    if choice == "all":
        leaf = read_audio(tmp_path / written["candidates"] / "001.wav")
        assert np.array_equal(leaf.samples, clip(0.25).samples)


def test_a_set_judge_leaves_the_embeddings_of_clip_and_reference(tmp_path: Path) -> None:
    written = finished_in(tmp_path, result(), [FakeSetJudge()], "none")
    assert written["judges"] == {}
    embedding = np.load(tmp_path / "embeddings/fake_set/baseline/a.npy")
    assert embedding.dtype == np.float32
    assert embedding.tolist() == [[0.5]]
    assert np.load(tmp_path / "embeddings/fake_set/reference/a.npy").tolist() == [[0.0]]
    assert not list(tmp_path.rglob("*.part.npy"))


def test_without_a_reference_a_set_judge_leaves_the_clip_unjudged(tmp_path: Path) -> None:
    prompt = replace(PROMPT, id="unreferenced")
    heard = judge_clip(clip(1), prompt, "baseline", [FakeSetJudge()], tmp_path)
    assert heard == ({"judges": {}, "unjudged": {"fake_set": "no reference"}}, {})


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(tmp_path, "run", {"settings": {}}, {}) as run:
        yield run


def finished(run: Run, judges: Sequence[FakeJudge], save: SaveAudio = "winners") -> None:
    written = finish(result(level=0.123456789), judges, run.folder, save)
    run.keep(replace(written, record=search_key("baseline") | (written.record or {})))


def judged_again(run: Run, judges: Sequence[FakeJudge]) -> int:
    parts: Any = SimpleNamespace(judges=judges)
    return judge_again(run, [PROMPT], judges, here(parts))


def test_what_was_unjudged_is_judged_again_from_the_saved_audio(run: Run) -> None:
    one, two = FakeJudge("one"), FakeJudge("two", problem="no reference")
    finished(run, [one, two])
    two.problem = ""
    assert judged_again(run, [one, two]) == 1
    assert judged_again(run, [one, two]) == 0
    (left,) = read_records(run.folder).values()
    assert one.calls == 1, "a clip that has its number is not heard again"
    assert left["judges"]["two"] == left["judges"]["one"] == np.float32(0.123456789)
    assert left["unjudged"] == {}
    assert left["winner"]["score"]["value"] == 1.0


def test_what_still_cannot_be_judged_is_not_written_again(run: Run) -> None:
    judge = FakeJudge("one", problem="no reference")
    finished(run, [judge])
    assert judged_again(run, [judge]) == 0
    assert (run.folder / RECORDS).read_text().count("\n") == 1


@pytest.mark.parametrize("save", ["none", "winners"])
def test_without_its_audio_nothing_is_judged_again_and_what_was_deleted_is_said(
    run: Run, save: SaveAudio, caplog: pytest.LogCaptureFixture
) -> None:
    judge = FakeJudge("one", problem="no reference")
    finished(run, [judge], save)
    for saved in run.folder.rglob("*.wav"):
        saved.unlink()
    judge.problem = ""
    assert judged_again(run, [judge]) == 0
    assert ("cannot be judged again" in caplog.text) == (save == "winners")


def test_captions_that_are_read_in_part_are_counted_by_who_reads_them() -> None:
    class Short(FakeJudge):
        def unread(self, prompt: Prompt) -> int:
            return max(0, len(prompt.text) - 5)

    class Client:
        def unread(self, names, prompts) -> dict[str, list[int]]:
            assert names == ["clap", "muq"]
            return {"clap": [0 for _ in prompts], "muq": [7 for _ in prompts]}

    class Counted:
        def another(self) -> Client:  # what is asked here is no cost of a search
            return Client()

    prompts = [PROMPT, replace(PROMPT, id="b", text="short")]
    muq = FakeJudge("muq", own=("muq",))  # a verifier that judges: the server counts for it
    found = unread_captions(prompts, selector("clap", "perplexity"), [muq], Counted())  # type: ignore[arg-type]
    assert found == {"muq": {"captions": 2, "of": 2, "tokens": 14}}
    assert unread_captions(prompts, selector("perplexity"), [muq], None) == {}  # type: ignore[arg-type]
    local = Short("kld_pq")
    found = unread_captions(prompts, selector("perplexity"), [local], None)  # type: ignore[arg-type]
    assert found == {"kld_pq": {"captions": 1, "of": 2, "tokens": 7}}


def test_made_up_records_have_the_shape_of_real_ones(tmp_path: Path) -> None:
    """What the tests of reports and figures read is what a run writes."""
    made_up = record("baseline", "a", 1.0, {"one": 0.5})
    written = finished_in(tmp_path, result(), [FakeJudge("one")], "winners")
    written |= search_key("baseline")
    assert set(made_up) <= set(written)
    assert set(made_up["winner"]) <= set(written["winner"])
    assert set(made_up["ledger"]) == set(written["ledger"])
    assert set(made_up["ledger"]["seconds"]) <= set(written["ledger"]["seconds"])


@pytest.mark.parametrize(
    ("level", "recorded"), [(0.5, (-6.0, False)), (5e-4, (-66.0, True)), (0.0, (None, True))]
)
def test_a_winners_level_is_recorded_and_silence_marked(
    tmp_path: Path, level: float, recorded: tuple[float | None, bool]
) -> None:
    winner = finished_in(tmp_path, result(level), [], "none")["winner"]
    assert (winner["level"], winner["silent"]) == recorded


def test_a_candidate_that_is_out_is_in_the_record_and_its_prompt_is_not_searched_again(
    tmp_path: Path,
) -> None:
    def searched() -> tuple[int, list[dict]]:
        generator = Narrow(overflows=lambda tokens: tokens[0] % 2 == 1)
        verifier = FakeVerifier(lambda item: "odd" if heard(item)[0] % 3 == 0 else None)
        parts = Parts(generator, verifier, ())  # type: ignore[arg-type]
        plan = METHODS["best_of_n"].make_plan(4, 0.2, 0.1, RATE, {})
        with Run(tmp_path, "run", {"script": "benchmark"}, {}) as run:
            search_what_is_left(run, [(search_key("best_of_n"), plan, 3)], [PROMPT], parts)
            return len(generator.begun), list(run.records.values())

    groups, (done,) = searched()
    assert (groups, done["status"]) == (1, "ok")
    overflowed, odd = (
        [node for node in done["tree"] if node["score"].get("reason", "").startswith(why)]
        for why in ("the model's output is not a number", "odd")
    )
    assert {node["log_prob"] for node in overflowed} == {None}
    assert odd
    assert not any(node["kept"] for node in (*overflowed, *odd))
    assert searched() == (0, [done])
