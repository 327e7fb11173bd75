"""What the OpenAPI document cannot say about requests, for tests/verifier/test_server.py.

That there are as many prompts as files, which verifiers are hosted, and what a WAV is. Requests
that schemathesis meant to be wrong stay as they are.
"""

import json
import struct
from typing import Any

import schemathesis

from src.protocol import SCORE_PATH, TEXTS_PATH

FAKES = ["fake", "fake48"]

# schemathesis takes a body with octets in it for one that breaks the schema; this WAV is ASCII.
SAMPLES = "aZ" * 30
WAV = (
    struct.pack("<4sI4s4sIHH", b"RIFF", 36 + len(SAMPLES), b"WAVE", b"fmt ", 16, 1, 1)
    + struct.pack("<IIHH4sI", 8_192, 16_384, 2, 16, b"data", len(SAMPLES))
).decode("ascii") + SAMPLES


@schemathesis.hook
def before_call(ctx: Any, case: Any, kwargs: Any) -> None:
    if not case.meta.generation.mode.is_positive:
        return
    if case.path == TEXTS_PATH:
        prompts = [prompt[:2_000] for prompt in case.body["prompts"]]
        case.body = {"verifiers": FAKES, "prompts": prompts}
    if case.path == SCORE_PATH:
        files = len(case.body["files"])
        prompts = [str(case.body["request"])[:2_000]] * files
        asked = {"verifiers": FAKES, "prompts": prompts}
        case.body = {"request": json.dumps(asked), "files": [WAV] * files}
