"""A blind listening test, from the run to the preference: made, answered in a browser, read."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from src.reports.listening import Key
from src.reports.listening.__main__ import main
from tests.browser.conftest import Open
from tests.generator.made_up_run import listening_run, tone

METHODS = ("baseline", "best_of_n")
HEARD = """(side) => {
  const state = JSON.parse(localStorage.getItem(localStorage.key(0)));
  return state.heard[state.order[state.at]].plays[side] > 0;
}"""
PHONE = {"width": 390, "has_touch": True, "is_mobile": True}


@pytest.fixture
def test(tmp_path: Path) -> tuple[Path, Path]:
    """The page and the key of four prompts, one of them shown twice."""
    run = listening_run(tmp_path, prompts=4)
    for index in range(4):
        tone(run / f"audio/best_of_n/p{index}.wav", seconds=0.7, pitch=0.2)
    assert main([str(run), "--methods", *METHODS, "--repeats", "1"]) == 0
    (page,), (key,) = (run / "listening").glob("*.html"), (run / "listening").glob("*.json")
    return page, key


def shown(page: Page) -> str:
    """The number of the pair on the page, as the state that is kept names it."""
    state = json.loads(page.evaluate("localStorage.getItem(localStorage.key(0))"))
    return str(state["order"][state["at"]])


def wanted(key: Key, pair: str) -> str:
    """What a listener answers who prefers best_of_n, but for one prompt."""
    of = key.pairs[pair]
    return "tie" if of.prompt == "p0" else "a" if of.a == "best_of_n" else "b"


def by_keys(page: Page, answer: str) -> None:
    page.keyboard.press("1")
    page.wait_for_function(HEARD, arg="a")
    page.keyboard.press("2")
    expect(page.locator("#hint")).to_have_text("")
    page.keyboard.press("r")
    page.keyboard.press("t" if answer == "tie" else answer)
    page.keyboard.press("t")
    page.keyboard.press("n")


def by_touch(page: Page, answer: str) -> None:
    expect(page.locator(".answer:enabled, #next:enabled")).to_have_count(0)
    for side in ("a", "b"):
        page.locator(f".clip[data-side={side}]").tap()
        page.wait_for_function(HEARD, arg=side)
    expect(page.locator("#hint")).to_have_text("")
    page.locator(f"[data-question=text] [data-value={answer}]").tap()
    page.locator("[data-question=sound] [data-value=tie]").tap()
    page.locator("#next").tap()


@pytest.mark.parametrize("answer", [by_keys, by_touch])
def test_what_a_listener_prefers_is_what_the_files_say(
    test: tuple[Path, Path],
    open_page: Open,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    answer: object,
) -> None:
    path, key_path = test
    key = Key.read(key_path)
    page = open_page(path, **(PHONE if answer is by_touch else {}))
    page.get_by_role("button", name="Begin").click()
    for number in range(1, 6):
        expect(page.locator("#count")).to_have_text(f"{number} of 5")
        answer(page, wanted(key, shown(page)))  # type: ignore[operator]
        if number == 2:
            page.reload()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Save answers").click()
    saved = tmp_path / saving.value.suggested_filename
    saving.value.save_as(saved)
    assert (
        json.loads(page.locator("#text").input_value())["pairs"]
        == json.loads(saved.read_text())["pairs"]
    )
    capsys.readouterr()
    assert main(["--read", str(saved), "--key", str(key_path)]) == 0
    text, sound = (key_path.parent / "preference.csv").read_text().splitlines()[1:]
    assert text.startswith("text,4,0.875,")
    assert sound.startswith("sound,4,0.5,")
    assert "Same answer to pairs heard twice: 100%." in capsys.readouterr().out


def test_a_phone_has_large_buttons_and_nothing_to_scroll_sideways(
    test: tuple[Path, Path], open_page: Open
) -> None:
    page = open_page(test[0], **PHONE)
    page.get_by_role("button", name="Begin").tap()
    boxes = [b.bounding_box() for b in page.locator("#pair button").all()]
    assert min(min(box["width"], box["height"]) for box in boxes if box) >= 44
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_another_listener_on_the_same_device_has_another_number(
    test: tuple[Path, Path], open_page: Open
) -> None:
    page = open_page(test[0])
    page.on("dialog", lambda dialog: dialog.accept())
    numbers = set()
    for _ in range(2):
        page.get_by_role("button", name="Begin").click()
        for _ in range(5):
            by_keys(page, "a")
        numbers.add(json.loads(page.locator("#text").input_value())["listener"])
        page.get_by_role("button", name="Another listener").click()
    assert len(numbers) == 2
    expect(page.locator("#save")).to_be_hidden()
