"""Runs of benchmark.py with made-up numbers, for tables (made_up_run) and pages (listening_run).

And the committed one as the first release would have written it (first_release).
"""

import json
import lzma
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from src.data.audio import Clip, write_wav
from src.data.files import write_whole
from src.reports.benchmark import findings
from src.reports.benchmark_study import study_benchmark
from src.reports.page import write_page
from src.runs import evaluation
from src.runs.measures import Measure
from src.runs.records import COMPRESSED, MANIFEST, RECORDS, Record, search_key
from src.runs.run import Run

ROOT = Path(__file__).resolve().parents[2]
(COMMITTED,) = (ROOT / "results" / "builtin").glob("benchmark-*")
MEASURES = (
    Measure("tags", "selector"),
    Measure("msd_kld", "primary judge", higher_is_better=False),
    Measure("mtt_vgg", "judge", shares_data_with=("tags",), note="not independent of tags"),
)
OWN = Measure("clap", "own verifier", checkpoint="clap.pt (12345678)", is_verifier=("clap",))
SET = Measure("fad_msd", "judge", False, "MSD_musicnn (ebd4de86)", kind="set", note="biased")
# method -> (mean gain of the selector, mean change of the primary judge, frames, clips)
METHODS = {
    "baseline": (0.0, 0.0, 250, 1),
    "best_of_n": (1.0, -0.5, 2000, 8),
    "sbs": (1.5, 0.0, 2000, 24),
}
ALL_METHODS = (*METHODS, "lookahead")
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<!-- <script> ' \" & &lt; \u2028 \u2029 \\u003c ${1} {{ 1 }}",
    "<img src=x onerror=window.hacked=2>",
)
REASON = "tags: names no tag"
UNREAD = {"clap": {"captions": 12, "of": 64, "tokens": 240}}
UNJUDGED = "no reference audio: <b>music_data</b>/p.wav is not there"
FAILED = "the prompt names no tag that 'tags' knows; name one of: drums, violin"


def page_of(folder: Path) -> Path:
    """A run's listening page, written anew."""
    study = study_benchmark(folder)
    return write_page(folder, study, findings(study))


def change_records(folder: Path, change: Callable[[int, Record], None]) -> None:
    """Change each record of a run in place. change: of its index and itself."""
    records = [json.loads(line) for line in (folder / RECORDS).read_text().splitlines()]
    for index, record in enumerate(records):
        change(index, record)
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))


def keep_measures(folder: Path, *measures: Measure) -> None:
    """Have a run's manifest know these measures alone."""
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["measures"] = [measure.as_record() for measure in measures]
    (folder / MANIFEST).write_text(json.dumps(manifest))


def record(method: str, prompt: str, selector: float, judges: dict[str, float]) -> Record:
    _, _, frames, clips = METHODS[method]
    seconds = {"decode": frames / 1000, "http": 0.5, "judge": 100.0}
    return {
        **search_key(method),
        **{"prompt_id": prompt, "status": "ok", "judges": judges, "unjudged": {}},
        "winner": {"score": {"value": selector, "components": {}}, "slot": 0},
        "ledger": {"frames": frames, "clips": clips, "uploaded_bytes": 0, "seconds": seconds},
    }


def made_up_run(
    output: Path,
    methods: Sequence[str] = tuple(METHODS),
    prompts: int = 16,
    judged: bool = True,
    failed: int = 0,
    more: Sequence[Measure] = (),
    unread: dict[str, dict[str, int]] | None = None,
    caveats: Sequence[str] = (),
) -> Path:
    """`prompts` finished and `failed` failed ones; judge `mtt_vgg` goes with the selector.

    more: OWN, SET: measures beside MEASURES.
    """
    rng = np.random.default_rng(0)
    measures = [m.as_record() for m in (*MEASURES, *more)][: None if judged else 1]
    made = {"prompts": {"count": prompts + failed}, "measures": measures}
    facts: dict[str, Any] = {"title": "made up: 16 prompts, N = 8, M = 4, 5 s"}
    facts |= {"measures": measures, "unread": unread or {}, "caveats": list(caveats)}
    identity = {"script": "benchmark", "settings": {"method": list(methods)}, **made}
    with Run(output, "made up", identity, facts) as run:
        for index in range(prompts):
            level = rng.normal(-3, 1)
            for method in methods:
                gain, change, *_ = METHODS[method]
                selector = level + gain + rng.normal(0, 0.3)
                judges = {
                    "msd_kld": 2 + change + rng.normal(0, 0.2),
                    "mtt_vgg": selector + rng.normal(0, 0.1),
                }
                judges |= {"clap": selector / 10} if OWN in more else {}
                run.append(record(method, f"p{index}", selector, judges if judged else {}))
        for index in range(failed):
            failure = {"prompt_id": f"f{index}", "status": "failed", "reason": REASON}
            run.append(search_key(methods[-1]) | failure)
    if SET in more:
        made_up_embeddings(run.folder, methods, prompts)
    return run.folder


