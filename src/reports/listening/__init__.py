"""Blind listening tests: what one is made of, its key, and what a listener sends back.

    make.py    a test of two methods of a run: a page that does not say which is which, and its key
    read.py    listeners' files and the key: which method they prefer, with an interval by prompt

The page shows a test's pairs; the key says what they are. The page's number is the SHA-256 of its
key, so whoever has the page can check that the key was not changed after the answers were in; the
seed inside is 128 random bits, so nobody can find the key by trying.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from src.data.files import as_json
from src.runs.records import RunFolderError

QUESTIONS = {"text": "Which fits the text better?", "sound": "Which sounds better?"}

Side = Literal["a", "b"]
T = TypeVar("T", bound="Stored")


class ListeningError(RunFolderError):
    """A run that no test can be made of, or a listener's file or key that cannot be used."""


class Stored(BaseModel):
    """What is kept as a JSON file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def read(cls: type[T], path: Path) -> T:
        """Raises ListeningError."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            problem = f"{where}: {first['msg']}" if where else first["msg"]
            raise ListeningError(f"{path} is damaged, or is another file: {problem}") from error
        except OSError as error:
            raise ListeningError(f"{path} cannot be read: {error.strerror}") from error


class Pair(Stored):
    """Two clips of a prompt: the method on each side. again: a pair that was heard before, with
    its sides swapped."""

    prompt: str
    a: str
    b: str
    again: bool = False


class Key(Stored):
    """What a page must not say.

    seed: of the draw of prompts, order and sides. records: SHA-256 of the run's. questions: by
    name. pairs: by their number on the page. identical: prompts of which both methods have the
    same clip; they are not heard, and count as no difference. left_out: prompts without a clip of
    one method.
    """

    seed: str
    run: str
    records: str
    methods: tuple[str, str]
    questions: Mapping[str, str]
    pairs: Mapping[str, Pair]
    identical: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def page(self) -> str:
        """The number of the page that it is the key of."""
        return hashlib.sha256(as_json(self.model_dump(mode="json")).encode()).hexdigest()


class Heard(Stored):
    """A listener's answers to a pair, by question, and how often each side was played."""

    pair: str
    plays: Mapping[Side, int]
    answers: Mapping[str, Literal["a", "b", "tie"]]


class Results(Stored):
    """What a page saves: one listener's answers, in the order of that listener."""

    page: str
    listener: str
    begun: str
    saved: str
    pairs: tuple[Heard, ...]
