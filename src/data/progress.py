"""One progress bar for all loops over prompts: quiet in a log file, and logging does not break
it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm


@contextmanager
def bar(what: str, total: int, done: int, unit: str) -> "Iterator[tqdm]":
    """Counts `unit`s up to `total`, from `done` on."""
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    often = 0.1 if sys.stderr.isatty() else 15.0
    with (
        logging_redirect_tqdm(),
        tqdm(desc=what, total=total, initial=done, unit=unit, mininterval=often) as progress,
    ):
        yield progress
