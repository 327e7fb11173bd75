"""tests/run.py, by which `make test` runs every suite."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SUITE = """
import signal, subprocess, sys
import pytest

def test_fast():
    code = "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)"
    heard = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert heard == "True\\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

@pytest.mark.slow
def test_slow():
    pass
"""


@pytest.mark.parametrize(("fast", "passed"), [("", 2), ("0", 2), ("1", 1)])
def test_in_the_background_interrupts_work_and_fast_leaves_out_what_is_slow(
    tmp_path: Path, fast: str, passed: int
) -> None:
    (tmp_path / "test_made_up.py").write_text(SUITE)
    code = (
        "import sys, tests.run\n"
        f"tests.run.SUITES = {{{str(tmp_path)!r}: 'generator'}}\n"
        "sys.exit(tests.run.main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "-q", "-c", "pyproject.toml"],
        cwd=ROOT,
        env=os.environ | {"FAST": fast},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as `nohup .. &` does
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.splitlines()[-1]
    assert re.fullmatch(rf"==== {passed} passed in \d+\.\d\ds ====", last)
