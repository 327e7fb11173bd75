"""What a run is made of: its identity, and what ends it."""

from types import SimpleNamespace

import pytest

from src.data.prompts import Prompt
from src.protocol import Checkpoint
from src.runs.build import ENDS, Parts, identity
from src.runs.ending import Exit
from src.runs.settings import BenchmarkSettings, parse
from src.verifier import ServerUnreachable
from tests.generator.fake_judges import FakeJudge

PROMPT = Prompt(id="a", text="a slow piano", key="a")


def parts(*judges: FakeJudge, generator_hash: str = "0" * 64, verifier: str = "tags") -> Parts:
    generator = SimpleNamespace(
        checkpoint=Checkpoint(name="builtin", sha256=generator_hash), device="cpu", dtype="float32"
    )
    checkpoints = {verifier: Checkpoint(name=verifier, sha256="1" * 64)}
    return Parts(generator, SimpleNamespace(name=verifier, checkpoints=checkpoints), judges)  # type: ignore[arg-type]


def test_other_weights_or_an_edited_prompt_are_another_run() -> None:
    settings = parse(BenchmarkSettings, ("--profile", "builtin"), prog="benchmark.py")
    first = identity("benchmark", settings, [PROMPT], parts())
    assert first == identity("benchmark", settings, [PROMPT], parts())
    edited = Prompt(id="a", text="a fast piano", key="a")
    assert first != identity("benchmark", settings, [edited], parts())
    assert first != identity("benchmark", settings, [PROMPT], parts(generator_hash="f" * 64))
    assert first != identity("benchmark", settings, [PROMPT], parts(FakeJudge("far")))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServerUnreachable("gone"), Exit.SERVER),
        (KeyboardInterrupt(), Exit.INTERRUPTED),
        (FloatingPointError("float16"), Exit.USAGE),
    ],
)
def test_what_ends_a_run_has_an_exit_code(error: BaseException, code: Exit) -> None:
    assert next(c for kind, c in ENDS.items() if isinstance(error, kind)) is code
