"""Hearing a pool by the networks of judges of sets: an embedding of each candidate, and of each
prompt's reference, from which src/reports/diversity.py follows.

It is done while judges hear the same clips (pool_scoring.py). A prompt's file is written whole, so
that hearing may be killed anywhere and goes on there. Other weights hear anew.
"""

import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from src.data.audio import Clip
from src.data.prompts import Prompt
from src.judges.base import JudgeError, SetJudge
from src.runs.embeddings import load_pool_embedding, npz, pool_embedding_file
from src.runs.measures import in_short
from src.runs.run import Finished

log = logging.getLogger(__name__)


class Hearing:
    """What is becoming the file of one prompt and network (src/runs/embeddings.py). judge: one of
    those that hear by the network; name: that of its embeddings."""

    def __init__(self, name: str, judge: SetJudge, prompt: Prompt) -> None:
        self.file = pool_embedding_file("", name, prompt.id)
        self.network, self.prompt = judge, prompt
        self.vectors: list[NDArray[np.floating] | None] = []

    def is_lacking(self, folder: Path) -> bool:
        """Whether the prompt was not heard yet by these weights, or only without its reference.
        folder: the pool's."""
        found = load_pool_embedding(folder / self.file)
        if found is None or str(found["checkpoint"]) != in_short(self.network.checkpoint):
            return True
        return self.prompt.is_referenced and not len(found["reference"])

    def judge(self, index: int, clip: Clip) -> None:
        """Hear a candidate; they come in order."""
        try:
            self.vectors.append(self.network.hear(clip, self.prompt).mean(0))
        except JudgeError as error:
            log.warning("candidate %d: %s", index, error)
            self.vectors.append(None)

    def finished(self) -> Finished:
        """Hear the reference too; the file."""
        size = max((len(vector) for vector in self.vectors if vector is not None), default=0)
        filled = [np.full(size, np.nan) if vector is None else vector for vector in self.vectors]
        reference = np.empty((0, size))
        if self.prompt.is_referenced:
            try:
                reference = self.network.hear_reference(self.prompt).mean(0)[None]
            except JudgeError as error:
                log.warning("%s", error)
        heard = {
            "candidates": np.array(filled, dtype=np.float16),
            "reference": reference.astype(np.float16),
            "checkpoint": np.array(in_short(self.network.checkpoint)),
        }
        return Finished(files={self.file.as_posix(): npz(heard)})
