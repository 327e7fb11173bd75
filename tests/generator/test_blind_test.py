"""Blind listening tests: what the page holds, and what is read from listeners' files."""

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from src.data.audio import Clip
from src.data.files import write_whole
from src.reports.listening import QUESTIONS, Key, ListeningError
from src.reports.listening.__main__ import main
from src.reports.listening.make import LOUDNESS, loudness, make_test, matched
from src.reports.listening.read import read_answers, tables
from src.runs.records import Record
from tests.generator.made_up_run import ALL_METHODS, change_records, listening_run, tone

METHODS = ("baseline", "best_of_n")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """p5's clips are the same by both methods; p6 lacks one."""
    folder = listening_run(tmp_path_factory.mktemp("run"), prompts=7)
    for index in range(5):
        tone(folder / f"audio/best_of_n/p{index}.wav", seconds=0.7, pitch=0.2)
    (folder / "audio/best_of_n/p6.wav").unlink()
    return folder


@pytest.fixture(scope="module")
def made(run: Path) -> tuple[Key, str]:
    return make_test(run, METHODS, QUESTIONS, repeats=2)


def data_of(page: str) -> dict[str, Any]:
    found = re.search(r'id="data">(.*?)</script>', page)
    assert found
    return json.loads(found[1])


def test_the_page_names_no_method_prompt_run_or_seed(run: Path, made: tuple[Key, str]) -> None:
    key, page = made
    bare = re.sub(r'"[ab]":"[\w+/=]*"', "", page)
    for secret in (*ALL_METHODS, key.seed, run.name, *(pair.prompt for pair in key.pairs.values())):
        assert not re.search(rf"\b{secret}\b", bare), secret


def test_clips_of_a_pair_differ_in_nothing_but_their_sound(made: tuple[Key, str]) -> None:
    for pair in (pair for pair in data_of(made[1])["pairs"] if "of" not in pair):
        found = [base64.b64decode(pair[side]) for side in ("a", "b")]
        headers, clips = zip(*(flac_of(data) for data in found), strict=True)
        assert headers[0] == headers[1]
        assert loudness(clips[0]) == pytest.approx(loudness(clips[1]), abs=0.05)


def flac_of(data: bytes) -> tuple[Any, Clip]:
    """Everything that a FLAC file says besides its samples, and these."""
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        about = (file.samplerate, file.channels, file.frames, file.subtype, file.copy_metadata())
        return about, Clip(file.read(dtype="float32", always_2d=True).T, file.samplerate)


def test_each_method_is_on_each_side_as_often_and_repeats_swap_sides(
    made: tuple[Key, str],
) -> None:
    key, page = made
    pairs = list(key.pairs.values())
    first = [pair for pair in pairs if not pair.again]
    assert sorted(pair.prompt for pair in first) == ["p0", "p1", "p2", "p3", "p4"]
    assert sum(pair.a == "baseline" for pair in first) in (2, 3)
    for shown in (shown for shown in data_of(page)["pairs"] if "of" in shown):
        late, early = key.pairs[shown["id"]], key.pairs[shown["of"]]
        assert (late.prompt, late.a, late.b) == (early.prompt, early.b, early.a)


def test_order_and_sides_follow_from_the_seed_that_nobody_knows(
    run: Path, made: tuple[Key, str]
) -> None:
    key, page = made
    assert make_test(run, METHODS, QUESTIONS, repeats=2, seed=key.seed) == (key, page)
    orders = {
        tuple((p.prompt, p.a) for p in make_test(run, METHODS, QUESTIONS)[0].pairs.values())
        for _ in range(6)
    }
    assert len(orders) > 1


def test_a_spiky_clip_lowers_both_instead_of_being_cut_off() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(scale=0.01, size=(1, 16000)).astype(np.float32)
    spiky = noise.copy()
    spiky[0, ::4000] = 0.9
    quiet, spikes = matched(Clip(noise, 16000), Clip(spiky, 16000))
    assert np.abs(spikes.samples).max() == pytest.approx(10 ** (-1 / 20), rel=1e-3)
    assert loudness(quiet) == pytest.approx(loudness(spikes), abs=0.05)
    assert loudness(quiet) < LOUDNESS
    silent, other = matched(Clip(noise * 0, 16000), Clip(noise, 16000))
    assert not silent.samples.any()
    assert loudness(other) == pytest.approx(LOUDNESS, abs=0.05)


def results(key: Key, listener: str, prefers: dict[str, str], **changes: Any) -> str:
    """A listener's file. prefers: by prompt a method, or nothing for no difference."""
    pairs = []
    for name, pair in key.pairs.items():
        if pair.prompt in prefers:
            side = {pair.a: "a", pair.b: "b"}.get(prefers[pair.prompt], "tie")
            answers = dict.fromkeys(key.questions, side)
            pairs.append({"pair": name, "plays": {"a": 1, "b": 1}, "answers": answers})
    when = {"begun": "2026-01-01T00:00:00Z", "saved": "2026-01-01T00:10:00Z"}
    return json.dumps({"page": key.page, "listener": listener, **when, "pairs": pairs} | changes)


