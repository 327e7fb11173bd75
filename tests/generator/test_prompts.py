"""Prompt sets: what `--prompts` means, and which prompts of a set are used."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from src.data.prompts import (
    Prompt,
    PromptError,
    Selection,
    digest_of,
    load_prompts,
    single_prompt,
)

Select = Callable[..., list[int]]
ROOT = Path(__file__).resolve().parents[2]
HEADER = "ytid,caption,is_balanced_subset,is_audioset_eval"


@pytest.fixture
def table(tmp_path: Path) -> str:
    """40 rows; every second is balanced, every third in the eval split, every fifth has a WAV."""
    rows = [f"-id{i:02},caption {i},{i % 2 == 0},{i % 3 == 0}" for i in range(40)]
    for i in range(0, 40, 5):
        (tmp_path / f"-id{i:02}.wav").touch()
    path = tmp_path / "table.csv"
    path.write_text("\n".join([HEADER, *rows]) + "\n")
    return str(path)


def ids(source: str, folder: Path, **selection: object) -> list[str]:
    return [p.id for p in load_prompts(source, Selection(**selection), folder)]


@pytest.fixture
def select(table: str, tmp_path: Path) -> Select:
    """The rows of the table, or of another source, that are selected."""

    def select(source: str = table, **selection: object) -> list[int]:
        return [int(name.removeprefix("-id")) for name in ids(source, tmp_path, **selection)]

    return select


def test_the_first_rows_of_a_subset_are_taken_and_a_short_set_is_used_whole(
    select: Select,
) -> None:
    assert select(limit=3) == [0, 1, 2]
    assert select() == list(range(10))
    assert select(limit=1_000) == select(limit=None) == list(range(40))
    assert select(subset="balanced", limit=3) == [0, 2, 4]
    assert select(subset="eval", limit=99) == list(range(0, 40, 3))


def test_a_draw_is_the_same_on_every_machine_and_whatever_else_is_in_the_table(
    select: Select, table: str, tmp_path: Path
) -> None:
    drawn = select(pick="random", limit=6)
    assert drawn == [0, 1, 10, 11, 12, 23]  # as sha256sum and sort have it
    assert select(pick="random", limit=6, pick_seed=1) != drawn
    rows = Path(table).read_text().splitlines()
    (tmp_path / "turned.csv").write_text("\n".join([rows[0], *rows[:0:-1]]) + "\n")
    assert select(str(tmp_path / "turned.csv"), pick="random", limit=6) == drawn[::-1]


def test_a_larger_draw_holds_the_smaller_ones_in_the_tables_order(select: Select) -> None:
    draws = [select(pick="random", limit=n) for n in range(1, 42)]
    assert all(draw == sorted(draw) for draw in draws)
    assert all(set(less) < set(more) for less, more in pairwise(draws[:40]))
    assert draws[-1] == draws[-2] == list(range(40))


def test_an_ids_file_may_hold_comments_blank_lines_and_windows_marks(
    select: Select, tmp_path: Path
) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbf# these\r\n-id07\r\n\r\n  -id03  # twice\r\n-id03\r\n-id21")
    assert select(ids=path) == [3, 7, 21]


@pytest.mark.parametrize(
    ("named", "selection", "complaint"),
    [
        (b"", {}, "ids.txt names no ids; write one a line"),
        (b"# nothing\n\n", {}, "ids.txt names no ids"),
        (b"fine\nhttps://youtu.be/x\n", {}, "ids.txt: 'https://youtu.be/x' is no id"),
        (b"\xff\xfea\x00", {}, "ids.txt cannot be read as text in UTF-8"),
        (None, {}, "ids.txt cannot be read as text"),
        (b"-id07\nno\n-ID08\n", {}, "2 of its 3 ids are not in .*table.csv; .* -ID08, no$"),
        (b"".join(b"x%04d\n" % i for i in range(5_000)), {}, "x0019 and 4980 more$"),
        (
            b"-id01",
            {"subset": "eval"},
            "no prompt of .*csv is in the subset 'eval' and named in .*",
        ),
        (b"-id01", {"referenced": True}, "is named in .* and with its reference audio there"),
    ],
)
def test_a_selection_that_cannot_be_made_says_why(
    select: Select, tmp_path: Path, named: bytes | None, selection: dict, complaint: str
) -> None:
    if named is not None:
        (tmp_path / "ids.txt").write_bytes(named)
    with pytest.raises(PromptError, match=complaint):
        select(ids=tmp_path / "ids.txt", **selection)


def test_a_set_without_the_subsets_column_says_so(tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("caption\none\n")
    with pytest.raises(PromptError, match=r"own.csv has no column is_audioset_eval.*ask for all"):
        ids(str(tmp_path / "own.csv"), tmp_path, subset="eval")


def test_only_prompts_whose_reference_is_there_are_used(select: Select, tmp_path: Path) -> None:
    assert select(referenced=True, limit=4) == [0, 5, 10, 15]
    (tmp_path / "own.csv").write_text("id,caption,path\na,one,gone.wav\nb,two,-id00.wav\n")
    assert ids(str(tmp_path / "own.csv"), tmp_path, referenced=True) == ["b"]


def test_what_is_combined_is_left_out_before_some_are_picked(
    select: Select, tmp_path: Path
) -> None:
    (tmp_path / "ids.txt").write_text("\n".join(f"-id{i:02}" for i in range(1, 40)))
    both = {"subset": "balanced", "referenced": True, "ids": tmp_path / "ids.txt"}
    assert select(**both) == [10, 20, 30]
    assert select(**both, limit=2) == [10, 20]
    draws = {tuple(select(**both, limit=2, pick="random", pick_seed=seed)) for seed in range(20)}
    assert draws == {(10, 20), (10, 30), (20, 30)}


def test_musiccaps_is_the_table_in_the_data_folder_or_a_word_on_how_to_get_it(
    select: Select, table: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=r"musiccaps\.csv, is not there: download_data\.py gets"):
        load_prompts("musiccaps", Selection(), tmp_path)
    Path(table).rename(tmp_path / "musiccaps.csv")
    assert select("musiccaps", subset="eval", referenced=True) == [0, 15, 30]


@pytest.mark.parametrize(
    "text", [" a  slow violin ", "Ünïcödé ♫ only", "♫" * 200, "x" * 500, "a\0b"]
)
def test_what_is_no_file_is_a_prompt_whose_id_can_name_files(text: str, tmp_path: Path) -> None:
    (prompt,) = load_prompts(text, Selection(), tmp_path)
    assert prompt.text == " ".join(text.split())
    assert prompt.id.startswith("a-slow-violin-") == ("slow" in text)
    assert prompt.id.replace("-", "").isalnum()
    assert prompt.id.isascii()
    assert len(prompt.id) < 64


def test_a_prompt_that_no_table_could_hold_is_refused(tmp_path: Path) -> None:
    for text, complaint in [("  ", "empty"), ("x" * 2001, "2001 char"), ("\udcff", "not text")]:
        with pytest.raises(PromptError, match=f"the prompt: the caption .*{complaint}"):
            load_prompts(text, Selection(), tmp_path)


def test_an_edited_caption_changes_the_sets_digest() -> None:
    assert digest_of([single_prompt("a")]) != digest_of([single_prompt("b")])


def test_the_sets_digest_is_that_of_runs_made_before() -> None:
    (folder,) = (ROOT / "results" / "builtin").glob("benchmark-*")
    manifest = json.loads((folder / "manifest.json").read_text())
    builtin = load_prompts("builtin", Selection(limit=64), ROOT)
    assert manifest["identity"]["prompts"]["sha256"] == digest_of(builtin)
    assert digest_of([Prompt("a", "text", "key", ROOT, 1, 2, frozenset({"eval"}))]) == digest_of(
        [Prompt("a", "text", "key")]
    )
