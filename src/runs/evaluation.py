"""What a run does with its judges: they hear each winner, and again what they left unjudged.

A judge that has no number for a clip leaves it unjudged, with the reason; when the run is resumed
and its audio was saved, such clips are judged again, so that a reference that was missing may come
later. Clips are compared as they were generated: audio is saved in float32, without loss.

Judges of sets leave an embedding of each clip and of its prompt's reference, float32 [windows, D]:

    <run>/embeddings/<name>/<method>/<prompt id>.npy
    <run>/embeddings/<name>/reference/<prompt id>.npy

The name is one for all judges of a network (`SetJudge.embeddings`).
"""

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from src.budget import timed
from src.client import ServerClient
from src.data.audio import AudioError, Clip, encode_wav, read_audio
from src.data.prompts import Prompt
from src.judges.base import ClipJudge, Judge, JudgeError, SetJudge
from src.judges.registry import JUDGES, served
from src.runs.measures import Measure, Role, in_short
from src.runs.pool import token_file
from src.runs.records import Record, RunFolderError
from src.runs.run import Finished, Run
from src.runs.settings import SaveAudio
from src.runs.work import Workers
from src.scoring import LIKELIHOODS, Verifier, host_of, parse
from src.tree.node import SearchResult

if TYPE_CHECKING:
    from src.runs.build import Parts

log = logging.getLogger(__name__)

RELATIVE = (
    "a medoid is relative to the candidates scored together: 0 for the average, and for a lone one"
)
REFERENCE = "reference"  # in a method's place, among embeddings


def measures(verifier: Verifier, judges: Sequence[Judge]) -> list[Measure]:
    """What each clip is measured by: the selector, then judges.

    The first judge is the primary one, unless its number is the selector's own, or it was trained
    on what the selector was trained on.
    """
    weights = ", ".join(dict.fromkeys(map(in_short, verifier.checkpoints.values())))
    names = tuple(dict.fromkeys(map(host_of, verifier.checkpoints)))
    note = RELATIVE if parse(verifier.name).is_relative else ""
    listed = [Measure(verifier.name, "selector", checkpoint=weights, is_verifier=names, note=note)]
    for judge in judges:
        own = set(judge.is_verifier) & set(names)
        shared = sorted(set(judge.shares_data_with) & set(names))
        role: Role = "primary judge" if judge is judges[0] and not shared else "judge"
        notes = [f"not independent of {', '.join(shared)}: same training data"] if shared else []
        notes += [judge.note] if judge.note else []
        measure = measure_of(judge, "own verifier" if own else role)
        listed.append(replace(measure, note="; ".join(notes)))
        if isinstance(judge, ClipJudge):
            part = replace(listed[-1], role=measure.role if own else "judge")
            listed += [replace(part, name=name) for name in judge.parts]
    return listed


def measure_of(judge: Judge, role: Role) -> Measure:
    """What clips are measured by when this judge judges them."""
    measure = Measure(
        name=judge.name,
        role=role,
        higher_is_better=judge.higher_is_better,
        checkpoint=in_short(judge.checkpoint),
        definition=judge.definition,
        is_verifier=tuple(judge.is_verifier),
        shares_data_with=tuple(judge.shares_data_with),
        note=judge.note,
    )
    if not isinstance(judge, SetJudge):
        return measure
    return replace(measure, kind="set", statistic=judge.statistic, embeddings=judge.embeddings)


def unread_captions(
    prompts: Sequence[Prompt],
    verifier: Verifier,
    judges: Sequence[Judge],
    client: ServerClient | None,
) -> dict[str, dict[str, int]]:
    """Of how many captions each verifier and judge reads the start only, and how much it leaves.

    By name: `captions` that are longer than it reads, `of` all, `tokens` unread. Those that read
    everything are left out.
    """
    left: dict[str, Sequence[int]] = {
        judge.name: [judge.unread(prompt) for prompt in prompts]
        for judge in judges
        if judge.name in JUDGES
    }
    if client is not None:
        hearing = {*map(host_of, verifier.checkpoints), *served(judge.name for judge in judges)}
        remote = hearing - {*LIKELIHOODS}
        left |= client.another().unread(sorted(remote), [prompt.text for prompt in prompts])
    found = {
        name: {"captions": sum(t > 0 for t in tokens), "of": len(prompts), "tokens": sum(tokens)}
        for name, tokens in left.items()
        if any(tokens)
    }
    for name, count in found.items():
        log.warning(
            "%s reads only the start of %d of %d captions (%d tokens are unread)",
            *(name, count["captions"], count["of"], count["tokens"]),
        )
    return found


def finish(
    result: SearchResult, judges: Sequence[Judge], folder: Path, save_audio: SaveAudio
) -> Finished:
    """Judge a search's winner: its record and its files.

    folder: the run's. What is heard of a reference there is not heard again.
    """
    clip, prompt = result.winner.clip, result.prompt
    with timed({0: result.ledger}, "judge"):
        heard, files = judge_clip(clip, prompt, result.method, judges, folder)
    record = result.as_record() | heard | _reference(prompt, folder)
    if save_audio != "none":
        record["audio"] = f"audio/{result.method}/{prompt.id}.wav"
        tokens = token_file("", f"{result.method}/{prompt.id}").as_posix()
        files |= {tokens: npy(result.winner.tokens), record["audio"]: encode_wav(clip)}
    if save_audio == "all":
        record["candidates"] = f"audio/{result.method}/{prompt.id}"
        for slot, leaf in result.leaves.items():
            files[f"{record['candidates']}/{slot:03d}.wav"] = encode_wav(leaf)
    return Finished(record, files)


