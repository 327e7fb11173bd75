"""A headless Chromium, and pages that fail their test for a console error or an outside request."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20_000  # milliseconds that a page may take for anything

Open = Callable[..., Page]
expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    command = [ROOT / "envs" / "chromium.sh", "--find"]
    found = subprocess.run(command, capture_output=True, text=True)
    if found.returncode:
        pytest.fail(found.stderr)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found.stdout.strip())
        yield browser
        browser.close()


@pytest.fixture
def trouble() -> list[str]:
    """Errors and warnings of the console, and requests that leave this machine: none, at the end
    of each test."""
    return []


@pytest.fixture
def open_page(browser: Browser, trouble: list[str]) -> Iterator[Open]:
    """open_page(index.html or an address, width=1100, and what new_context takes)."""
    contexts = []

    def console(said: ConsoleMessage) -> None:
        if said.type in ("error", "warning"):
            trouble.append(said.text)

    def request(asked: Request) -> None:
        if urlsplit(asked.url).hostname not in (None, "", "127.0.0.1"):
            trouble.append(asked.url)

    def open_one(where: Path | str, width: int = 1100, **options: Any) -> Page:
        context = browser.new_context(viewport={"width": width, "height": 800}, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("console", console)
        page.on("request", request)
        page.goto(where.as_uri() if isinstance(where, Path) else where)
        return page

    yield open_one
    for context in contexts:
        context.close()
    assert trouble == []
