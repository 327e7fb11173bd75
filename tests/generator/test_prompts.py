"""Prompt sets: what `--prompts` means, which prompts are used, and what tables may hold."""

import csv
import json
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from src.data.prompts import (
    MAX_CAPTION,
    Prompt,
    PromptError,
    Selection,
    digest_of,
    load_prompts,
    read_table,
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


def prompts_of(folder: Path, text: str) -> list[Prompt]:
    (folder / "prompts.csv").write_text(text, encoding="utf-8", newline="")
    return read_table(folder / "prompts.csv", folder)


def test_musiccaps_columns_are_understood(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "-abc_DEF123.wav").touch()
    table = tmp_path / "table.csv"
    table.write_text(
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id,"
        "is_balanced_subset,is_audioset_eval\n"
        '-abc_DEF123,30,40,"/m/0140xf","[\'slow\', \'piano\']","A slow, sad piano.",4,False,True\n'
        'zzz,0,10,,,"Fast ""drums"".\nLoud.",4,True,True\n',
    )
    first, second = read_table(table, tmp_path / "data")
    assert (first.id, first.key, first.text) == ("-abc_DEF123", "-abc_DEF123", "A slow, sad piano.")
    assert (first.start_s, first.end_s) == (30, 40)
    assert first.reference == tmp_path / "data" / "-abc_DEF123.wav"
    assert first.subsets == {"eval"}
    assert (first.aspects, second.aspects) == (("slow", "piano"), ())
    assert second.text == 'Fast "drums". Loud.'
    assert second.reference is None
    assert second.subsets == {"eval", "balanced"}


@pytest.mark.parametrize(
    ("listed", "aspects"),
    [
        ("['slow  tempo', 'piano']", ("slow tempo", "piano")),
        ("slow tempo, piano", ("slow tempo", "piano")),
        ("__import__('os')", ("__import__('os')",)),
        ("[1, 2", ("[1", "2")),
    ],
)
def test_aspects_are_a_list_or_words_with_commas(
    tmp_path: Path, listed: str, aspects: tuple[str, ...]
) -> None:
    (prompt,) = prompts_of(tmp_path, f'caption,aspect_list\none,"{listed}"\n')
    assert prompt.aspects == aspects


def test_a_reference_is_the_path_of_the_row_or_the_wav_of_exactly_that_id(tmp_path: Path) -> None:
    (tmp_path / "ABC.wav").touch()
    (tmp_path / "folder.wav").mkdir()
    prompts = prompts_of(
        tmp_path, "id,caption,path\nother,one,\nABC,two,\nfolder,three,\na,four,audio/a.ogg\n"
    )
    assert [p.reference for p in prompts] == [
        None,
        tmp_path / "ABC.wav",
        None,
        tmp_path / "audio" / "a.ogg",  # relative to its table
    ]


def test_a_table_of_musiccaps_size_is_read_in_a_second_or_two(tmp_path: Path) -> None:
    caption = 'The low quality recording features a "ballad", sung softly.\n' * 6
    with (tmp_path / "musiccaps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ytid", "start_s", "end_s", "caption", "is_balanced_subset"])
        for i in range(5_521):
            writer.writerow([f"-{i:010}", i, i + 10, caption, i % 5 == 0])
            (tmp_path / f"-{i:010}.wav").touch()
    begin = time.process_time()
    prompts = read_table(tmp_path / "musiccaps.csv", tmp_path)
    assert time.process_time() - begin < 3
    assert len(prompts) == 5_521
    assert {p.text for p in prompts} == {" ".join(caption.split())}
    assert sum("balanced" in p.subsets for p in prompts) == 1_105
    assert all(p.reference for p in prompts)


def test_ids_and_keys_depend_on_the_text_alone_and_repeats_have_their_own(tmp_path: Path) -> None:
    forwards = prompts_of(tmp_path, "caption\none\ntwo\n")
    assert forwards == prompts_of(tmp_path, "caption\ntwo\none\n")[::-1]
    assert single_prompt("one") == forwards[0]
    first, second = prompts_of(tmp_path, "caption\nsame\nsame\n")
    assert first.text == second.text
    assert first.id != second.id
    assert first.key != second.key