def test_listeners_are_averaged_within_prompts_and_identical_clips_count_as_no_difference(
    made: tuple[Key, str], tmp_path: Path
) -> None:
    key = made[0]
    base, best = METHODS
    one = {"p0": best, "p1": best, "p2": best, "p3": "", "p4": base}
    two = {"p0": best, "p1": "", "p2": base}
    for name, prefers in (("one", one), ("two", two)):
        (tmp_path / name).write_text(results(key, name, prefers))
    answers = read_answers(key, [tmp_path / "one", tmp_path / "two"])
    found = tables(key, answers)
    assert [row["question"] for row in found["preference"]] == ["text", "sound"]
    row = found["preference"][0]
    values = [1, 0.75, 0.5, 0.5, 0, 0.5]  # p5 is the same by both
    half = 2.5706 * np.std(values, ddof=1) / np.sqrt(6)  # t of 5 degrees of freedom
    assert row["preference"] == pytest.approx(np.mean(values))
    assert (row["low"], row["high"]) == pytest.approx(
        (np.mean(values) - half, np.mean(values) + half), abs=1e-4
    )
    assert row["p"] == pytest.approx(1)  # two prompts against one
    assert (row["prompts"], row["listeners"], row["answers"]) == (6, 2, 8)
    assert row["agreement"] == pytest.approx(1 / 3)
    assert row["by_chance"] == pytest.approx((4 / 8) ** 2 + 2 * (2 / 8) ** 2)
    assert [row["listener"] for row in found["listeners"]] == ["one", "two"]


def test_an_answer_to_a_repeat_shows_consistency_and_counts_for_nothing_else(
    made: tuple[Key, str], tmp_path: Path
) -> None:
    key = made[0]
    text = json.loads(results(key, "one", {f"p{i}": METHODS[1] for i in range(5)}))
    late = [heard for heard in text["pairs"] if key.pairs[heard["pair"]].again]
    late[0]["answers"] = {"text": "tie", "sound": "tie"}
    (tmp_path / "one").write_text(json.dumps(text))
    found = tables(key, read_answers(key, [tmp_path / "one"]))
    assert found["preference"][0]["preference"] == pytest.approx(5.5 / 6)
    assert found["listeners"][0]["consistent"] == 0.5


def test_files_that_do_not_belong_are_refused(
    made: tuple[Key, str], tmp_path: Path, run: Path
) -> None:
    key = made[0]
    good = results(key, "one", {"p0": METHODS[0]})
    odd = [{"pair": "99", "plays": {}, "answers": {"text": "a"}}]
    for text, reason in (
        (results(make_test(run, METHODS, QUESTIONS)[0], "one", {}), "is of page"),
        (good[:40], "is damaged"),
        (good.replace('"a"', '"c"'), "is damaged"),
        (results(key, "one", {}, pairs=odd), "not the page's"),
        (results(key, "one", {}), "none of the files has an answer"),
    ):
        (tmp_path / "file").write_text(text)
        with pytest.raises(ListeningError, match=reason):
            read_answers(key, [tmp_path / "file"])
    (tmp_path / "file").write_text(good)
    with pytest.raises(ListeningError, match="of one listener"):
        read_answers(key, [tmp_path / "file", tmp_path / "file"])


def test_a_key_that_was_changed_is_no_longer_the_pages(
    made: tuple[Key, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = made[0]
    swapped = key.model_copy(update={"methods": METHODS[::-1]})
    write_whole(tmp_path / "key.json", swapped.model_dump_json())
    (tmp_path / "one.json").write_text(results(key, "one", {"p0": METHODS[0]}))
    command = ["--read", str(tmp_path / "one.json"), "--key", str(tmp_path / "key.json")]
    assert main(command) == 5
    assert f"is of page {key.page[:8]}" in capsys.readouterr().err


def test_prompts_without_a_clip_of_both_and_identical_ones_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(run), "--methods", *METHODS, "--output", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Not heard, the clips are the same: p5" in said
    assert "Left out, a method has no audio: p6" in said


@pytest.mark.parametrize(
    ("methods", "save", "reason"),
    [
        (METHODS, "none", "has no audio of baseline and best_of_n to listen to"),
        (("baseline", "mcts"), "winners", "has no mcts; it has baseline, best_of_n, sbs"),
        (("sbs", "lookahead"), "winners", "the same clip of every prompt"),
    ],
)
def test_a_run_that_no_test_can_be_made_of_is_refused_with_the_reason(
    tmp_path: Path, methods: tuple[str, str], save: str, reason: str
) -> None:
    folder = listening_run(tmp_path, prompts=2, save_audio=save)
    with pytest.raises(ListeningError, match=reason):
        make_test(folder, methods, QUESTIONS)


def test_two_settings_of_a_method_are_not_mixed(tmp_path: Path) -> None:
    def change(index: int, record: Record) -> None:
        if record["method"] == "sbs":
            record.update(method="baseline", cell={"method": "baseline"})

    folder = listening_run(tmp_path, prompts=1)
    change_records(folder, change)
    with pytest.raises(ListeningError, match="several settings of baseline"):
        make_test(folder, METHODS, QUESTIONS)


def test_a_question_of_ones_own_is_on_the_page(run: Path, tmp_path: Path) -> None:
    own = ["--questions", "text", "beat=Which has the steadier <beat>?"]
    assert main([str(run), "--methods", *METHODS, *own, "--output", str(tmp_path)]) == 0
    (page,) = tmp_path.glob("*.html")
    assert "<legend>Which has the steadier &lt;beat&gt;?</legend>" in page.read_text()


@pytest.mark.parametrize(
    "wrong",
    [
        ["run"],
        ["run", "--methods", "sbs", "sbs"],
        ["run", "--methods", *METHODS, "--questions", "taste"],
        ["run", "--methods", *METHODS, "--pairs", "0"],
        ["--read", "a.json"],
    ],
)
def test_wrong_usage_ends_at_once(wrong: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2


def test_a_broken_audio_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = listening_run(tmp_path, prompts=1)
    (folder / "audio/baseline/p0.wav").write_bytes(b"RIFF")
    assert main([str(folder), "--methods", *METHODS]) == 5
    assert "p0.wav: cannot be read" in capsys.readouterr().err
