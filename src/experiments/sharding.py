"""What a part of a run asks for, and how it ends: --shard (src/runs/shards.py)."""

from collections.abc import Sequence
from pathlib import Path

from src.cluster.settings import ClusterSettings
from src.runs.ending import Exit
from src.runs.records import read_records
from src.runs.settings import UsageError


def refuse_uneven_groups(settings: ClusterSettings, device: str) -> None:
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
        heads = read_records(folder).heads.values()
        done = sum(head["status"] == "ok" for head in heads)
        failed += len(heads) - done
        lines.append(f"{done} of {len(heads)} records are finished in {folder}")
    for folder in folders:
        lines.append(f"To join what is there: python -m src.runs.merge {folder.parent.parent}")
    return "\n".join(lines), Exit.PROMPTS_FAILED if failed else Exit.DONE
