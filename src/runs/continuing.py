"""The winner of a finished search that another run goes on from: --continue.

    prompt = winner_of("results/benchmark-builtin-tags-n8-0123abcd/best_of_n/builtin-00")
    prompt.given    # int16 [codebooks, frames], its tokens

A run of benchmark.py keeps the tokens of the winners whose audio it saves, in tokens/METHOD/ID.npy.
"""

from pathlib import Path
from typing import Any

from src.data.prompts import Prompt, digest_of_tokens
from src.protocol import Checkpoint
from src.runs.pool import load_tokens, token_file
from src.runs.records import (
    MANIFEST,
    RunFolderError,
    read_manifest,
    read_records,
    without_tree,
)
from src.runs.settings import UsageError

NAMED = 10  # of the prompts that there are


def winner_of(name: str) -> Prompt:
    """The prompt of a finished search, with its winner's tokens.

    name: RUN/PROMPT_ID, or RUN/METHOD/PROMPT_ID. Raises UsageError for what is not there, and
    RunFolderError for a damaged run.
    """
    folder, method = _folder_of(name)
    found = [
        record
        for record in read_records(folder, without_tree).heads.values()
        if record["kind"] == "search" and record["status"] == "ok" and "cell" not in record
    ]
    here = [record for record in found if record["prompt_id"] == Path(name).name]
    methods = [record["method"] for record in here]
    if method is not None:
        here = [record for record in here if record["method"] == method]
    if not here:
        known = sorted({f"{record['method']}/{record['prompt_id']}" for record in found})
        more = f" and {len(known) - NAMED} more" if len(known) > NAMED else ""
        raise UsageError(
            f"--continue {name}: {folder} has no winner of that name; it has "
            f"{', '.join(known[:NAMED]) or 'none of benchmark.py'}{more}"
        )
    if len(here) > 1:
        raise UsageError(
            f"--continue {name} is the winner of several methods: name it "
            f"{folder}/METHOD/{Path(name).name}, where METHOD is one of {', '.join(methods)}"
        )
    return _prompt(folder, here[0])


def refuse_other_model(name: str, generator: Checkpoint) -> None:
    """Raise UsageError where the winner's tokens are another model's: they mean nothing to this."""
    folder, _ = _folder_of(name)
    own = Checkpoint(**read_manifest(folder)["identity"]["checkpoints"]["generator"])
    if own.sha256 != generator.sha256:
        raise UsageError(
            f"--continue {name}: its tokens are of {own.name} ({own.sha256[:8]}), not of --model "
            f"{generator.name} ({generator.sha256[:8]})"
        )


def _folder_of(name: str) -> tuple[Path, str | None]:
    """The run, and the method where one is named."""
    path = Path(name)
    for folder, method in ((path.parent, None), (path.parent.parent, path.parent.name)):
        if (folder / MANIFEST).is_file():
            return folder, method
    what = "that is a run, not a winner" if (path / MANIFEST).is_file() else "no run is there"
    raise UsageError(f"--continue {name}: {what}; write RUN/PROMPT_ID or RUN/METHOD/PROMPT_ID")


def _prompt(folder: Path, record: dict[str, Any]) -> Prompt:
    at = f"{record['method']}/{record['prompt_id']}"
    file = token_file(folder, at)
    if not (file.exists() or file.with_suffix(".npz").exists()):
        raise UsageError(
            f"--continue: {folder} keeps no tokens of {at}: it was made with --save_audio none, or "
            "by a version that kept none. Make it again with another --output"
        )
    tokens = load_tokens(folder, at)
    if digest_of_tokens(tokens) != record["winner"]["tokens_sha256"]:
        raise RunFolderError(f"{file} is damaged: these are not the tokens of its record")
    reference = folder / record["reference"] if "reference" in record else None
    return Prompt(record["prompt_id"], record["prompt"], record["key"], reference, given=tokens)