def made_up_embeddings(folder: Path, methods: Sequence[str], prompts: int) -> None:
    """Two windows a clip, in 4 dimensions; best_of_n is nearer to the references than the rest."""
    rng = np.random.default_rng(1)
    for index in range(prompts):
        for method in (*methods, evaluation.REFERENCE):
            shift = {"reference": 0.0, "best_of_n": 0.2}.get(method, 2.0)
            path = evaluation.embedding_file(folder, "fad_msd", method, f"p{index}")
            values = rng.normal(size=(2, 4)) + shift
            write_whole(path, evaluation.npy(values.astype(np.float32)))


def listening_run(
    output: Path,
    prompts: int = 4,
    candidates: int = 8,
    steps: int = 3,
    methods: tuple[str, ...] = ALL_METHODS,
    save_audio: str = "winners",
) -> Path:
    """Prompts p0 .. with trees and tones. The captions of the first three are HOSTILE.

    p1 is unjudged by msd_kld, of p2 the last method failed.
    """
    rng = np.random.default_rng(0)
    settings = {"method": list(methods), "save_audio": save_audio, "candidates": candidates}
    identity = {"script": "benchmark", "settings": settings, "prompts": {"count": prompts}}
    facts = {"title": "made up <b>", "measures": [m.as_record() for m in MEASURES]}
    with Run(output, "listening", identity, facts) as run:
        for index in range(prompts):
            text = HOSTILE[index] if index < 3 else f"a slow tune number {index} for violin"
            for method in methods:
                key = {**search_key(method), "prompt_id": f"p{index}", "prompt": text}
                if index == 2 and method == methods[-1]:
                    where = {"step": 0, "slot": 3, "verifier": "tags"}
                    run.append({**key, "status": "failed", **where, "reason": FAILED})
                    continue
                of = {"baseline": (1, 1, 1), "best_of_n": (candidates, 1, 1)}
                nodes = tree(rng, *of.get(method, (candidates, 2, steps)))
                found = _judged(rng, nodes, {"msd_kld": UNJUDGED} if index == 1 else {})
                audio = _audio(run.folder, f"{method}/p{index}", nodes, save_audio)
                run.append(key | found | audio)
    return run.folder


def tree(rng: np.random.Generator, candidates: int, kept: int, steps: int) -> list[dict[str, Any]]:
    """A beam search's nodes: the best `kept` of a step are continued, the best of the last wins."""
    nodes: list[dict[str, Any]] = []
    parents: list[int | None] = [None]
    for step in range(steps):
        scores = rng.normal(size=candidates).round(3)
        best = np.argsort(-scores)[: 1 if step == steps - 1 else kept].tolist()
        nodes += [
            {
                **{"step": step, "slot": slot, "parent": parents[slot % len(parents)]},
                **{"score": {"value": float(scores[slot]), "components": {}}},
                **{"log_prob": -3.5, "kept": slot in best},
            }
            for slot in range(candidates)
        ]
        parents = best
    return nodes


def _judged(
    rng: np.random.Generator, nodes: list[dict[str, Any]], unjudged: dict[str, str]
) -> dict[str, Any]:
    won = next(node for node in nodes if node["kept"] and node["step"] == nodes[-1]["step"])
    score = {**won["score"], "components": {"violin": 0.5, "drums": -1.25}}
    judges = {name: float(rng.normal()) for name in ("msd_kld", "mtt_vgg")}
    return {
        "status": "ok",
        "winner": {"slot": won["slot"], "score": score, "log_prob": -3.5, "seconds": 0.6},
        "tree": nodes,
        "judges": {name: value for name, value in judges.items() if name not in unjudged},
        "unjudged": unjudged,
        "ledger": {"frames": 250, "clips": 8, "seconds": {"decode": 1.0}},
    }


def _audio(folder: Path, name: str, nodes: list[dict[str, Any]], save: str) -> dict[str, str]:
    if save == "none":
        return {}
    made = {"audio": f"audio/{name}.wav"}
    tone(folder / made["audio"])
    if save == "all":
        made["candidates"] = f"audio/{name}"
        for node in nodes:
            if node["step"] == nodes[-1]["step"]:
                tone(folder / made["candidates"] / f"{node['slot']:03d}.wav")
    return made


def tone(path: Path, seconds: float = 0.6, pitch: float = 0.3) -> None:
    wave = np.sin(np.arange(int(8000 * seconds)) * pitch, dtype=np.float32) * 0.1
    write_wav(path, Clip(wave[None], 8000))


def first_release(output: Path) -> Path:
    """A copy whose manifest knows neither kinds nor checkpoints of measures, and whose records name
    audio that is not there."""
    folder = Path(shutil.copytree(COMMITTED, output / "builtin"))
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["unread"]
    for measure in manifest["measures"]:
        del measure["kind"]
        if "+" not in measure["name"]:  # of a sum the identity does not say which weights it has
            del measure["checkpoint"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    lines = lzma.decompress((folder / COMPRESSED).read_bytes()).splitlines()
    (folder / COMPRESSED).unlink()
    records: list[Record] = list(map(json.loads, lines))
    for record in records:
        record["audio"] = f"audio/{record['method']}/{record['prompt_id']}.wav"
    (folder / RECORDS).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder
