"""A run's folder as benchmark.py leaves it, with made-up trees and short tones, for its page."""

from pathlib import Path
from typing import Any

import numpy as np

from src.data.audio import Clip, write_wav
from src.runs.records import Run

METHODS = ("baseline", "best_of_n", "sbs", "lookahead")
MEASURES = [
    {"name": "tags", "role": "selector", "higher_is_better": True, "note": ""},
    {"name": "msd_kld", "role": "primary judge", "higher_is_better": False, "note": ""},
    {"name": "mtt_vgg", "role": "judge", "higher_is_better": True, "note": "not independent"},
]
HOSTILE = (
    "</script><script>window.hacked = 1</script>",
    "<!-- <script> ' \" & &lt; \u2028 \u2029 \\u003c ${1} {{ 1 }}",
    "<img src=x onerror=window.hacked=2>",
)
UNJUDGED = "no reference audio: <b>music_data</b>/p.wav is not there"
FAILED = "the prompt names no tag that 'tags' knows; name one of: drums, violin"


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


def tone(path: Path, seconds: float = 0.6) -> None:
    wave = np.sin(np.arange(int(8000 * seconds)) * 0.3, dtype=np.float32) * 0.1
    write_wav(path, Clip(wave[None], 8000))


def listening_run(
    output: Path,
    prompts: int = 4,
    candidates: int = 8,
    steps: int = 3,
    methods: tuple[str, ...] = METHODS,
    save_audio: str = "winners",
    **identity: Any,
) -> Path:
    """Prompts p0 .. with tones. The captions of the first three are HOSTILE.

    p1 is unjudged by msd_kld, of p2 the last method failed. identity: further entries.
    """
    rng = np.random.default_rng(0)
    settings = {"method": list(methods), "save_audio": save_audio, "candidates": candidates}
    whole = {"settings": settings, "prompts": {"count": prompts}, **identity}
    with Run(output, "listening", whole, {"title": "made up <b>", "measures": MEASURES}) as run:
        for index in range(prompts):
            for method in methods:
                run.append(_record(rng, run.folder, index, method, whole, steps))
    return run.folder


def _record(
    rng: np.random.Generator, folder: Path, index: int, method: str, whole: dict, steps: int
) -> dict[str, Any]:
    settings, key = whole["settings"], f"p{index}"
    text = HOSTILE[index] if index < len(HOSTILE) else f"a slow tune number {index} for violin"
    record: dict[str, Any] = {"method": method, "prompt_id": key, "prompt": text, "key": key}
    ledger = {"frames": 250, "clips": 8, "uploaded_bytes": 0, "seconds": {"decode": 1.0}}
    if index == 2 and method == settings["method"][-1]:
        where = {"step": 0, "slot": 3, "verifier": "tags"}
        return {**record, "status": "failed", **where, "reason": FAILED, "ledger": ledger}
    of = {"baseline": (1, 1, 1), "best_of_n": (settings["candidates"], 1, 1)}
    nodes = tree(rng, *of.get(method, (settings["candidates"], 2, steps)))
    won = next(node for node in nodes if node["kept"] and node["step"] == nodes[-1]["step"])
    score = {**won["score"], "components": {"violin": 0.5, "drums": -1.25}}
    judges = {name: float(rng.normal()) for name in ("msd_kld", "mtt_vgg")}
    unjudged = {"msd_kld": UNJUDGED} if index == 1 else {}
    record |= {
        "status": "ok",
        "winner": {"slot": won["slot"], "score": score, "log_prob": -3.5, "seconds": 0.6},
        "tree": nodes,
        "judges": {name: value for name, value in judges.items() if name not in unjudged},
        "unjudged": unjudged,
        "ledger": ledger,
    }
    if settings["save_audio"] != "none":
        record["audio"] = f"audio/{method}/{key}.wav"
        tone(folder / record["audio"])
    if settings["save_audio"] == "all":
        record["candidates"] = f"audio/{method}/{key}"
        for node in nodes:
            if node["step"] == nodes[-1]["step"]:
                tone(folder / record["candidates"] / f"{node['slot']:03d}.wav")
    return record
