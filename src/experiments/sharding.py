"""--shard: what scripts that can do a part of a run share (src/runs/shards.py).

latency_experiment.py has no such flag: what it measures is seconds, and those of parts on several
machines are no measurement of any of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from src.cluster.settings import ClusterSettings
from src.runs.ending import Exit
from src.runs.records import read_records
from src.runs.settings import UsageError
from src.runs.shards import Shard


@dataclass(frozen=True, kw_only=True)
class ShardedSettings(ClusterSettings):
    """The settings of a script that can do a part of a run."""

    indecisive: ClassVar[frozenset[str]] = ClusterSettings.indecisive | {"shard"}

    #: I/N: do only the I-th of N parts of the run, in a folder of its own inside the run's, on as
    #: many machines as there are; python -m src.runs.merge joins them. On a GPU it needs a number
    #: for --max_rows.
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
        _ = self.part


def refuse_uneven_groups(settings: ShardedSettings, device: str) -> None:
    """Raise UsageError where the groups of prompts would not be those of the other shards."""
    if settings.shard and settings.max_rows == "auto" and device == "cuda":
        raise UsageError(
            "--shard: all parts need the same groups of prompts, and --max_rows auto follows from "
            "the memory that is free on this GPU now: give all of them one number"
        )


def summary(folders: Sequence[Path]) -> tuple[str, Exit]:
    """How a shard ends, in place of a report: statistics are those of the whole run."""
    lines, failed = [], 0
    for folder in folders:
        records = read_records(folder).values()
        done = sum(record["status"] == "ok" for record in records)
        failed += len(records) - done
        lines.append(f"{done} of {len(records)} records are finished in {folder}")
    for folder in folders:
        lines.append(f"To join what is there: python -m src.runs.merge {folder.parent.parent}")
    return "\n".join(lines), Exit.PROMPTS_FAILED if failed else Exit.DONE