def judge_clip(
    clip: Clip, prompt: Prompt, method: str, judges: Sequence[Judge], folder: Path
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """What judges say of a clip: `judges`, numbers by name, and `unjudged`, reasons by name; and,
    of set judges, the files with the embeddings of the clip and of its reference."""
    values: dict[str, float] = {}
    unjudged: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for judge in judges:
        try:
            if isinstance(judge, SetJudge):
                name = judge.embeddings or judge.name
                reference = embedding_file("", name, REFERENCE, prompt.id)
                known = reference.as_posix() in files or (folder / reference).exists()
                if (judge.needs_reference or prompt.is_referenced) and not known:
                    heard = judge.hear_reference(prompt).astype(np.float32)
                    files[reference.as_posix()] = npy(heard)
                own = embedding_file("", name, method, prompt.id).as_posix()
                files[own] = npy(judge.hear(clip, prompt).astype(np.float32))
            else:
                assert isinstance(judge, ClipJudge)
                values[judge.name] = judge.judge(clip, prompt)
                values |= judge.parts_of(clip, prompt)
        except JudgeError as error:
            unjudged[judge.name] = str(error)
    return {"judges": values, "unjudged": unjudged}, files


@dataclass(frozen=True)
class JudgingAgain:
    """A piece of work: the saved clip of a record, for judges that had no number for it."""

    prompts: Sequence[Prompt]
    record: Record
    clip: Clip
    judges: tuple[str, ...]
    folder: Path

    def do(self, parts: "Parts") -> Iterator[Finished]:
        (prompt,), record = self.prompts, self.record
        lacking = [judge for judge in parts.judges if judge.name in self.judges]
        heard, files = judge_clip(self.clip, prompt, record["method"], lacking, self.folder)
        if heard["unjudged"] != record["unjudged"]:
            heard["judges"] = record["judges"] | heard["judges"]
            yield Finished(record | heard | _reference(prompt, self.folder), files)

    def failed(self, reason: str) -> Iterator[Finished]:
        log.warning("%s cannot be judged again: %s", self.record["audio"], reason)
        yield from ()


def judge_again(
    run: Run, prompts: Sequence[Prompt], judges: Sequence[Judge], workers: Workers
) -> int:
    """Judge again, from the saved audio, what was left unjudged. Returns how many clips changed."""
    changed = 0
    for finished in workers(_unjudged(run, prompts, judges)):
        run.keep(finished)
        changed += 1
    if changed:
        log.info("judged again: %d clip%s", changed, "s" * (changed > 1))
    return changed


def _unjudged(
    run: Run, prompts: Sequence[Prompt], judges: Sequence[Judge]
) -> Iterator[JudgingAgain]:
    known = {prompt.id: prompt for prompt in prompts}
    for key, head in run.records.heads.items():
        lacking = [judge.name for judge in judges if judge.name in head.get("unjudged", {})]
        record = run.records[key] if lacking else {}
        if "audio" not in record or record["prompt_id"] not in known:
            continue
        try:
            clip = read_audio(run.folder / record["audio"])
        except AudioError as error:
            log.warning("cannot be judged again: %s", error)
            continue
        prompt = known[record["prompt_id"]]
        yield JudgingAgain([prompt], record, clip, tuple(lacking), run.folder)


def _reference(prompt: Prompt, folder: Path) -> dict[str, str]:
    """Where the prompt's reference lies, from the run's folder: both may be moved together."""
    if prompt.reference is None or not prompt.reference.is_file():
        return {}
    path = os.path.relpath(prompt.reference.resolve(), folder.resolve())
    return {"reference": Path(path).as_posix()}


def embedding_file(folder: Path | str, name: str, method: str, prompt_id: str) -> Path:
    """The file of one clip's embedding, or with REFERENCE of its prompt's reference."""
    return Path(folder, "embeddings", name, method, f"{prompt_id}.npy")


def npy(array: NDArray[Any]) -> bytes:
    """An array's .npy file."""
    with io.BytesIO() as data:
        np.save(data, array)
        return data.getvalue()


def load_embeddings(
    folder: Path | str, name: str, method: str, prompt_ids: Iterable[str]
) -> dict[str, NDArray[np.float32]]:
    """Those of the prompts that have one, by prompt id.

    Raises RunFolderError for a damaged file.
    """
    found = {}
    for prompt_id in prompt_ids:
        path = embedding_file(folder, name, method, prompt_id)
        if not path.exists():
            continue
        try:
            found[prompt_id] = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise RunFolderError(
                f"{path} cannot be read ({error}). Remove it: its clip is then left out."
            ) from error
    return found
