"""The shards of a run joined into the run that one process would have made.

    python -m src.runs.merge results/benchmark-builtin-tags-n16-1a2b3c4d
    python -m src.runs.merge results/pool-builtin-m64-0123abcd /mnt/other/shards/2-of-5

Joins all that is in the run's folder under shards/, and shards that lie elsewhere, whenever there
is something to join: what is missing is listed, and the exit code is then 1. To join again changes
nothing, or adds what has come since. Records come in the order of one process, tokens, audio and
embeddings are linked (copied to another file system), and starts are kept, each with its shard.
Judges of sets, statistics and figures follow from what is joined: python -m src.reports RUN.

Refused are shards of runs with other settings, and two results of one prompt that differ in more
than time. No more than one record at a time is in memory.
"""

import argparse
import filecmp
import os
import shutil
import sys
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from src.data.files import as_json, make_folder, remove, whole_file
from src.data.lease import InUse, Lease
from src.data.progress import bar
from src.runs.arguments import given
from src.runs.ending import Exit, ending, say
from src.runs.records import (
    COMPRESSED,
    MANIFEST,
    RECORDS,
    Record,
    RunFolderError,
    key_of,
    ranks,
    write_manifest,
)
from src.runs.shards import FOLDER, Shard
from src.runs.sources import START, Entry, Source, differing, in_words, results_of

FILES = ("tokens", "audio", "embeddings")
NAMED = 10  # of the prompts that are missing


def merge(folders: Sequence[Path]) -> tuple[str, bool]:
    """Join shards. Returns what was done and what is missing, and whether nothing is.

    folders: the run's, shards, or both. Raises RunFolderError, WriteError.
    """
    run, shards = find(folders)
    with ExitStack() as stack:
        try:
            stack.enter_context(Lease(run))
        except InUse as error:
            raise RunFolderError(f"{error}: wait for it or end it") from None
        sources = [Source.of(folder) for folder in shards]
        if (run / MANIFEST).exists():  # joined before, or begun by one process: one more source
            sources.insert(0, Source.of(run))
        manifest = joined_manifest(sources)
        prompts = next(source.prompts for source in sources if source.prompts)
        kept = choose(sources)
        for source in sources:
            link_files(source.folder, run)
        write_manifest(run, manifest)
        rank = ranks(manifest["starts"], prompts)
        with bar("join", len(kept), 0, "record") as progress, whole_file(run / RECORDS) as file:
            for key in sorted(kept, key=rank):
                source = sources[kept[key].source]
                record = source.records.as_written(key)
                record["start"] = source.starts[record["start"]]
                if "reference" in record:
                    there = (source.folder / record["reference"]).resolve()
                    record["reference"] = Path(os.path.relpath(there, run.resolve())).as_posix()
                file.write(f"{as_json(record)}\n".encode())
                progress.update()
        remove(run / COMPRESSED)
    there = {str(source.shard) for source in sources if source.shard}
    missing = what_is_missing(manifest["starts"], prompts, kept, there)
    text = f"{run}: {len(kept)} records of {len(there)} shard{'s' * (len(there) > 1)}"
    return "\n".join([text, *missing, f"Tables and figures: python -m src.reports {run}"]), (
        not missing
    )


def find(folders: Sequence[Path]) -> tuple[Path, list[Path]]:
    """The run's folder, and those of shards that have begun. Raises RunFolderError."""
    runs: list[Path] = []
    found: list[Path] = []
    for folder in folders:
        if folder.resolve().parent.name == FOLDER:
            found.append(folder)
            continue
        runs.append(folder)
        every = sorted((folder / FOLDER).glob("*-of-*"))
        found += [p for p in every if (p / MANIFEST).exists() or (p / RECORDS).exists()]
    shards = {path.resolve(): path for path in found}
    runs = runs or [path.parent.parent for path in shards]
    if len({run.resolve() for run in runs}) != 1:
        raise RunFolderError(
            f"which run are they joined into? There are {', '.join(map(str, runs))}"
        )
    if not shards:
        raise RunFolderError(f"{runs[0]} has no shards that have begun, in {FOLDER}/")
    make_folder(runs[0])
    return runs[0], list(shards.values())


def joined_manifest(sources: Sequence[Source]) -> dict[str, Any]:
    """The run's manifest, with the starts of all; notes in each source what their numbers are.

    Starts that the run has keep their numbers. Raises RunFolderError for other settings.
    """
    first = sources[0]
    for source in sources:
        if source.manifest["hash"] != first.manifest["hash"]:
            named = ", ".join(differing(first.manifest["identity"], source.manifest["identity"]))
            raise RunFolderError(
                f"{first.folder} and {source.folder} are of runs with other settings: {named}"
            )
    starts: dict[str, dict[str, Any]] = {}
    labelled = []
    for source in sources:
        name = {"shard": str(source.shard)} if source.shard else {}
        labelled.append([start | name for start in source.manifest["starts"]])
    own = labelled[0] if first.shard is None else []
    new = [start for of_source in labelled for start in of_source]
    for start in [*own, *sorted(new, key=lambda start: start["time"])]:
        starts.setdefault(as_json(start), start)
    numbers = {text: number for number, text in enumerate(starts)}
    for source, of_source in zip(sources, labelled, strict=True):
        source.starts = [numbers[as_json(start)] for start in of_source]
    rest = {name: value for name, value in first.manifest.items() if name != "shard"}
    return rest | {"starts": list(starts.values())}


