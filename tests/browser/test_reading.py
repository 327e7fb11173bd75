"""Reading the listening page: sorting, filtering, trees, phones, and many prompts."""

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from src.runs.records import Record, read_records
from tests.browser.conftest import Open
from tests.generator.made_up_run import (
    ALL_METHODS,
    FAILED,
    UNJUDGED,
    change_records,
    listening_run,
    page_of,
)

LONGEST = 3.0  # seconds until a page of 200 prompts is there, or sorted


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return listening_run(tmp_path_factory.mktemp("run"), prompts=6)


@pytest.fixture
def page(run: Path, open_page: Open) -> Page:
    return open_page(page_of(run))


def records(folder: Path) -> dict[tuple[str, str], Record]:
    return {(r["method"], r["prompt_id"]): r for r in read_records(folder).values()}


def order(page: Page) -> list[str]:
    """Ids of the prompts that are to be seen, from the top."""
    return page.locator("#clips tbody:not([hidden]) .id").all_text_contents()


def test_prompts_are_sorted_by_any_score_the_best_first_and_reversed(run: Path, page: Page) -> None:
    found = records(run)
    for sort, method, judge, sign in (
        ("mtt_vgg ↑ (judge)", "sbs", "mtt_vgg", -1),
        ("msd_kld ↓ (primary judge)", "baseline", "msd_kld", 1),
    ):
        page.locator("#sort").select_option(label=sort)
        page.locator("#of-method").select_option(method)
        values = {f"p{i}": found[method, f"p{i}"]["judges"].get(judge) for i in range(6)}
        best = sorted((p for p in values if values[p] is not None), key=lambda p: sign * values[p])
        last = [p for p in values if values[p] is None]  # either way
        assert order(page) == best + last
        page.locator("#reversed").check()
        assert order(page) == best[::-1] + last
        page.locator("#reversed").uncheck()


def test_prompts_are_sorted_by_the_difference_to_the_baseline(run: Path, page: Page) -> None:
    found = records(run)

    def gain(key: str) -> float:
        own, base = (found[m, key]["winner"]["score"]["value"] for m in ("best_of_n", "baseline"))
        return own - base

    page.locator("#sort").select_option("difference:0")
    page.locator("#of-method").select_option("best_of_n")
    assert order(page) == sorted((f"p{i}" for i in range(6)), key=gain, reverse=True)


def test_a_cell_has_the_score_and_its_difference_and_the_selectors_is_marked(
    run: Path, page: Page
) -> None:
    found = records(run)
    own, base = (found[m, "p4"]["judges"]["mtt_vgg"] for m in ("sbs", "baseline"))
    body = page.locator("#clips tbody").nth(4)
    cells = body.locator("tr.clip[data-method=sbs] td")
    digits = len(cells.nth(2).locator(".value").inner_text().partition(".")[2])
    shown = cells.nth(2).locator(".value, small").all_text_contents()
    assert [s.replace("−", "-") for s in shown] == [
        f"{own:.{digits}f}",
        f"{own - base:+.{digits}f}",
    ]
    assert cells.nth(2).locator("small").get_attribute("class") == (
        "better" if own > base else "worse"
    )
    assert "own" in str(cells.nth(0).get_attribute("class"))
    assert cells.nth(0).locator("small").get_attribute("class") == ""
    expect(page.locator("#clips thead th").nth(1)).to_contain_text("selector")


def test_the_text_filter_looks_at_prompts_and_ids(page: Page) -> None:
    page.locator("#text").fill("VIOLIN 4")
    assert order(page) == ["p4"]
    page.locator("#text").fill("p5")
    assert order(page) == ["p5"]
    expect(page.locator("#count")).to_have_text("1 of 6 prompts")


def test_failed_and_unjudged_clips_are_found_with_their_reasons(page: Page) -> None:
    page.locator("#state").select_option("failed")
    assert order(page) == ["p2"]
    expect(page.locator("td.failed:visible")).to_have_text(
        f"failed step 0, candidate 3, tags: {FAILED}"
    )
    page.locator("#state").select_option("unjudged")
    assert order(page) == ["p1"]
    reason = page.locator("td details:visible").first
    reason.locator("summary").click()
    expect(reason).to_contain_text(UNJUDGED)


def test_methods_are_left_out_with_what_of_them_is_open(page: Page) -> None:
    page.locator("tr.clip[data-method=sbs] .more button").first.click()
    page.get_by_label("sbs", exact=True).uncheck()
    expect(page.locator("tr[data-method=sbs]:visible")).to_have_count(0)
    expect(page.locator("tr.clip[data-method=lookahead]:visible")).to_have_count(6)
    page.locator("#state").select_option("failed")
    page.get_by_label("lookahead", exact=True).uncheck()
    assert order(page) == []


