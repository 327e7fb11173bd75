"""The constants of weighted sums: what is measured, where it is kept, when it counts."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from src.budget import Ledger
from src.data import scales as calibration
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.data.scales import (
    Calibration,
    CalibrationError,
    Constant,
    calibration_file,
    load_calibration,
)
from src.experiments.calibration import CalibrationSettings, calibrate
from src.protocol import Checkpoint, Score, VerifierInfo, VerifierResult
from src.verifier import PromptRefused
from tests.generator.fake_search import FakeGenerator

MUSICGEN = Checkpoint(name="facebook/musicgen-small", sha256="ab" * 32)
BUILTIN = Checkpoint(name="builtin", sha256="cd" * 32)
TAGS = Checkpoint(name="MTT_musicnn", sha256="ef" * 32)


class FakeClient:
    """Scores a clip by the mean of its samples, and refuses a prompt that says so."""

    def __init__(self) -> None:
        self.uploads: list[list[str]] = []
        self.values: dict[str, list[float]] = {}

    def infos(self, names: Sequence[str]) -> dict[str, VerifierInfo]:
        return {
            name: VerifierInfo(
                name=name, state="ready", checkpoint=TAGS, sample_rate=16_000, needs_text=True
            )
            for name in names
        }

    def score(
        self, names: Sequence[str], prompts: Sequence[str], clips: Sequence[Clip]
    ) -> dict[str, VerifierResult]:
        refused = {i: "names no tag" for i, prompt in enumerate(prompts) if prompt == "refused"}
        if refused:
            raise PromptRefused(refused)
        self.uploads.append(list(names))
        values = [float(clip.samples.mean()) for clip in clips]
        for prompt, value in zip(prompts, values, strict=True):
            self.values.setdefault(prompt, []).append(value)
        result = VerifierResult(
            checkpoint=TAGS,
            scores=[Score(value=value) for value in values],
            queue_seconds=0.0,
            compute_seconds=0.0,
        )
        return dict.fromkeys(names, result)

    def take_usage(self) -> Ledger:
        return Ledger()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """`calibrate` gets a fake generator and this client."""
    client, generator = FakeClient(), FakeGenerator()
    generator.dtype = "float32"  # type: ignore[attr-defined]
    parts = SimpleNamespace(load=lambda settings, remote, stack: (generator, client))
    monkeypatch.setitem(sys.modules, "src.runs.build", parts)  # type: ignore[arg-type]
    return client


def settings(tmp_path: Path, *verifiers: str) -> CalibrationSettings:
    return CalibrationSettings(
        profile="builtin",
        prompts="builtin",
        verifiers=verifiers,
        candidates=4,
        duration=1.0,
        output=tmp_path,
        max_rows=8,
    )


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(id=text, text=text, key=text) for text in texts]


def test_the_constant_is_the_deviation_within_prompts_whatever_their_means(
    tmp_path: Path, client: FakeClient
) -> None:
    found, _ = calibrate(settings(tmp_path, "tags", "perplexity"), prompts("a", "b", "c"))
    pools = np.array(list(client.values.values()))
    assert pools.shape == (3, 4)
    expected = np.sqrt(pools.var(axis=1, ddof=1).mean())
    assert found.constants["tags"].deviation == pytest.approx(expected)
    assert found.constants["tags"].mean == pytest.approx(pools.mean())
    assert found.constants["perplexity"].checkpoint == FakeGenerator.checkpoint
    assert found.constants["perplexity"].deviation > 0


def test_all_verifiers_score_one_upload(tmp_path: Path, client: FakeClient) -> None:
    calibrate(settings(tmp_path, "tags", "tags_msd", "perplexity"), prompts("a", "b"))
    assert client.uploads == [["tags", "tags_msd"]]


def test_a_constant_tells_where_it_came_from(tmp_path: Path, client: FakeClient) -> None:
    constant = calibrate(settings(tmp_path, "tags"), prompts("a", "refused", "b"))[0].constants[
        "tags"
    ]
    assert constant.checkpoint == TAGS
    assert (constant.num_prompts, constant.candidates, constant.duration) == (2, 4, 1.0)
    assert (constant.seed, constant.prompts) == (42, "builtin")
    assert constant.date.endswith("Z")
    assert len(constant.prompts_sha256) == 64


def test_measuring_one_verifier_keeps_the_others(tmp_path: Path, client: FakeClient) -> None:
    first, path = calibrate(settings(tmp_path, "tags"), prompts("a"))
    path.parent.mkdir(parents=True)
    path.write_text(first.model_dump_json())
    second, again = calibrate(settings(tmp_path, "perplexity"), prompts("a"))
    assert again == path
    assert second.constants["tags"] == first.constants["tags"]
    assert set(second.constants) == {"tags", "perplexity"}


def test_a_verifier_that_never_varies_is_an_error(
    tmp_path: Path, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeGenerator, "render", lambda self, tokens: [_silence()] * len(tokens))
    with pytest.raises(CalibrationError, match="does not vary"):
        calibrate(settings(tmp_path, "tags"), prompts("a"))


def _silence() -> Clip:
    return Clip(np.zeros((1, 50), np.float32), 50)


def test_each_generator_has_its_file_and_the_built_in_one_beside_its_weights(
    tmp_path: Path,
) -> None:
    assert calibration_file(BUILTIN, tmp_path) == calibration.BUILTIN_FILE
    assert calibration_file(MUSICGEN, tmp_path) == tmp_path / "musicgen-small-abababab.json"


def test_what_was_never_measured_is_empty_and_what_is_damaged_is_an_error(tmp_path: Path) -> None:
    assert load_calibration(MUSICGEN, tmp_path).constants == {}
    calibration_file(MUSICGEN, tmp_path).write_text('{"generator": ')
    with pytest.raises(CalibrationError, match="cannot be used"):
        load_calibration(MUSICGEN, tmp_path)


def test_constants_of_a_generator_with_other_weights_do_not_count(tmp_path: Path) -> None:
    path = calibration_file(MUSICGEN, tmp_path)
    other = Calibration(generator=Checkpoint(name=MUSICGEN.name, sha256="00" * 32))
    path.write_text(other.model_dump_json())
    assert load_calibration(MUSICGEN, tmp_path).generator == MUSICGEN


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_is_a_positive_number(deviation: float) -> None:
    fields = json.loads(Constant.model_construct(checkpoint=TAGS).model_dump_json())
    with pytest.raises(ValueError, match="deviation"):
        Constant.model_validate({**fields, "deviation": deviation})
