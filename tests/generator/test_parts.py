"""What a run is made of: its identity, who measures it, and what ends it."""

from types import SimpleNamespace

import numpy as np
import pytest

from src.audio import Clip
from src.budget import Ledger
from src.metrics import JudgeError
from src.parts import ENDS, Parts, identity, judged, measures
from src.preflight import Exit
from src.prompts import Prompt
from src.settings import BenchmarkSettings, parse
from src.tree import SearchResult, Winner
from src.verifier import ServerUnreachable
from src.wire import Checkpoint, Score
from tests.generator.made_up_run import record

PROMPT = Prompt(id="a", text="a slow piano", key="a")


class FakeJudge:
    higher_is_better = False
    note = ""

    def __init__(self, name: str, shares: tuple[str, ...] = (), problem: str = "") -> None:
        self.name, self.shares_data_with, self.problem = name, shares, problem
        self.checkpoint = Checkpoint(name=name, sha256="2" * 64)

    def judge(self, clips, prompts) -> list[float]:
        if self.problem:
            raise JudgeError(self.problem)
        return [0.5] * len(clips)


def parts(*judges: FakeJudge, generator_hash: str = "0" * 64, verifier: str = "tags") -> Parts:
    generator = SimpleNamespace(
        checkpoint=Checkpoint(name="builtin", sha256=generator_hash), device="cpu", dtype="float32"
    )
    checkpoints = {verifier: Checkpoint(name=verifier, sha256="1" * 64)}
    return Parts(generator, SimpleNamespace(name=verifier, checkpoints=checkpoints), judges)  # type: ignore[arg-type]


def result() -> SearchResult:
    clip = Clip(np.zeros((1, 10), dtype=np.float32), 10)
    winner = Winner(0, Score(value=1.0), -1.0, np.zeros((4, 5), dtype=np.int16), clip)
    return SearchResult(PROMPT, "baseline", winner, [], Ledger(frames=5, clips=1))


def test_the_first_judge_is_primary_unless_it_shares_the_selectors_data() -> None:
    independent, dependent = FakeJudge("far"), FakeJudge("near", ("tags",))
    roles = [(m["name"], m["role"]) for m in measures(parts(independent, dependent))]
    assert roles == [("tags", "selector"), ("far", "primary judge"), ("near", "judge")]
    assert [m["role"] for m in measures(parts(dependent, independent))][1:] == ["judge", "judge"]


def test_a_judge_is_marked_only_beside_a_selector_that_it_shares_data_with() -> None:
    judge = FakeJudge("near", ("tags",))
    assert measures(parts(judge))[1]["note"] == "not independent of tags: same training data"
    (_, beside_another) = measures(parts(judge, verifier="perplexity"))
    assert (beside_another["note"], beside_another["role"]) == ("", "primary judge")


def test_a_clip_that_a_judge_has_no_number_for_keeps_the_others_and_the_reason() -> None:
    written = judged(result(), [FakeJudge("one"), FakeJudge("two", problem="no reference")])  # type: ignore[list-item]
    assert written["status"] == "ok"
    assert written["judges"] == {"one": 0.5}
    assert written["unjudged"] == {"two": "no reference"}
    assert written["ledger"]["seconds"]["judge"] > 0


def test_other_weights_or_an_edited_prompt_are_another_run() -> None:
    settings = parse(BenchmarkSettings, ("--profile", "builtin"), prog="benchmark.py")
    first = identity("benchmark", settings, [PROMPT], parts())
    assert first == identity("benchmark", settings, [PROMPT], parts())
    edited = Prompt(id="a", text="a fast piano", key="a")
    assert first != identity("benchmark", settings, [edited], parts())
    assert first != identity("benchmark", settings, [PROMPT], parts(generator_hash="f" * 64))
    assert first != identity("benchmark", settings, [PROMPT], parts(FakeJudge("far")))


def test_made_up_records_have_the_shape_of_real_ones() -> None:
    """What the tests of reports and figures read is what a run writes."""
    made_up = record("baseline", "a", 1.0, {"one": 0.5})
    written = judged(result(), [FakeJudge("one")])  # type: ignore[list-item]
    assert set(made_up) <= set(written)
    assert set(made_up["winner"]) <= set(written["winner"])
    assert set(made_up["ledger"]) == set(written["ledger"])
    assert set(made_up["ledger"]["seconds"]) <= set(written["ledger"]["seconds"])


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
