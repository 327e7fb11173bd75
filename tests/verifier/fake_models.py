"""The real server with a small adapter of the tests' own: `python -m tests.verifier.fake_models`.

The fake models' behaviour is told by a prompt, so that each test can ask for what it needs:
"sleep 0.5" takes that long, "nan" has no finite score, "crash" raises, "nothing" is refused. Of a
prompt three words are read.
"""

import os
import sys
import time
from collections.abc import Sequence

import numpy as np

import verifier_server
from src.models.adapter import Adapter, PromptUnusable, finite_score
from src.protocol import Checkpoint, Score
from src.verifier_core import VERIFIERS


def _obey(prompt: str) -> None:
    if prompt.startswith("sleep"):
        time.sleep(float(prompt.split()[1]))
    if prompt == "crash":
        raise RuntimeError("out of luck")


class Fake(Adapter):
    summary = "root mean square of the clip, in dB"
    licence = "none"
    sample_rate = 16_000
    needs_text = True
    vocabulary = ("piano", "guitar")

    def load(self, device: str, dtype: str = "float32") -> Checkpoint:
        if self.name == "broken":
            raise RuntimeError("the weights are torn")
        time.sleep({"slow_to_load": 1, "never_loaded": 3600}.get(self.name, 0))
        return Checkpoint(name=self.name, sha256=os.environ.get("FAKE_WEIGHTS", "00"))

    def check(self, prompt: str) -> None:
        if prompt.startswith("nothing"):
            raise PromptUnusable(f"{prompt} names no tag")

    def unread_tokens(self, prompt: str) -> int:
        _obey(prompt)
        return max(0, len(prompt.split()) - 3)

    def score(self, clips: Sequence[np.ndarray], prompts: Sequence[str]) -> list[Score]:
        scores = []
        for clip, prompt in zip(clips, prompts, strict=True):
            _obey(prompt)
            level = float(10 * np.log10(np.mean(np.square(clip, dtype=np.float64)) + 1e-12))
            scores.append(finite_score(float("nan") if prompt == "nan" else level, {"dB": level}))
        return scores


class Fake48(Fake):
    sample_rate = 48_000

    def unread_tokens(self, prompt: str) -> int:
        return 0


# The fakes need no torch, and importing it is most of a server's start.
verifier_server.configure_torch = lambda settings, models: "cpu"
VERIFIERS.update(fake=Fake, fake48=Fake48, broken=Fake, slow_to_load=Fake, never_loaded=Fake)

if __name__ == "__main__":
    sys.exit(verifier_server.main())
