"""Prompt sets: what is read, what is refused, and ids and keys that do not move."""

from pathlib import Path

import pytest

from src.prompts import MAX_CAPTION, PromptError, digest_of, load_prompts, single_prompt


def write(folder: Path, text: str, name: str = "prompts.csv") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_musiccaps_columns_are_understood(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "-abc_DEF123.wav").touch()
    table = write(
        tmp_path,
        "ytid,start_s,end_s,audioset_positive_labels,aspect_list,caption,author_id\n"
        '-abc_DEF123,30,40,"/m/0140xf","[\'slow\', \'piano\']","A slow, sad piano.",4\n'
        "zzz,0,10,,,Fast drums.,4\n",
    )
    first, second = load_prompts(table, 10, tmp_path / "data")
    assert (first.id, first.key, first.text) == ("-abc_DEF123", "-abc_DEF123", "A slow, sad piano.")
    assert (first.start_s, first.end_s) == (30, 40)
    assert first.reference == tmp_path / "data" / "-abc_DEF123.wav"
    assert second.reference is None


def test_a_reference_path_is_relative_to_its_table(tmp_path: Path) -> None:
    table = write(tmp_path, "id,caption,path\na,Piano.,references/a.ogg\n")
    assert load_prompts(table, 1, tmp_path)[0].reference == tmp_path / "references" / "a.ogg"


def test_the_first_rows_are_taken_and_a_short_table_is_used_whole(tmp_path: Path) -> None:
    table = write(tmp_path, "caption\none\ntwo\nthree\n")
    assert [p.text for p in load_prompts(table, 2, tmp_path)] == ["one", "two"]
    assert len(load_prompts(table, 10, tmp_path)) == 3


def test_ids_and_keys_depend_on_the_text_alone(tmp_path: Path) -> None:
    forwards = load_prompts(write(tmp_path, "caption\none\ntwo\n"), 9, tmp_path)
    backwards = load_prompts(write(tmp_path, "caption\ntwo\none\n"), 9, tmp_path)
    assert forwards == backwards[::-1]
    assert single_prompt("one") == forwards[0]


def test_the_same_text_twice_is_two_prompts_with_noise_of_their_own(tmp_path: Path) -> None:
    first, second = load_prompts(write(tmp_path, "caption\nsame\nsame\n"), 9, tmp_path)
    assert first.text == second.text
    assert first.id != second.id
    assert first.key != second.key


def test_what_is_no_file_is_a_prompt_itself(tmp_path: Path) -> None:
    (prompt,) = load_prompts("  a slow   violin melody ", 10, tmp_path)
    assert prompt.text == "a slow violin melody"
    assert prompt.id.startswith("a-slow-violin-melody-")


@pytest.mark.parametrize("text", ["Ünïcödé ♫ only", "♫♫♫", "x" * 500])
def test_ids_made_from_texts_can_name_files(text: str) -> None:
    assert single_prompt(text).id.replace("-", "").isalnum()
    assert single_prompt(text).id.isascii()
    assert len(single_prompt(text).id) < 64


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("text\nhello\n", "no `caption` column .its columns: text."),
        ("", "no `caption` column .its columns: none."),
        ("caption\n", "no rows"),
        ("caption,id\nfine,a\n  ,b\n", "line 3: the caption is empty"),
        (f"caption\n{'x' * (MAX_CAPTION + 1)}\n", "line 2: the caption has 2001 characters"),
        ("caption,id\none,../up\n", "line 2: the id '../up' names files"),
        ("caption,ytid\none,abc\ntwo,ABC\n", "differ in more than their case.*abc"),
        ("caption,start_s\none,soon\n", "line 2: start_s and end_s are seconds"),
    ],
)
def test_tables_that_cannot_be_used_say_where_and_why(
    tmp_path: Path, content: str, complaint: str
) -> None:
    with pytest.raises(PromptError, match=complaint):
        load_prompts(write(tmp_path, content), 10, tmp_path)


def test_a_table_that_is_not_there_or_not_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"no prompt table .*gone\.csv"):
        load_prompts(str(tmp_path / "gone.csv"), 10, tmp_path)
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00caption")
    with pytest.raises(PromptError, match="cannot be read as a CSV file in UTF-8"):
        load_prompts(str(tmp_path / "binary.csv"), 10, tmp_path)


def test_a_byte_order_mark_and_captions_over_several_lines_are_read(tmp_path: Path) -> None:
    path = tmp_path / "excel.csv"
    path.write_text('caption\n"two\nlines"\n', encoding="utf-8-sig")
    assert load_prompts(str(path), 1, tmp_path)[0].text == "two lines"


def test_musiccaps_by_name_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="CSV"):
        load_prompts("musiccaps", 1, tmp_path)


def test_an_edited_caption_changes_the_sets_digest() -> None:
    assert digest_of([single_prompt("a")]) != digest_of([single_prompt("b")])
