"""Playing clips on the listening page: by mouse, by keyboard, from the disk, from a server."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from src.runs.ending import Exit
from tests.browser.conftest import ROOT, Open
from tests.generator.made_up_run import HOSTILE, listening_run, page_of, tone
from tests.local_http import serving

TINY = (
    *("--profile", "builtin", "--verifier", "perplexity", "--judges", "mtt_vgg"),
    *("--method", "baseline", "best_of_n", "sbs", "--num_samples", "2", "--duration", "2"),
    *("--candidates", "4", "--beam_width", "2", "--step_size", "0.8", "--save_audio", "all"),
)

# How many buttons pause, as soon as the player's time goes on.
GOES_ON = """() => new Promise((done) => {
  const audio = document.getElementById("audio");
  const playing = () => document.querySelectorAll("button.playing").length;
  const look = () => audio.currentTime > 0.02 ? done(playing()) : setTimeout(look, 5);
  look();
})"""


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page that benchmark.py leaves of a hostile caption and one with a reference."""
    folder = tmp_path_factory.mktemp("real")
    tone(folder / "violin.wav", seconds=3)
    caption = HOSTILE[0].replace('"', '""')
    table = folder / "prompts.csv"
    table.write_text(
        f'id,caption,path\nhostile,"{caption} piano",none.wav\nviolin,a slow violin,violin.wav\n'
    )
    here = ("--prompts", str(table), "--output", str(folder / "results"))
    ran = subprocess.run(
        [sys.executable, "benchmark.py", *TINY, *here],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ran.returncode == Exit.DONE, ran.stderr
    (page,) = (folder / "results").glob("*/index.html")
    return page


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return page_of(listening_run(tmp_path_factory.mktemp("made up"), prompts=3))


@pytest.fixture
def served(real: Path) -> Iterator[str]:
    """The real page's address on a plain file server."""
    root = real.parents[2]
    with serving(partial(SimpleHTTPRequestHandler, directory=str(root))) as url:
        yield f"{url}/{real.relative_to(root)}"


def play(page: Page, name: str) -> None:
    """Have a clip played by a click, and heard."""
    page.get_by_role("button", name=f"Play {name}", exact=True).click()
    expect_playing(page, name)


def expect_playing(page: Page, name: str) -> None:
    """The clip is heard: its button pauses, and the player's time goes on."""
    expect(page.get_by_role("button", name=f"Pause {name}", exact=True)).to_be_visible()
    assert page.evaluate(GOES_ON) == 1  # in the page: a short clip may end before another question


def focused(page: Page) -> str | None:
    return page.evaluate("document.activeElement.dataset.name ?? null")


@pytest.mark.slow
def test_clips_of_a_real_run_play_one_at_a_time_until_a_click(real: Path, open_page: Open) -> None:
    page = open_page(real)
    for name in ("baseline, hostile", "reference, violin", "sbs, violin"):
        play(page, name)
        expect(page.locator("#playing")).to_have_text(name)
    assert page.locator("audio").count() == 1
    page.get_by_role("button", name="Pause sbs, violin").click()
    expect(page.locator("button.playing")).to_have_count(0)
    assert page.evaluate("document.getElementById('audio').paused")


@pytest.mark.slow
def test_clips_and_references_play_from_a_file_server(served: str, open_page: Open) -> None:
    page = open_page(served)
    for name in ("best_of_n, violin", "reference, violin"):
        play(page, name)


@pytest.mark.slow
def test_candidates_of_the_last_step_play_from_the_tree(real: Path, open_page: Open) -> None:
    page = open_page(real)
    page.get_by_role("button", name="tree, 3 steps of sbs, violin").click()
    leaves = page.locator(".tree button.play")
    expect(leaves).to_have_count(4)
    name = leaves.nth(2).get_attribute("data-name")
    leaves.nth(2).click()
    expect_playing(page, str(name))


def test_everything_is_reached_and_played_without_a_mouse(made_up: Path, open_page: Open) -> None:
    page = open_page(made_up)
    for _ in range(40):
        page.keyboard.press("Tab")
        if focused(page):
            break
    assert focused(page) == "baseline, p0"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert page.evaluate(outline) == "solid"
    page.keyboard.press("Space")
    expect_playing(page, "baseline, p0")
    page.keyboard.press("Space")
    expect(page.locator("button.playing")).to_have_count(0)


def test_arrows_go_from_clip_to_clip_and_to_the_next_prompt_whose_method_did_not_fail(
    made_up: Path, open_page: Open
) -> None:
    page = open_page(made_up)
    page.get_by_role("button", name="Play baseline, p0", exact=True).focus()
    for key, name in (
        ("ArrowUp", "baseline, p0"),
        ("ArrowDown", "best_of_n, p0"),
        ("ArrowRight", "best_of_n, p1"),
        ("ArrowDown", "sbs, p1"),
        ("ArrowLeft", "sbs, p0"),
        ("ArrowLeft", "sbs, p0"),
    ):
        page.keyboard.press(key)
        assert focused(page) == name
    page.get_by_role("button", name="Play lookahead, p1", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert focused(page) == "lookahead, p1"


@pytest.mark.slow
def test_while_a_clip_plays_the_next_one_plays_at_once(real: Path, open_page: Open) -> None:
    page = open_page(real)
    play(page, "baseline, violin")
    page.keyboard.press("ArrowDown")
    expect_playing(page, "best_of_n, violin")


def test_fields_keep_their_keys(made_up: Path, open_page: Open) -> None:
    page = open_page(made_up)
    play(page, "baseline, p0")
    page.locator("#text").focus()
    page.keyboard.type("a b")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.id") == "text"
    assert page.locator("#text").input_value() == "a b"


def test_audio_that_is_gone_since_is_told(
    tmp_path: Path, open_page: Open, trouble: list[str]
) -> None:
    index = page_of(listening_run(tmp_path, prompts=1))
    (index.parent / "audio/sbs/p0.wav").unlink()
    page = open_page(index)
    page.get_by_role("button", name="Play sbs, p0", exact=True).click()
    expect(page.locator("#playing")).to_contain_text("audio/sbs/p0.wav cannot be played")
    assert ["ERR_FILE_NOT_FOUND" in text for text in trouble] == [True]
    trouble.clear()


def test_hostile_captions_are_text(made_up: Path, open_page: Open) -> None:
    page = open_page(made_up)
    assert page.locator(".caption").all_text_contents() == list(HOSTILE)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#clips img, #clips script").count() == 0


def test_a_run_without_audio_has_no_player(tmp_path: Path, open_page: Open) -> None:
    page = open_page(page_of(listening_run(tmp_path, prompts=2, save_audio="none")))
    expect(page.locator(".note")).to_contain_text("saved no audio")
    assert page.locator("audio, button.play, .keys").count() == 0
    expect(page.locator("tr.clip")).to_have_count(8)