def test_a_candidate_without_a_score_comes_last_with_the_reason_and_a_silent_winner_is_marked(
    tmp_path: Path, open_page: Open
) -> None:
    def change(index: int, record: Record) -> None:
        if (record["method"], record["prompt_id"]) == ("best_of_n", "p3"):
            record["tree"][0] |= {"score": {"reason": "it is NaN"}, "log_prob": None, "kept": False}
            record["winner"] |= {"level": -75.2, "silent": True}

    folder = listening_run(tmp_path)
    change_records(folder, change)
    page = open_page(page_of(folder))
    expect(page.locator(".silent")).to_have_text("silent: -75 dB")
    page.get_by_role("button", name="candidates of best_of_n, p3").click()
    last = page.locator(".pool .node").last
    expect(last).to_have_text(re.compile("no score, it is NaN$"))
    expect(last).to_have_attribute("title", "it is NaN")


def test_a_tree_opens_with_who_was_kept_pruned_and_won_and_closes_again(
    run: Path, page: Page
) -> None:
    nodes = records(run)["sbs", "p3"]["tree"]
    button = page.get_by_role("button", name="tree, 3 steps of sbs, p3")
    button.click()
    expect(button).to_have_attribute("aria-expanded", "true")
    for node in nodes:
        place = f"[data-step='{node['step']}'][data-slot='{node['slot']}']"
        shown = page.locator(f".tree .node{place}")
        kept = "won" if node["step"] == 2 else "kept"
        state = kept if node["kept"] else "pruned"
        assert state in str(shown.get_attribute("class")).split()
        said = str(shown.text_content()).replace("−", "-")
        score, _, ending = said.partition(": ")[2].partition(", ")
        assert float(score) == pytest.approx(node["score"]["value"], abs=0.006)
        assert ending == state
        before = "" if node["parent"] is None else f", continues {node['parent']}"
        assert said.startswith(f"step {node['step'] + 1}, candidate {node['slot']}{before}: ")
    assert page.locator(".tree svg path").count() == sum(n["parent"] is not None for n in nodes)
    button.click()
    expect(button).to_have_attribute("aria-expanded", "false")
    assert page.locator(".tree").count() == 0


def test_the_way_to_the_winner_is_marked(run: Path, page: Page) -> None:
    nodes = {(n["step"], n["slot"]): n for n in records(run)["lookahead", "p0"]["tree"]}
    at = next(n for n in nodes.values() if n["kept"] and n["step"] == 2)
    way = [str(at["slot"])]
    while at["parent"] is not None:
        at = nodes[at["step"] - 1, at["parent"]]
        way.insert(0, str(at["slot"]))
    page.get_by_role("button", name="tree, 3 steps of lookahead, p0").click()
    assert page.locator(".tree .node.path .slot").all_text_contents() == way


def test_candidates_of_best_of_n_are_listed_the_best_first(run: Path, page: Page) -> None:
    nodes = sorted(
        records(run)["best_of_n", "p0"]["tree"], key=lambda n: n["score"]["value"], reverse=True
    )
    page.get_by_role("button", name="8 candidates of best_of_n, p0").click()
    listed = page.locator(".pool .node")
    assert listed.locator(".slot").all_text_contents() == [str(n["slot"]) for n in nodes]
    assert "won" in str(listed.first.get_attribute("class"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_needs_no_scrolling_sideways(run: Path, open_page: Open, scheme: str) -> None:
    page = open_page(page_of(run), width=360, color_scheme=scheme)
    for button in page.locator(".more button").all():
        button.click()
    for details in page.locator("details > summary").all():
        details.click()
    page.locator("button.play").first.click()
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    red = int(ground.removeprefix("rgb(").split(",")[0])
    assert (red < 60) == (scheme == "dark")


def test_nothing_moves_for_those_who_ask_for_that(run: Path, open_page: Open) -> None:
    page = open_page(page_of(run), reduced_motion="reduce")
    moving = "getComputedStyle(document.querySelector('.play')).transitionDuration"
    assert page.evaluate(moving) == "0s"


def test_two_hundred_prompts_are_there_and_sorted_fast(tmp_path: Path, open_page: Open) -> None:
    folder = listening_run(tmp_path, prompts=200, candidates=16, steps=5, save_audio="none")
    index = page_of(folder)
    page = open_page(index)
    assert page.locator("tr.clip").count() == 200 * len(ALL_METHODS)
    ready = page.evaluate("performance.getEntriesByType('navigation')[0].domComplete") / 1000
    print(f"200 prompts are there after {ready:.2f} s")
    assert ready < LONGEST
    started = time.monotonic()
    page.locator("#sort").select_option("difference:2")
    page.locator("#text").fill("number 19")
    expect(page.locator("#count")).to_have_text("12 of 200 prompts")
    print(f"and sorted and filtered after {time.monotonic() - started:.2f} s")
    assert time.monotonic() - started < LONGEST
