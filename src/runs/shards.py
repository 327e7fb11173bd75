"""A part of a run, for a machine of its own: --shard 2/5.

A run's prompts are decoded in groups, side by side, and tokens are exact at equal shapes: a group
is never cut. Groups are formed from all the run's prompts, whatever part is asked for, and each
belongs to the shard that a hash of its first prompt's key says. So the parts together are, record
by record, what one process would have written; `python -m src.runs.merge` joins them.

    results/<run>/shards/2-of-5/    a run's folder, with the hash of the whole run
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from src.data.prompts import Prompt

FOLDER = "shards"


@dataclass(frozen=True)
class Shard:
    """index: from 1 to `of`."""

    index: int
    of: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """
        >>> Shard.parse("2/5")
        Shard(index=2, of=5)

        Raises ValueError.
        """
        index, _, of = text.partition("/")
        if not (index.isdecimal() and of.isdecimal() and 1 <= int(index) <= int(of)):
            raise ValueError(
                f"--shard {text}: name a part as I/N, the I-th of N, counted from 1, such as 1/8"
            )
        return cls(int(index), int(of))

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    def folder(self, run: Path) -> Path:
        """The shard's, in its run's."""
        return run / FOLDER / f"{self.index}-of-{self.of}"

    def as_record(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        """For the manifest. prompts: all of the run, in order."""
        return {"index": self.index, "of": self.of, "prompts": [p.id for p in prompts]}

    def holds(self, group: Sequence[Prompt]) -> bool:
        """Whether it is this shard's to do."""
        digest = hashlib.blake2b(group[0].key.encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.index - 1

    def of_groups(self, prompts: Sequence[Prompt], size: int) -> Iterator[Prompt]:
        """Those of its groups. prompts: all of the run; size: of a group."""
        for at in range(0, len(prompts), size):
            group = prompts[at : at + size]
            if self.holds(group):
                yield from group
