"""The doctor: its table, whatever is broken; what it keeps to itself; its tests of models."""

import getpass
import json
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from src.data.audio import Clip
from src.data.files import ROOT
from src.experiments import checks, self_tests
from src.experiments.checks import MUSICGENS, rows_of, weight_bytes
from src.experiments.doctor import main
from src.protocol import Checkpoint, NoScore, Score

GPU = {"name": "NVIDIA H100", "sm": "sm_90", "kernels": "sm_80 sm_90", "problem": None}
GPU |= {"memory": 85_000_000_000, "free": 80_000_000_000}
SECRETS = {"CURATOR_TOKEN": "s3cret+token", "HF_TOKEN": "hf_abcdef"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Somebody's, with a GPU: what the environments say of it."""
    home = tmp_path / "home" / "wilhelmina"
    (home / "my weights").mkdir(parents=True)
    names = {"HOME": str(home), "LOGNAME": "wilhelmina", "USER": "wilhelmina"}
    folders = {"HF_HOME": str(home / "hf"), "CURATOR_WEIGHTS": str(home / "my weights")}
    for name, value in (SECRETS | names | folders | {"HF_HUB_OFFLINE": "1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(platform, "node", lambda: "wilhelminas-box")
    found = {"versions": {"python": "3.11.7", "torch": "2.1.0"}, "gpus": [GPU]}
    monkeypatch.setattr(checks, "probed", lambda python: found)
    return found


def run(path: Path, *args: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit code, and rows by name."""
    code = main(["--no_selftest", "--json", str(path / "rows.json"), *args])
    rows = json.loads((path / "rows.json").read_text())
    return code, {row["name"]: row for row in rows}


@pytest.mark.parametrize("model", ["builtin", "wilhelmina/files"])
def test_neither_names_nor_paths_nor_tokens_are_shown(
    machine: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str
) -> None:
    model = str(tmp_path / "home" / model) if model != "builtin" else model
    server = "http://wilhelminas-server.example.org:8000"
    _, rows = run(tmp_path, "--model", model, "--server", server)
    written = "".join(capsys.readouterr()) + (tmp_path / "rows.json").read_text()
    assert getpass.getuser() == "wilhelmina"
    for private in ("wilhelmina", str(tmp_path), str(ROOT), *SECRETS.values()):
        assert private not in written
    assert rows["disk: hub's cache"]["found"].endswith("GB free at $HF_HOME/hub")
    assert "http://<server>" in rows["verifier server"]["found"]


def test_paths_are_shown_where_asked_for_but_no_token(
    machine: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    machine["versions"]["torch"] = SECRETS["HF_TOKEN"]
    run(tmp_path, "--paths")
    written = capsys.readouterr().out
    assert str(tmp_path / "home" / "wilhelmina" / "hf" / "hub") in written
    assert not any(secret in written for secret in SECRETS.values())


def test_what_goes_wrong_in_one_row_is_that_rows_failure_and_the_exit_code(
    machine: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(tmp_path)[0] == 0  # what is missing is no failure
    machine["gpus"] = [GPU | {"problem": "no kernel image is available"}]
    monkeypatch.setattr(checks, "memory", lambda: 1 / 0)
    code, rows = run(tmp_path)
    assert code == 1
    failed = {name: row["found"] for name, row in rows.items() if row["status"] == "FAILED"}
    assert failed.pop("memory") == "ZeroDivisionError: division by zero"
    assert set(failed) == {"GPU for generator", "GPU for verifier"}
    assert all("no kernel image" in text and "sm_80 sm_90" in text for text in failed.values())
    assert "3 FAILED" in capsys.readouterr().out


def test_files_are_found_or_missing_with_licence_and_the_command_that_gets_them(
    machine: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(checks.ENVIRONMENTS, "verifier", tmp_path / "none" / "python")
    _, rows = run(tmp_path)
    assert rows["generator builtin"]["status"] == rows["verifier tags"]["status"] == "ok"
    clap = rows["verifier clap"]
    assert (clap["status"], "licence" in clap["found"]) == ("missing", True)
    assert "--fetch clap" in clap["how"]
    verifier = rows["verifier"]
    assert (verifier["status"], verifier["how"][:10]) == ("missing", "make setup")
    assert rows["GPU for verifier"]["status"] == "skipped"


def test_rows_on_a_gpu_follow_from_the_sizes_of_each_model() -> None:
    assert weight_bytes(*MUSICGENS["small"]) == pytest.approx(840_843_863, rel=0.01)  # its file
    # (0.9 (80e9 - 0.7e9 - 0.839e9) - 4.8e9) / (504 positions x 47 pasts x 4096 bytes + 0.66e6)
    assert rows_of(*MUSICGENS["small"], free=80e9) == "673 at 10 s, 226 at 30 s"
    assert rows_of(*MUSICGENS["large"], free=6e9) == "does not fit"


WEIGHTS = Checkpoint(name="x", sha256="0" * 64)


class Verifier:
    """Scores clips by how much of them is not noise; `beside` is added in a batch."""

    def __init__(self, sign: int = 1, beside: float = 0.0) -> None:
        self.sign, self.beside = sign, beside

    def checkpoints(self, names: Sequence[str]) -> dict[str, Checkpoint]:
        return dict.fromkeys(names, WEIGHTS)

    def score(self, verifiers: dict[str, Checkpoint], _: Any, clips: Sequence[Clip]) -> Any:
        added = self.beside * (len(clips) - 1)
        return {
            name: SimpleNamespace(scores=[self._of(c, added) for c in clips]) for name in verifiers
        }

    def _of(self, clip: Clip, added: float) -> Score | NoScore:
        if not clip.samples.any():
            return NoScore(reason="it is silent")
        kurtosis = np.mean(clip.samples**4) / np.mean(clip.samples**2) ** 2
        return Score(value=self.sign * float(kurtosis) + added)


def test_a_verifier_that_prefers_noise_or_hears_a_batch_otherwise_fails_its_test() -> None:
    said = self_tests.try_verifier("x", Verifier())  # type: ignore[arg-type]
    assert "silence refused" in said
    with pytest.raises(self_tests.Problem, match="not above noise"):
        self_tests.try_verifier("x", Verifier(sign=-1))  # type: ignore[arg-type]
    with pytest.raises(self_tests.Problem, match="a batch has other scores"):
        self_tests.try_verifier("x", Verifier(beside=0.1))  # type: ignore[arg-type]


def test_a_python_without_the_environment_says_how_to_run_the_doctor() -> None:
    command = (sys.executable, "-S", "-m", "src.experiments.doctor")  # -S: no packages
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Run it as   envs/generator/.venv/bin/python -m src.experiments.doctor" in done.stderr


@pytest.mark.slow
def test_every_model_of_the_repository_passes_its_test(tmp_path: Path) -> None:
    command = (sys.executable, "-m", "src.experiments.doctor", "--json", str(tmp_path / "x"))
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "x").read_text())
    passed = {r["name"] for r in rows if (r["group"], r["status"]) == ("self-tests", "ok")}
    verifiers = {f"verifier {name}" for name in ("tags", "tags_vgg", "tags_msd", "tags_msd_vgg")}
    judges = {f"judge {name}" for name in ("msd_kld", "mtt_vgg", "kad_msd", "spread_msd")}
    assert passed >= {"a verifier server", "generator builtin", *verifiers, *judges}