def choose(sources: Sequence[Source]) -> dict[Hashable, Entry]:
    """Which record of each key is the run's: a finished one before a failed one. Of what was joined
    before, the shard's latest. Raises RunFolderError for two that differ."""
    kept: dict[Hashable, Entry] = {}
    with bar("read", len(sources), 0, "folder") as progress:
        for number, source in enumerate(sources):
            for key, new in source.entries(number):
                old = kept.setdefault(key, new)
                if new is old or new.is_ok < old.is_ok:
                    continue
                if new.is_ok == old.is_ok:
                    both = [sources[entry.source].records for entry in (old, new)]
                    lines = (records.line(key) for records in both)
                    if len({START.sub(b"", line) for line in lines}) == 1:
                        continue  # as a rule, and faster than to read them
                    one, other = (results_of(records.as_written(key)) for records in both)
                    again = sources[old.source].shard is None and old.shard == new.shard
                    if one == other or (not again and not new.is_ok and new.time <= old.time):
                        continue
                    if new.is_ok and not again:
                        folders = sources[old.source].folder, source.folder
                        raise disagreement(*folders, one, other)
                kept[key] = new
            progress.update()
    return kept


def disagreement(first: Path, second: Path, one: Record, other: Record) -> RunFolderError:
    return RunFolderError(
        f"{first} and {second} have different results of prompt {one['prompt_id']}, "
        f"{in_words(one)}: {'; '.join(differing(one, other))}. Shards of one run need the same "
        "--max_rows, and cards of one kind where precision is half"
    )


def what_is_missing(
    starts: Sequence[Mapping[str, Any]],
    prompts: Sequence[str],
    kept: Mapping[Hashable, Entry],
    there: set[str],
) -> list[str]:
    """In sentences; none when the run is complete. there: shards."""
    asked = {as_json(key): key for start in starts for key in start.get("asked", ())}
    said = []
    for key in asked.values():
        found = [kept.get(key_of(key, prompt)) for prompt in prompts]
        absent = [p for p, entry in zip(prompts, found, strict=True) if entry is None]
        failed = [p for p, entry in zip(prompts, found, strict=True) if entry and not entry.is_ok]
        for ids, what in ((absent, "missing"), (failed, "failed")):
            if ids:
                more = f" and {len(ids) - NAMED} more" if len(ids) > NAMED else ""
                said.append(
                    f"{in_words(key)}: {len(ids)} of {len(prompts)} prompts {what}: "
                    f"{', '.join(ids[:NAMED])}{more}"
                )
    begun: dict[int, set[int]] = defaultdict(set)
    for shard in map(Shard.parse, there):
        begun[shard.of].add(shard.index)
    for of, known in begun.items() if said else ():
        if lacking := sorted({*range(1, of + 1)} - known):
            several = len(lacking) > 1
            said.append(
                f"shard{'s' * several} {' and '.join(map(str, lacking))} of {of} "
                f"{'have' if several else 'has'} not begun"
            )
    return said


def link_files(source: Path, run: Path) -> None:
    """Tokens, audio and embeddings of a shard. Raises RunFolderError for one that is there and
    differs."""
    if source.resolve() == run.resolve():
        return
    every = [path for name in FILES for path in sorted((source / name).rglob("*"))]
    for path in [path for path in every if path.is_file() and not path.name.startswith(".")]:
        target = run / path.relative_to(source)
        make_folder(target.parent)
        if target.exists():
            if not same(path, target):
                raise RunFolderError(
                    f"{path} and {target} differ. If the shard's is right, remove the other"
                )
            continue
        try:
            os.link(path, target)
        except OSError:  # another file system, or one without links
            with path.open("rb") as read, whole_file(target) as file:
                shutil.copyfileobj(read, file)


def same(one: Path, other: Path) -> bool:
    """Whether two files are; what a reference sounds like, but for the rounding of another card:
    prompts may be heard in several shards."""
    if one.samefile(other) or filecmp.cmp(one, other, shallow=False):
        return True
    if one.parent.name != "reference":
        return False
    first, second = np.load(one), np.load(other)
    return first.shape == second.shape and bool(np.allclose(first, second, rtol=1e-3, atol=1e-3))


def main(args: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m src.runs.merge", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    asked = parser.parse_args(given(args, parser.prog))
    with ending("merge"):
        text, complete = merge(asked.folders)
        say(text)
    return Exit.DONE if complete else Exit.PROMPTS_FAILED


if __name__ == "__main__":
    sys.exit(main())
