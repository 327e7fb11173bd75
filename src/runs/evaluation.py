"""What a run does with its judges: build them, hear each winner, and hear again what was unjudged.

    judges = build_judges(["kld_pq", "clap"], device="cpu", client=client)
    record = judged(result, judges, run.folder)

A judge that has no number for a clip leaves it unjudged, with the reason; when the run is resumed
and its audio was saved, such clips are judged again, so that a reference that was missing may come
later. Clips are compared as they were generated: audio is saved in float32, without loss.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.budget import timed
from src.client import ServerClient
from src.data.audio import AudioError, Clip, read_audio, write_wav
from src.data.prompts import Prompt
from src.judges.registry import JUDGES, ClipJudge, Judge, JudgeError, SetJudge
from src.judges.served import ServedJudge
from src.runs.embeddings import REFERENCE, place, write_array
from src.runs.measures import Measure, Role, in_short
from src.runs.records import Record, Run
from src.runs.settings import SaveAudio
from src.scoring import LIKELIHOODS, Verifier
from src.tree import SearchResult

log = logging.getLogger(__name__)


def served(names: Iterable[str]) -> list[str]:
    """Those judges that are verifiers of the server."""
    return [name for name in names if name not in JUDGES]


def build_judges(names: Sequence[str], device: str, client: ServerClient | None) -> list[Judge]:
    """Judges by name, in order. client: of their own, so that no search pays for judging.

    Raises ServerError for a verifier that the server does not host.
    """
    remote: dict[str, Judge] = {}
    if client is not None:
        for name, checkpoint in client.checkpoints(served(names)).items():
            remote[name] = ServedJudge(name, client, checkpoint)
    return [remote.get(name) or JUDGES[name](device) for name in names]


def measures(verifier: Verifier, judges: Sequence[Judge]) -> list[Measure]:
    """What each clip is measured by: the selector, then judges.

    The first judge is the primary one, unless its number is the selector's own, or it was trained
    on what the selector was trained on.
    """
    weights = ", ".join(map(in_short, verifier.checkpoints.values()))
    names = tuple(verifier.checkpoints)
    listed = [Measure(verifier.name, "selector", checkpoint=weights, is_verifier=names)]
    for judge in judges:
        own = set(judge.is_verifier) & set(verifier.checkpoints)
        shared = sorted(set(judge.shares_data_with) & set(verifier.checkpoints))
        role: Role = "primary judge" if judge is judges[0] and not shared else "judge"
        notes = [f"not independent of {', '.join(shared)}: same training data"] if shared else []
        notes += [judge.note] if judge.note else []
        listed.append(
            Measure(
                name=judge.name,
                role="own verifier" if own else role,
                higher_is_better=judge.higher_is_better,
                checkpoint=in_short(judge.checkpoint),
                kind="set" if isinstance(judge, SetJudge) else "clip",
                is_verifier=tuple(judge.is_verifier),
                shares_data_with=tuple(judge.shares_data_with),
                note="; ".join(notes),
            )
        )
    return listed


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
        hearing = {*verifier.checkpoints, *served(judge.name for judge in judges)}
        remote = hearing - LIKELIHOODS.keys()
        left |= client.unread(sorted(remote), [prompt.text for prompt in prompts])
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
) -> Record:
    """Judge a search's winner, write its files, and return its record."""
    clip, prompt = result.winner.clip, result.prompt
    with timed({0: result.ledger}, "judge"):
        heard = judge_clip(clip, prompt, result.method, judges, folder)
    record = result.as_record() | heard | _reference(prompt, folder)
    if save_audio != "none":
        record["audio"] = f"audio/{result.method}/{prompt.id}.wav"
        write_wav(folder / record["audio"], clip)
    if save_audio == "all":
        record["candidates"] = f"audio/{result.method}/{prompt.id}"
        for slot, leaf in result.leaves.items():
            write_wav(folder / record["candidates"] / f"{slot:03d}.wav", leaf)
    return record


def judge_clip(
    clip: Clip, prompt: Prompt, method: str, judges: Sequence[Judge], folder: Path
) -> dict[str, Any]:
    """What judges say of a clip: `judges`, numbers by name, and `unjudged`, reasons by name.

    Set judges leave embeddings of the clip and of its reference (src/runs/embeddings.py).
    """
    values: dict[str, float] = {}
    unjudged: dict[str, str] = {}
    for judge in judges:
        try:
            if isinstance(judge, SetJudge):
                reference = place(folder, judge.name, REFERENCE, prompt.id)
                if not reference.exists():
                    write_array(reference, judge.embed_reference(prompt).astype(np.float32))
                embedding = judge.embed(clip, prompt).astype(np.float32)
                write_array(place(folder, judge.name, method, prompt.id), embedding)
            else:
                assert isinstance(judge, ClipJudge)
                (values[judge.name],) = judge.judge([clip], [prompt])
        except JudgeError as error:
            unjudged[judge.name] = str(error)
    return {"judges": values, "unjudged": unjudged}


def judge_again(run: Run, prompts: Sequence[Prompt], judges: Sequence[Judge]) -> int:
    """Judge again, from the saved audio, what was left unjudged. Returns how many clips changed."""
    known = {prompt.id: prompt for prompt in prompts}
    changed = 0
    for record in run.records:
        lacking = [judge for judge in judges if judge.name in record.get("unjudged", {})]
        if not lacking or "audio" not in record or record["prompt_id"] not in known:
            continue
        try:
            clip = read_audio(run.folder / record["audio"])
        except AudioError as error:
            log.warning("cannot be judged again: %s", error)
            continue
        prompt = known[record["prompt_id"]]
        heard = judge_clip(clip, prompt, record["method"], lacking, run.folder)
        if heard["unjudged"] != record["unjudged"]:
            values = record["judges"] | heard["judges"]
            heard |= {"judges": values} | _reference(prompt, run.folder)
            run.append(record | heard)
            changed += 1
    if changed:
        log.info("judged again: %d clip%s", changed, "s" * (changed > 1))
    return changed


def _reference(prompt: Prompt, folder: Path) -> dict[str, str]:
    """Where the prompt's reference lies, from the run's folder: both may be moved together."""
    if prompt.reference is None or not prompt.reference.is_file():
        return {}
    path = os.path.relpath(prompt.reference.resolve(), folder.resolve())
    return {"reference": Path(path).as_posix()}
