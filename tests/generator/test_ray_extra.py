"""Ray is an extra: what is said where it is missing."""

import subprocess
import sys
from pathlib import Path

import pytest

from src.cluster import require_ray, runtime_env
from src.cluster.driver import joined
from src.runs.settings import UsageError

ROOT = Path(__file__).resolve().parents[2]


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match="Ray is not installed; get it with make setup-ray"):
        require_ray()


def test_the_other_environment_must_have_the_same_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="is not there; build its environment with make setup-ray"):
        require_ray([tmp_path / "python"])
    for answer, told in (("exit 1", "has no Ray"), ("echo 1.0", "has Ray 1.0")):
        (tmp_path / "python").write_text(f"#!/bin/sh\n{answer}\n")
        (tmp_path / "python").chmod(0o755)
        with pytest.raises(UsageError, match=told):
            require_ray([tmp_path / "python"])


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere"])
def test_an_address_where_no_cluster_is_ends_the_run_at_once(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(UsageError, match="no cluster's head answers there"), joined(address):
        pass


def test_no_script_imports_ray_by_itself() -> None:
    code = "import sys, benchmark, src.cluster; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_an_actor_finds_the_weights_and_is_told_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CURATOR_WEIGHTS", "CURATOR_TOKEN", "HF_HOME", "HF_TOKEN"):
        monkeypatch.setenv(name, "x")
    env = runtime_env(Path("/a folder/python"))
    assert env["py_executable"] == "'/a folder/python'"
    assert {"CURATOR_WEIGHTS", "HF_HOME", "PYTHONPATH"} <= set(env["env_vars"])
    assert not any("TOKEN" in name for name in env["env_vars"])
