"""Prompt tables: what is read, what is refused, and ids and keys that do not move."""

import csv
import time
from pathlib import Path

import pytest

from src.data.prompts import MAX_CAPTION, Prompt, PromptError, read_table, single_prompt


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
    assert second.text == 'Fast "drums". Loud.'
    assert second.reference is None
    assert second.subsets == {"eval", "balanced"}


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


def test_a_table_of_musiccaps_size_is_read_in_well_under_a_second(tmp_path: Path) -> None:
    caption = 'The low quality recording features a "ballad", sung softly.\n' * 6
    with (tmp_path / "musiccaps.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["ytid", "start_s", "end_s", "caption", "is_balanced_subset"])
        for i in range(5_521):
            writer.writerow([f"-{i:010}", i, i + 10, caption, i % 5 == 0])
            (tmp_path / f"-{i:010}.wav").touch()
    begin = time.process_time()
    prompts = read_table(tmp_path / "musiccaps.csv", tmp_path)
    assert time.process_time() - begin < 1
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
    with pytest.raises(PromptError, match=f"{tmp_path / name} cannot be read as a CSV file"):
        read_table(tmp_path / name, tmp_path)
