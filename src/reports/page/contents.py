"""What a run's page says: texts and tables for its template, clips and trees for its scripts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from src.methods import BASELINE
from src.reports.benchmark_study import Study, difference_text, value_of
from src.runs.measures import Measure
from src.runs.records import Record

ROLES = {
    "selector": "selector: it chose these clips, and is no evidence",
    "own verifier": "the selector's own number, or a part of it: no evidence",
    "primary judge": "primary judge",
    "judge": "judge",
}
# Results beside the page that it links to.
FILES = ("benchmark.png", "summary.csv", "per_clip.csv", "records.jsonl", "manifest.json")
REACH = 3  # folders above the run's in which a reference is linked to: results/demo/run/../../..


@dataclass(frozen=True)
class Contents:
    """page: the template's variables. clips: JSON values for the scripts."""

    page: dict[str, Any]
    clips: dict[str, Any]


def contents(
    folder: Path, manifest: dict[str, Any], study: Study, findings: Sequence[str]
) -> Contents:
    records = [*study.done, *study.failed]
    asked = manifest["identity"]["settings"]["method"]
    methods = [m for m in asked if any(record["method"] == m for record in records)]
    measures = [measure for measure in study.measures if measure.kind == "clip"]
    prompts: dict[str, dict[str, Any]] = {}
    for record in records:
        key = record["prompt_id"]
        new = {"id": key, "text": record.get("prompt", key), "reference": None, "clips": {}}
        prompt = prompts.setdefault(key, new)
        prompt["reference"] = prompt["reference"] or _reference(folder, record)
        prompt["clips"][record["method"]] = _clip(folder, record, measures)
    clips = {
        "methods": methods,
        "baseline": BASELINE,
        "measures": [
            {
                "name": m.name,
                "arrow": m.arrow,
                "better": 1 if m.higher_is_better else -1,
                "evidence": m.is_judge,
                "role": ROLES[m.role],
                "short": m.role,
                "digits": study.digits(m.name),
            }
            for m in measures
        ],
        "prompts": list(prompts.values()),
    }
    page = {
        "title": study.title,
        "notes": _notes(manifest, study, clips),
        "measures": [_table(study, measure) for measure in study.measures],
        "costs": study.costs,
        "findings": _sentences(findings),
        "settings": {k: _words(v) for k, v in manifest["identity"]["settings"].items()},
        "starts": [_start(start) for start in manifest["starts"]],
        "files": [name for name in FILES if (folder / name).is_file()],
        "has_audio": _has_audio(clips),
    }
    return Contents(page, clips)


def _reference(folder: Path, record: Record) -> str | None:
    """Where a prompt's reference audio lies, relative to the run's folder, as its record says.

    None for what is not there, or lies further away than REACH folders up, which would break as
    soon as the run is moved.
    """
    if "reference" not in record:
        return None
    here = folder.resolve()
    reach = here.parents[min(REACH, len(here.parents)) - 1]
    path = PurePosixPath(record["reference"])
    found = (here / path).resolve()
    near = not path.is_absolute() and found.is_relative_to(reach)
    return str(path) if near and found.is_file() else None


def _clip(folder: Path, record: Record, measures: Sequence[Measure]) -> dict[str, Any]:
    """One method's clip of one prompt. scores: in the order of `measures`, None where there is
    none. tree: by step its candidates, each [slot, parent, score, log-probability, kept]."""
    if record["status"] != "ok":
        where = ""
        if "step" in record:
            where = f"step {record['step']}, candidate {record['slot']}, {record['verifier']}: "
        return {"failed": f"{where}{record['reason']}"}
    leaves = record.get("candidates")
    return {
        "audio": _beside(folder, record.get("audio")),
        "leaves": leaves if leaves and _beside(folder, f"{leaves}/000.wav") else None,
        "scores": [_short(value_of(record, measure)) for measure in measures],
        "unjudged": record["unjudged"],
        "parts": {k: _short(v) for k, v in record["winner"]["score"]["components"].items()},
        "log_prob": _short(record["winner"].get("log_prob")),
        "frames": record["ledger"]["frames"],
        "scored": record["ledger"]["clips"],
        "tree": _tree(record.get("tree", [])),
    }


