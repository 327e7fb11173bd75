"""How the `clap` verifier loads: what it needs, what it refuses, and what it leaves behind."""

# ruff: noqa: F811 (fixtures are imported, then they are arguments)

import pickle
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from src.models.clap import ClapVerifier
from src.models.clap_network import fill, read_checkpoint
from src.protocol import Checkpoint
from src.weights.files import WEIGHTS_VARIABLE, WeightsError, sha256
from tests.verifier.clap_fixtures import (  # noqa: F401
    environment,
    loaded,
    made,
    naive,
)
from tests.verifier.clap_weights import CHECKPOINT, PROMPTS, Loaded, Surprise, clip, surroundings

pytestmark = pytest.mark.slow  # the libraries' imports and the weights take half a minute


def test_a_load_says_which_weights_it_loaded(loaded: Loaded, made: Path) -> None:
    path = made / "weights" / CHECKPOINT
    assert loaded.checkpoint == Checkpoint(name=CHECKPOINT, sha256=sha256(path))


def test_the_numpy_scalars_of_a_training_checkpoint_are_read(made: Path) -> None:
    path = made / "weights" / CHECKPOINT
    with pytest.raises(pickle.UnpicklingError, match=r"numpy\.core\.multiarray\.scalar"):
        torch.load(path, weights_only=True, mmap=True)
    assert "audio_projection.0.weight" in read_checkpoint(path)


def test_nothing_of_bert_or_bart_and_no_roberta_weights_are_needed(
    loaded: Loaded, naive: dict[str, Any]
) -> None:
    assert naive["import without tokenizers"]  # the library alone cannot even be imported
    assert loaded.verifier.missing() is None
    repositories = {file.repository for file in ClapVerifier.files}
    assert repositories == {"lukewys/laion_clap", "roberta-base"}


def test_load_and_score_leave_the_process_as_it_was(loaded: Loaded) -> None:
    assert loaded.after == loaded.before
    assert loaded.after["patched"] == []
    before = surroundings()
    loaded.verifier.score([clip(2)], PROMPTS[:1])
    assert surroundings() == before
    model = loaded.verifier._library
    assert not any(module.training for module in model.modules())
    assert not any(weights.requires_grad for weights in model.parameters())


def test_a_bare_file_without_position_ids_loads_in_silence_and_without_network(
    made: Path,
    naive: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert "position_ids" in naive["no position ids"]
    own_folder(tmp_path, made, monkeypatch)
    (tmp_path / CHECKPOINT).symlink_to(made / "bare" / CHECKPOINT)
    tries = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: tries.append(address))
    verifier = ClapVerifier("clap")
    verifier.load("cpu")
    scores = [score.value for score in verifier.score([clip(10)], PROMPTS[:1])]
    assert scores == pytest.approx(naive["ten"][:1], abs=1e-5)
    assert tries == []
    assert capfd.readouterr().out == ""


def own_folder(folder: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A weights folder that has RoBERTa's files and no checkpoint."""
    shutil.copytree(made / "weights" / "roberta-base", folder / "roberta-base")
    monkeypatch.setenv(WEIGHTS_VARIABLE, str(folder))


@pytest.mark.parametrize("name", [CHECKPOINT, "vocab.json", "merges.txt", "config.json"])
def test_a_missing_file_is_named_before_anything_is_loaded(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    own_folder(tmp_path, made, monkeypatch)
    (tmp_path / CHECKPOINT).symlink_to(made / "weights" / CHECKPOINT)
    next(tmp_path.rglob(name)).unlink()
    verifier = ClapVerifier("clap")
    assert name in (verifier.missing() or "")
    with pytest.raises(WeightsError, match=f"{name} is missing"):
        verifier.load("cpu")


def test_a_checkpoint_that_cannot_be_read_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_folder(tmp_path, made, monkeypatch)
    path = tmp_path / CHECKPOINT
    with (made / "weights" / CHECKPOINT).open("rb") as whole:
        torn = whole.read(1_000_000)
    for data in (b"", b"<html>not found</html>", torn):
        path.write_bytes(data)
        with pytest.raises(WeightsError, match="cannot be read") as refused:
            ClapVerifier("clap").load("cpu")
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)


def test_code_in_a_checkpoint_is_not_run_where_the_library_runs_it(
    made: Path, naive: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert naive["surprise"]
    assert (made / "naive surprise").is_dir()
    own_folder(tmp_path, made, monkeypatch)
    made_by_code = tmp_path / "surprise"
    torch.save({"state_dict": {"w": Surprise(made_by_code)}}, tmp_path / CHECKPOINT)
    with pytest.raises(WeightsError, match=r"cannot be read .*mkdir"):
        ClapVerifier("clap").load("cpu")
    assert not made_by_code.exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, {"state_dict": {}}, [1, 2], torch.zeros(3)])
def test_a_file_without_weights_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: object
) -> None:
    own_folder(tmp_path, made, monkeypatch)
    torch.save(content, tmp_path / CHECKPOINT)
    with pytest.raises(WeightsError, match="holds no weights"):
        ClapVerifier("clap").load("cpu")


def test_another_models_weights_are_refused_and_none_is_loaded_in_part(
    loaded: Loaded, made: Path, tmp_path: Path, naive: dict[str, Any]
) -> None:
    assert "Unexpected key" in naive["default model"]  # upstream's default is another size
    model = loaded.verifier._library.model
    state = read_checkpoint(made / "weights" / CHECKPOINT)
    logit_scale = model.logit_scale_a.item()
    state["logit_scale_a"] = torch.tensor(0.5)
    short, longer, other = state.copy(), state.copy(), state.copy()
    del short["audio_projection.0.weight"]
    longer["mel_conv2d.weight"] = torch.zeros(1)
    other["audio_projection.0.weight"] = torch.zeros(512, 768)
    for wrong, reason in (
        (short, r"1 weights missing \(audio_projection.0.weight"),
        (longer, r"1 weights unknown \(mel_conv2d.weight"),
        (other, r"1 weights of another shape \(audio_projection.0.weight"),
    ):
        with pytest.raises(WeightsError, match=reason):
            fill(model, wrong, tmp_path / CHECKPOINT)
    assert model.logit_scale_a.item() == logit_scale


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("vocab.json", "{", "cannot be read"),
        ("vocab.json", '{"a": 0, "<pad>": 300}', "not of the same RoBERTa"),
        ("config.json", '{"vocab_size": 9}', "not of the same RoBERTa"),
        ("config.json", '{"pad_token_id": 3}', "not of the same RoBERTa"),
    ],
)
def test_another_models_tokenizer_is_refused(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str, reason: str
) -> None:
    own_folder(tmp_path, made, monkeypatch)
    (tmp_path / CHECKPOINT).symlink_to(made / "weights" / CHECKPOINT)
    (tmp_path / "roberta-base" / name).write_text(text)
    with pytest.raises(WeightsError, match=reason):
        ClapVerifier("clap").load("cpu")
