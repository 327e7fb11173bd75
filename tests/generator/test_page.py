"""The listening page as a file: what it says, and that nothing in it can do harm.

How it behaves in a browser is tests/browser's.
"""

import base64
import csv
import hashlib
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from src.reports.page import HERE
from src.runs.records import RECORDS, Record
from tests.generator.made_up_run import (
    FAILED,
    HOSTILE,
    SET,
    UNJUDGED,
    change_records,
    first_release,
    listening_run,
    made_up_run,
    page_of,
    tone,
)

ROOT = Path(__file__).resolve().parents[2]


class Reader(HTMLParser):
    """A page's elements with their attributes, its text, and what its scripts and style hold."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.inside: dict[str, str] = {}
        self.text = ""
        self._open = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        kind = {"script": str(dict(attrs).get("type")), "style": "style"}
        self._open = kind.get(tag, "")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open:
            self.inside[self._open] = self.inside.get(self._open, "") + data
        else:
            self.text += re.sub(r"\s+", " ", data)

    @property
    def data(self) -> Any:
        return json.loads(self.inside["application/json"])

    def clip(self, prompt_id: str, method: str) -> dict[str, Any]:
        (prompt,) = (p for p in self.data["prompts"] if p["id"] == prompt_id)
        return prompt["clips"][method]


def read(folder: Path) -> Reader:
    return Reader(page_of(folder))


def test_hostile_text_comes_back_as_it_is_and_ends_no_element(tmp_path: Path) -> None:
    page = read(listening_run(tmp_path))
    assert [prompt["text"] for prompt in page.data["prompts"]][:3] == list(HOSTILE)
    assert page.clip("p1", "sbs")["unjudged"] == {"msd_kld": UNJUDGED}
    assert not re.search("[<>&\u2028\u2029]", page.inside["application/json"])
    assert sum(tag == "script" for tag, _ in page.elements) == 2
    assert not any(tag in ("img", "b") and "onerror" in attrs for tag, attrs in page.elements)
    assert "made up <b>" in page.text
    assert page.clip("p2", "lookahead") == {"failed": f"step 0, candidate 3, tags: {FAILED}"}


def test_the_page_refers_to_nothing_outside(tmp_path: Path) -> None:
    page = read(listening_run(tmp_path))
    found = [attrs[name] for _, attrs in page.elements for name in ("src", "href") if name in attrs]
    assert sorted(map(str, found)) == ["manifest.json", "records.jsonl"]
    for text in page.inside.values():
        assert not re.search(r"url\(|@import|\bimport\b|https?://(?!www\.w3\.org)", text)


def test_the_policy_lets_only_the_pages_own_style_and_script_run(tmp_path: Path) -> None:
    page = read(listening_run(tmp_path))
    (policy,) = (a["content"] for _, a in page.elements if "http-equiv" in a)
    for directive, text in (("style-src", "style"), ("script-src", "module")):
        digest = base64.b64encode(hashlib.sha256(page.inside[text].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}'" in str(policy)
    assert str(policy).startswith("default-src 'none';")


def test_the_page_has_the_tables_numbers_and_tells_selector_and_judges_apart(
    tmp_path: Path,
) -> None:
    page = read(made_up_run(tmp_path, more=[SET], failed=1))
    for words in (
        *("tags ↑ own verifier (selector): no evidence", "msd_kld ↓ primary judge"),
        *("fad_msd ↓ judge, one number for a method's clips", "p = "),
        "unclear by the primary judge msd_kld: whether it follows is not shown.",
        "Failed: 1 (method and prompt, see records.jsonl): sbs f0: tags: names no tag",
    ):
        assert words in page.text
    assert [m["evidence"] for m in page.data["measures"]] == [False, True, True]
    assert page.data["prompts"][-1]["clips"] == {"sbs": {"failed": "tags: names no tag"}}


@pytest.mark.parametrize("done", [6, 0])
def test_a_run_that_is_not_finished_has_a_page_that_says_so(tmp_path: Path, done: int) -> None:
    folder = listening_run(tmp_path)
    records = folder / RECORDS
    records.write_bytes(b"".join(records.read_bytes().splitlines(True)[:done]) + b'{"meth')
    page = read(folder)
    assert f"{done} of 16 clips are finished; the same command goes on" in page.text
    assert len(page.data["prompts"]) == done // 3


def test_an_older_run_without_audio_and_newer_entries_has_a_page(tmp_path: Path) -> None:
    folder = first_release(tmp_path)
    page = read(folder)
    assert "The audio is not in this folder" in page.text
    assert not any(tag == "audio" for tag, _ in page.elements)
    assert len(page.data["prompts"]) == 64
    with (folder / "per_clip.csv").open() as file:
        row = next(r for r in csv.DictReader(file) if (r["method"], r["prompt_id"])[0] == "sbs")
    scores = page.clip(row["prompt_id"], "sbs")["scores"]
    shown = [float(row[m["name"]]) for m in page.data["measures"]]
    assert scores == pytest.approx(shown, rel=1e-5)


def test_a_run_that_saved_no_audio_says_so(tmp_path: Path) -> None:
    page = read(listening_run(tmp_path, save_audio="none"))
    assert "The run saved no audio (--save_audio none)" in page.text
    assert not any(tag == "audio" for tag, _ in page.elements)
    assert page.clip("p0", "sbs")["audio"] is None


def test_audio_that_is_gone_or_outside_is_not_offered(tmp_path: Path) -> None:
    folder = listening_run(tmp_path, methods=("baseline",))
    tone(tmp_path / "elsewhere.wav")
    (folder / "audio/baseline/p0.wav").unlink()
    text = (folder / RECORDS).read_text()
    (folder / RECORDS).write_text(text.replace("audio/baseline/p1.wav", "../elsewhere.wav"))
    page = read(folder)
    offered = {key: page.clip(key, "baseline")["audio"] for key in ("p0", "p1", "p3")}
    assert offered == {"p0": None, "p1": None, "p3": "audio/baseline/p3.wav"}
    assert "The audio of 1 of 3 finished clips is in this folder." in page.text


def test_trees_are_as_the_records_have_them_and_leaves_are_found(tmp_path: Path) -> None:
    folder = listening_run(tmp_path, save_audio="all")
    clip = read(folder).clip("p3", "sbs")
    record = next(
        r
        for r in map(json.loads, (folder / RECORDS).open())
        if (r["method"], r["prompt_id"]) == ("sbs", "p3")
    )
    assert clip["leaves"] == record["candidates"]
    assert read(folder).data["summaries"]["sbs"] == "beam search"
    assert [
        {"step": step, "slot": slot, "parent": parent, "kept": bool(kept)}
        for step, nodes in enumerate(clip["tree"])
        for slot, parent, _, _, kept in nodes
    ] == [{k: node[k] for k in ("step", "slot", "parent", "kept")} for node in record["tree"]]


def test_a_candidate_without_a_score_says_why_and_a_silent_winner_that_it_is(
    tmp_path: Path,
) -> None:
    def change(index: int, record: Record) -> None:
        if "winner" in record:
            record["tree"][0] |= {"score": {"reason": "</script> NaN"}, "log_prob": None}
            record["winner"] |= {"silent": True, "level": None if index else -75.2}

    folder = listening_run(tmp_path)
    change_records(folder, change)
    page = read(folder)
    clips = [clip for prompt in page.data["prompts"] for clip in prompt["clips"].values()]
    shown = [clip for clip in clips if "tree" in clip]
    assert all(c["tree"][0][0][2:] == [None, None, ANY, "</script> NaN"] for c in shown)
    assert {clip["silent"] for clip in shown} == {"silent: -75 dB", "silent: nothing but zeros"}


@pytest.mark.parametrize(
    ("folder", "reference", "shown"),
    [
        ("results/demo", "../../../refs/p3.wav", True),
        ("results/demo", "../../../refs/gone.wav", False),
        ("results/demo", "{outside}/refs/p3.wav", False),
        ("a/b/results/demo", "../../../../../refs/p3.wav", False),
    ],
    ids=["near", "gone", "absolute", "far"],
)
def test_references_are_linked_when_they_are_there_and_near(
    tmp_path: Path, folder: str, reference: str, shown: bool
) -> None:
    tone(tmp_path / "refs" / "p3.wav")
    reference = reference.format(outside=tmp_path)
    run = listening_run(tmp_path / folder, methods=("baseline",))
    change_records(run, lambda i, r: r.update(reference=reference) if i == 3 else None)
    references = {p["id"]: p["reference"] for p in read(run).data["prompts"]}
    expected = reference if shown else None
    assert references == {"p0": None, "p1": None, "p2": None, "p3": expected}


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_text_stands_out_from_its_ground_in_light_and_dark() -> None:
    style = (HERE / "base.css").read_text()
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    for colours in (light, dark):
        for ground in ("paper", "tint"):
            for ink in ("ink", "soft", "accent", "better", "worse"):
                pair = sorted([luminance(colours[ink]), luminance(colours[ground])])
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (ink, ground)


@pytest.mark.parametrize("there", [(), ("chromium",), ("google-chrome", "chromium-headless-shell")])
def test_the_tests_browser_is_any_chromium_or_a_sentence_on_how_to_get_one(
    tmp_path: Path, there: tuple[str, ...]
) -> None:
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "head").symlink_to("/usr/bin/head")
    found = subprocess.run(
        ["/bin/bash", str(ROOT / "envs" / "chromium.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    if there:
        assert found.stdout == f"{tmp_path / there[-1]}\n"
    else:
        assert found.returncode == 1
        assert "apt install chromium-headless-shell" in found.stderr