def _tree(nodes: Sequence[dict[str, Any]]) -> list[list[list[Any]]]:
    steps: list[list[list[Any]]] = [
        [] for _ in range(max((n["step"] for n in nodes), default=-1) + 1)
    ]
    for node in nodes:
        score, log_prob = _short(node["score"]["value"]), _short(node["log_prob"])
        steps[node["step"]].append(
            [node["slot"], node["parent"], score, log_prob, int(node["kept"])]
        )
    return steps


def _beside(folder: Path, name: str | None) -> str | None:
    """A file's name in the run's folder, when there is such a file and it is inside."""
    if name is None:
        return None
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts
    return str(path) if inside and (folder / path).is_file() else None


def _short(value: float | None) -> float | None:
    """Six digits: enough to read, a third of the bytes."""
    return None if value is None else float(f"{value:.6g}")


def _has_audio(clips: dict[str, Any]) -> bool:
    return any(clip.get("audio") for p in clips["prompts"] for clip in p["clips"].values())


def _notes(manifest: dict[str, Any], study: Study, clips: dict[str, Any]) -> list[str]:
    """What to know before listening: how much is finished, and what cannot be heard."""
    settings, count = manifest["identity"]["settings"], manifest["identity"].get("prompts", {})
    done, failed = len(study.done), len(study.failed)
    notes = []
    if isinstance(count, dict) and "count" in count:
        total = count["count"] * len(settings["method"])
        if done < total:
            notes.append(
                f"{done} of {total} clips are finished"
                + (f", {failed} failed" if failed else "")
                + "; the same command goes on from there."
            )
    if not done:
        return notes
    saved = sum(bool(clip.get("audio")) for p in clips["prompts"] for clip in p["clips"].values())
    if not any("audio" in record for record in study.done):
        notes.append("The run saved no audio (--save_audio none): there is nothing to play.")
    elif not saved:
        notes.append("The audio is not in this folder: there is nothing to play.")
    elif saved < sum("audio" in record for record in study.done):
        notes.append(f"The audio of {saved} of {done} finished clips is in this folder.")
    return notes


def _table(study: Study, measure: Measure) -> dict[str, Any]:
    """One measure's rows: method, clips, value, difference to the baseline, verdict."""
    digits = study.digits(measure.name)
    rows = [
        {
            "method": row["method"],
            "clips": row["prompts"],
            "value": "–" if row["mean"] is None else f"{row['mean']:.{digits}f}",
            "difference": difference_text(row, digits),
            "verdict": row["verdict"],
        }
        for row in study.of(measure.name)
    ]
    together = "; one number for all clips of a method" if measure.kind == "set" else ""
    return {
        "name": measure.name,
        "arrow": measure.arrow,
        "better": "higher is better" if measure.higher_is_better else "lower is better",
        "role": ROLES[measure.role] + together,
        "evidence": measure.is_judge,
        "checkpoint": measure.checkpoint,
        "rows": rows,
    }


def _sentences(lines: Sequence[str]) -> list[str]:
    """Findings; what the table indents under a sentence is a part of it here."""
    sentences: list[str] = []
    for line in lines:
        if line.startswith("  ") and sentences:
            sentences[-1] += " " + line.strip()
        else:
            sentences.append(line)
    return sentences


def _words(value: Any) -> str:
    if value is None:
        return "by profile"
    if isinstance(value, list):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _start(start: dict[str, Any]) -> dict[str, str]:
    """When, from which commit, with what and by which command this start was made."""
    commit = (start.get("commit") or "")[:10] or "no checkout"
    versions = [f"{name} {version}" for name, version in start["versions"].items() if version]
    device = start.get("gpus") or [start.get("cpu", "")]
    return {
        "time": start["time"],
        "commit": commit + (", with changes" if start.get("dirty") else ""),
        "versions": ", ".join(versions),
        "machine": ", ".join(map(str, device)),
        "command": " ".join(start.get("command", [])),
    }
