"""--shard: what scripts that can do a part of a run share (src/runs/shards.py).

latency_experiment.py has no such flag: what it measures is seconds, and those of parts on several
machines are no measurement of any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from src.generator import Generator
from src.runs.records import Run
from src.runs.settings import Settings, UsageError
from src.runs.shards import Shard


@dataclass(frozen=True, kw_only=True)
class ShardedSettings(Settings):
    """The settings of such a script."""

    #: I/N: do only the I-th of N parts of the run, each in a folder of its own inside the run's, on
    #: as many machines as there are; python -m src.runs.merge joins them. Needs a number for
    #: --max_rows on a GPU.
    shard: Annotated[str | None, tyro.conf.arg(metavar="I/N")] = None

    @property
    def part(self) -> Shard | None:
        """Raises UsageError for what is none."""
        try:
            return None if self.shard is None else Shard.parse(self.shard)
        except ValueError as error:
            raise UsageError(str(error)) from None

    def check(self) -> None:
        super().check()
        assert self.part is None or self.part.of
