"""A run's folder with made-up numbers, for what reads records."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from src.runs import embeddings
from src.runs.records import Run

MEASURES = [
    {"name": "tags", "role": "selector", "higher_is_better": True, "note": ""},
    {"name": "msd_kld", "role": "primary judge", "higher_is_better": False, "note": ""},
    {"name": "mtt_vgg", "role": "judge", "higher_is_better": True, "note": "not independent"},
]
OWN = {
    **{"name": "clap", "role": "own verifier", "higher_is_better": True, "note": ""},
    **{"kind": "clip", "checkpoint": "clap.pt (12345678)"},
}
SET = {
    **{"name": "fad_msd", "role": "judge", "higher_is_better": False, "note": "biased"},
    **{"kind": "set", "checkpoint": "MSD_musicnn (ebd4de86)"},
}
# method -> (mean gain of the selector, mean change of the primary judge, frames, clips)
METHODS = {
    "baseline": (0.0, 0.0, 250, 1),
    "best_of_n": (1.0, -0.5, 2000, 8),
    "sbs": (1.5, 0.0, 2000, 24),
}


def record(method: str, prompt: str, selector: float, judges: dict[str, float]) -> dict:
    _, _, frames, clips = METHODS[method]
    return {
        "method": method,
        "prompt_id": prompt,
        "status": "ok",
        "winner": {"score": {"value": selector, "components": {}}, "slot": 0},
        "judges": judges,
        "unjudged": {},
        "ledger": {
            "frames": frames,
            "clips": clips,
            "uploaded_bytes": 0,
            "seconds": {"decode": frames / 1000, "http": 0.5, "judge": 100.0},
        },
    }


def made_up_run(
    output: Path,
    methods: Sequence[str] = tuple(METHODS),
    prompts: int = 16,
    judged: bool = True,
    failed: int = 0,
    more: Sequence[dict] = (),
    unread: dict[str, dict[str, int]] | None = None,
) -> Path:
    """`prompts` finished and `failed` failed ones; judge `mtt_vgg` goes with the selector.

    more: OWN, SET: measures beside MEASURES.
    """
    rng = np.random.default_rng(0)
    measures = [*MEASURES, *more] if judged else MEASURES[:1]
    identity = {
        "settings": {"method": list(methods)},
        "judged": judged,
        "prompts": prompts,
        "failed": failed,
        "measures": measures,
    }
    facts: dict[str, object] = {
        "title": "made up: 16 prompts, N = 8, M = 4, 5 s",
        "measures": measures,
    }
    if unread:
        facts["unread"] = unread
    with Run(output, "made up", identity, facts) as run:
        for prompt in range(prompts):
            level = rng.normal(-3, 1)
            for method in methods:
                gain, change, _, _ = METHODS[method]
                selector = level + gain + rng.normal(0, 0.3)
                judges = {
                    "msd_kld": 2 + change + rng.normal(0, 0.2),
                    "mtt_vgg": selector + rng.normal(0, 0.1),
                }
                if OWN in more:
                    judges["clap"] = selector / 10
                run.append(record(method, f"p{prompt}", selector, judges if judged else {}))
        for prompt in range(failed):
            reason = "tags: names no tag"
            run.append(
                {"method": methods[-1], "prompt_id": f"f{prompt}", "status": "failed"}
                | {"reason": reason}
            )
    if SET in more:
        made_up_embeddings(run.folder, methods, prompts)
    return run.folder


def made_up_embeddings(folder: Path, methods: Sequence[str], prompts: int) -> None:
    """Two windows a clip, in 4 dimensions; best_of_n is nearer to the references than the rest."""
    rng = np.random.default_rng(1)
    for prompt in range(prompts):
        for method in (*methods, embeddings.REFERENCE):
            shift = {"reference": 0.0, "best_of_n": 0.2}.get(method, 2.0)
            path = embeddings.place(folder, "fad_msd", method, f"p{prompt}")
            embeddings.save(path, rng.normal(size=(2, 4)) + shift)
