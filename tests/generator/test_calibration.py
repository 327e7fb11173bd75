"""The constants of weighted sums: what is measured, where it is kept, when it counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from src import verifier as calibration
from src.data.audio import Clip
from src.data.prompts import Prompt
from src.experiments.calibration import CalibrationSettings, calibrate
from src.protocol import Checkpoint
from src.runs import build
from src.verifier import (
    Calibration,
    CalibrationError,
    Constant,
    calibration_file,
    load_calibration,
)
from tests.generator.fake_pool import WEIGHTS, FakeClient
from tests.generator.fake_search import FakeGenerator

MUSICGEN = Checkpoint(name="facebook/musicgen-small", sha256="ab" * 32)
BUILTIN = Checkpoint(name="builtin", sha256="cd" * 32)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> FakeClient:
    """`calibrate` gets a fake generator and this client."""
    client = FakeClient(refuses=[("tags", "refused")])
    monkeypatch.setattr(build, "load", lambda settings: FakeGenerator())
    monkeypatch.setattr(build, "connect", lambda settings, names, stack: client)
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
    pools = np.array([client.values["tags", prompt] for prompt in ("a", "b", "c")])
    assert pools.shape == (3, 4)
    expected = np.sqrt(pools.var(axis=1, ddof=1).mean())
    assert found.constants["tags"].deviation == pytest.approx(expected)
    assert found.constants["tags"].mean == pytest.approx(pools.mean())
    assert found.constants["perplexity"].checkpoint == FakeGenerator.checkpoint
    assert found.constants["perplexity"].deviation > 0
    assert [names for names, _, _ in client.asked] == [("tags",)] * 2  # by groups of prompts


def test_a_constant_tells_where_it_came_from(tmp_path: Path, client: FakeClient) -> None:
    constant = calibrate(settings(tmp_path, "tags"), prompts("a", "refused", "b"))[0].constants[
        "tags"
    ]
    assert constant.checkpoint == WEIGHTS
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
    silence = Clip(np.zeros((1, 50), np.float32), 50)
    monkeypatch.setattr(FakeGenerator, "render", lambda self, tokens: [silence] * len(tokens))
    with pytest.raises(CalibrationError, match="does not vary"):
        calibrate(settings(tmp_path, "tags"), prompts("a"))


def test_each_generator_has_its_file_and_the_built_in_one_beside_its_weights(
    tmp_path: Path,
) -> None:
    assert calibration_file(BUILTIN, tmp_path) == calibration.BUILTIN_FILE
    assert calibration_file(MUSICGEN, tmp_path) == tmp_path / "musicgen-small-abababab.json"


def test_what_was_never_measured_or_of_other_weights_is_empty_and_what_is_damaged_an_error(
    tmp_path: Path,
) -> None:
    path = calibration_file(MUSICGEN, tmp_path)
    assert load_calibration(MUSICGEN, tmp_path).constants == {}
    other = Calibration(generator=Checkpoint(name=MUSICGEN.name, sha256="00" * 32))
    path.write_text(other.model_dump_json())
    assert load_calibration(MUSICGEN, tmp_path).generator == MUSICGEN
    path.write_text('{"generator": ')
    with pytest.raises(CalibrationError, match="cannot be used"):
        load_calibration(MUSICGEN, tmp_path)


@pytest.mark.parametrize("deviation", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_is_a_positive_number(deviation: float) -> None:
    fields = json.loads(Constant.model_construct(checkpoint=WEIGHTS).model_dump_json())
    with pytest.raises(ValueError, match="deviation"):
        Constant.model_validate({**fields, "deviation": deviation})