def test_a_section_without_an_end_lasts_ten_seconds(tmp_path: Path) -> None:
    (prompt,) = prompts_of(tmp_path, "caption,start_s\none,30\n")
    assert (prompt.start_s, prompt.end_s, prompt.seconds) == (30, 40, 10)


@pytest.mark.parametrize(
    ("text", "captions"),
    [
        ('\ufeffcaption\n"two\nlines"\n', ["two lines"]),
        ('id, caption,\r\n\r\na, "slow, sad",\r\nb, fast,,,\r\n', ["slow, sad", "fast"]),
    ],
)
def test_tables_of_spreadsheets_are_read(tmp_path: Path, text: str, captions: list[str]) -> None:
    assert [p.text for p in prompts_of(tmp_path, text)] == captions


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text\nhello\n", "no column caption .its columns: text."),
        ("id;caption\na;b\n", "its columns: id;caption.*separated by commas"),
        ("", "no column caption .its columns: none."),
        ("caption\n", "no rows"),
        ("caption,id\nfine,a\n  ,b\n", "line 3: the caption is empty"),
        ("id,caption\na\n", "line 2: the caption is empty"),
        ('caption\n"two\nlines"\n\nA slow, sad piano.\n', "line 5: 2 fields, but 1 col.*quotes"),
        (f"caption\n{'x' * (MAX_CAPTION + 1)}\n", "line 2: the caption has 2001 characters"),
        ('caption\n"open\n' + "next\n" * 500, "line 2: the caption has .* not closed"),
        ("caption,id\none,../up\n", "line 2: the id '../up' names files"),
        (
            "caption,ytid\none,a\ntwo,b\nthree,a\n",
            "each row needs .*: a in line 2 and a in line 4$",
        ),
        ("caption,id\none,a\ntwo,A\n", "in more than case: a in line 2 and A in line 3$"),
        ("caption,start_s\none,soon\n", "line 2: start_s and end_s are seconds"),
        ("caption,start_s,end_s\none,40,30\n", "line 2: .* the start first; not 40 and 30"),
        ("caption,end_s\none,nan\n", "line 2: .* not 0 and nan"),
        ("caption,is_balanced_subset\none,maybe\n", "is_balanced_subset is True or False.*maybe"),
    ],
)
def test_tables_that_cannot_be_used_say_where_and_why(
    tmp_path: Path, content: str, complaint: str
) -> None:
    with pytest.raises(PromptError, match=complaint) as caught:
        prompts_of(tmp_path, content)
    assert str(tmp_path / "prompts.csv") in str(caught.value)


@pytest.mark.parametrize("name", ["gone.csv", "binary.csv", "."])
def test_a_table_that_is_no_text_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00caption")
    said = "there is no file {}" if name == "gone.csv" else "{} cannot be read as a CSV file"
    with pytest.raises(PromptError, match=said.format(tmp_path / name)):
        read_table(tmp_path / name, tmp_path)


def test_wrong_references_are_other_captions_each_as_often_as_any_whatever_is_selected(
    tmp_path: Path,
) -> None:
    rows = [f"p{n},caption {n % 20},{n}.wav" for n in range(24)]  # four captions come twice
    (tmp_path / "t.csv").write_text("\n".join(["id,caption,path", *rows]))
    for n in range(23):  # the last reference is not there
        (tmp_path / f"{n}.wav").touch()
    everything = load_prompts(str(tmp_path / "t.csv"), Selection(limit=None), tmp_path)
    assert everything[-1].wrong == ()
    captions = {p.reference: p.text for p in everything}
    for p in everything[:-1]:
        assert len(set(p.wrong)) == 8
        assert p.text not in {captions[path] for path in p.wrong}
    used = Counter(path for p in everything for path in p.wrong)
    assert set(used) == {tmp_path / f"{n}.wav" for n in range(23)}
    assert max(used.values()) - min(used.values()) <= 2
    few = load_prompts(str(tmp_path / "t.csv"), Selection(limit=3, pick="random"), tmp_path)
    assert all(p in everything for p in few)
