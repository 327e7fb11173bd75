"""Hearing a pool by the networks of judges of sets: an embedding of each candidate, and of each
prompt's reference, from which src/reports/diversity.py follows.

A prompt's file is written whole, so that hearing may be killed anywhere and goes on there. Other
weights hear anew.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from src.data.audio import Clip
from src.data.progress import bar
from src.data.prompts import Prompt
from src.generator import Renderer
from src.judges.base import JudgeError, SetJudge
from src.runs.embeddings import load_pool_embedding, pool_embedding_file, write_pool_embedding
from src.runs.measures import in_short
from src.runs.pool import load_tokens
from src.runs.records import CANDIDATES, Run

log = logging.getLogger(__name__)


def embed(
    run: Run, prompts: Sequence[Prompt], networks: Mapping[str, SetJudge], renderer: Renderer
) -> None:
    """Hear whatever lacks an embedding. networks: a judge of each, by the embeddings' name."""
    known = [prompt for prompt in prompts if run.is_done(CANDIDATES, prompt.id)]
    lacking = {
        prompt.id: [
            name for name, judge in networks.items() if is_lacking(run, name, judge, prompt)
        ]
        for prompt in known
    }
    total, left = len(known) * len(networks), sum(map(len, lacking.values()))
    with bar("hear", total, total - left, "prompt x network") as progress:
        for prompt in known:
            tokens = torch.from_numpy(load_tokens(run.folder, prompt.id)).long()
            clips = renderer.render(tokens) if lacking[prompt.id] else []
            for name in lacking[prompt.id]:
                heard = hear(clips, prompt, networks[name])
                write_pool_embedding(pool_embedding_file(run.folder, name, prompt.id), heard)
                progress.update()


def is_lacking(run: Run, name: str, judge: SetJudge, prompt: Prompt) -> bool:
    """Whether the prompt was not heard yet by these weights, or only without its reference."""
    found = load_pool_embedding(pool_embedding_file(run.folder, name, prompt.id))
    if found is None or str(found["checkpoint"]) != in_short(judge.checkpoint):
        return True
    return prompt.is_referenced and not len(found["reference"])


def hear(clips: Sequence[Clip], prompt: Prompt, judge: SetJudge) -> dict[str, NDArray[np.generic]]:
    """What a prompt's file holds (src/runs/embeddings.py)."""
    vectors: list[NDArray[np.floating] | None] = []
    for index, clip in enumerate(clips):
        try:
            vectors.append(judge.hear(clip, prompt).mean(0))
        except JudgeError as error:
            log.warning("candidate %d: %s", index, error)
            vectors.append(None)
    size = max((len(vector) for vector in vectors if vector is not None), default=0)
    filled = [np.full(size, np.nan) if vector is None else vector for vector in vectors]
    reference = np.empty((0, size))
    if prompt.is_referenced:
        try:
            reference = judge.hear_reference(prompt).mean(0)[None]
        except JudgeError as error:
            log.warning("%s", error)
    return {
        "candidates": np.array(filled, dtype=np.float16),
        "reference": reference.astype(np.float16),
        "checkpoint": np.array(in_short(judge.checkpoint)),
    }
