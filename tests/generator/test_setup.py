"""envs/setup.sh, with a fake uv: it builds once, follows the lock, survives failures and kills."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for uv: environments are a link to this Python, and each call leaves a line in a log.
FAKE_UV = f"""#!/usr/bin/env bash
[[ $1 == --version ]] && exit
[[ $1 == python ]] && exit 1
echo "$*" >>"$UV_LOG"
[[ $1 == venv ]] && mkdir -p "${{@: -1}}/bin" && ln -s "{sys.executable}" "${{@: -1}}/bin/python"
[[ $1 == pip ]] && sleep "${{UV_SLEEP:-0}}" && exit "${{UV_FAILS:-0}}"
exit 0
"""


class Checkout:
    """A folder with envs/setup.sh, one environment named tiny, and a fake uv and python3.11."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin, self.log = folder, folder / "bin", folder / "uv.log"
        (folder / "envs" / "tiny").mkdir(parents=True)
        self.bin.mkdir()
        shutil.copy(ROOT / "envs" / "setup.sh", folder / "envs")
        self.lock = folder / "envs" / "tiny" / "requirements.lock"
        self.lock.write_text("tiny==1.0\n")
        (self.bin / "uv").write_text(FAKE_UV)
        (self.bin / "uv").chmod(0o755)
        (self.bin / "python3.11").symlink_to(sys.executable)

    def start(self, *names: str, **extra: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("UV_")}
        environment |= {"PATH": f"{self.bin}:/usr/bin:/bin", "UV_LOG": str(self.log), **extra}
        return subprocess.Popen(
            [str(self.folder / "envs" / "setup.sh"), *(names or ("tiny",))],
            cwd="/",
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def setup(self, *names: str, **extra: str) -> tuple[int, str]:
        process = self.start(*names, **extra)
        output, _ = process.communicate(timeout=30)
        return process.returncode, output

    def installs(self) -> int:
        return sum(line.startswith("pip") for line in self.log.read_text().splitlines())


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path / "a folder with spaces")


def test_setup_builds_once_and_then_follows_a_changed_lock_only(checkout: Checkout) -> None:
    code, output = checkout.setup()
    assert code == 0, output
    assert checkout.setup() == (0, "setup: tiny: up to date\n")
    assert checkout.installs() == 1
    checkout.lock.write_text("tiny==2.0\n")
    code, output = checkout.setup()
    assert code == 0
    assert "the lock has changed" in output
    assert checkout.installs() == 2
    assert "up to date" in checkout.setup()[1]


def test_setup_starts_again_after_a_failed_build(checkout: Checkout) -> None:
    code, output = checkout.setup(UV_FAILS="1")
    assert code == 1
    assert "run it again" in output
    assert checkout.setup()[0] == 0
    assert checkout.installs() == 2


def test_setup_starts_again_after_a_kill(checkout: Checkout) -> None:
    process = checkout.start(UV_SLEEP="0.3")
    while not checkout.log.exists() or checkout.installs() == 0:
        assert process.poll() is None
    process.kill()
    process.wait()
    assert checkout.setup()[0] == 0
    assert checkout.installs() == 2


def test_two_setups_at_once_install_once(checkout: Checkout) -> None:
    both = [checkout.start(UV_SLEEP="0.3") for _ in range(2)]
    outputs = [process.communicate(timeout=30)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert checkout.installs() == 1
    assert any("waiting" in output for output in outputs)


def test_setup_without_python_311_says_how_to_get_it(checkout: Checkout) -> None:
    (checkout.bin / "python3.11").unlink()
    for name in ("python3.11", "python3", "python"):
        (checkout.bin / name).write_text("#!/bin/sh\nexit 1\n")
        (checkout.bin / name).chmod(0o755)
    code, output = checkout.setup()
    assert code == 1
    assert "Python 3.11 was not found" in output
    assert "conda create" in output


def test_setup_of_an_unknown_environment_names_those_there_are(checkout: Checkout) -> None:
    code, output = checkout.setup("nothing")
    assert code == 1
    assert "there is no environment 'nothing'; there are: tiny" in output


def test_another_torch_leaves_the_cuda_libraries_out(checkout: Checkout) -> None:
    checkout.lock.write_text("nvidia-nccl-cu12==2.18.1\ntorch==2.1.0\ntriton==2.1.0\n")
    assert checkout.setup(UV_TORCH_BACKEND="cpu")[0] == 0
    assert (checkout.lock.parent / ".venv" / "lock.txt").read_text() == "torch==2.1.0\n"


def test_an_extra_stays_with_its_environment_and_follows_its_lock(checkout: Checkout) -> None:
    extra = checkout.lock.with_name("ray.lock")
    extra.write_text("ray==1.0\n")
    assert checkout.setup()[0] == 0
    code, output = checkout.setup("tiny", "--extra", "ray")
    assert code == 0
    assert "extra: ray" in output
    assert checkout.setup() == (0, "setup: tiny: up to date\n")
    assert checkout.setup("tiny", "--extra", "ray") == (0, "setup: tiny: up to date\n")
    assert checkout.installs() == 2
    extra.write_text("ray==2.0\n")
    assert checkout.setup(UV_FAILS="1")[0] == 1
    assert checkout.setup()[0] == 0
    assert checkout.setup(UV_TORCH_BACKEND="cpu")[0] == 0
    first, *later = [line for line in checkout.log.read_text().splitlines() if "pip sync" in line]
    assert "ray.lock" not in first
    assert len(later) == 3
    assert all("ray.lock" in line for line in later)
    assert (extra.parent / ".venv" / "lock.txt").read_text() == "tiny==1.0\nray==2.0\n"


def test_setup_of_an_unknown_extra_says_so(checkout: Checkout) -> None:
    code, output = checkout.setup("tiny", "--extra", "nothing")
    assert code == 1
    assert "the environment 'tiny' has no extra 'nothing'" in output
