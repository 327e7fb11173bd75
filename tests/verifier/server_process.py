"""A server of the tests' own as a real process on a free port."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import requests

ROOT = Path(__file__).resolve().parents[2]
FAKE_MODELS = ("-m", "tests.verifier.fake_models")
REAL_MODELS = ("verifier_server.py",)


class ServerProcess:
    """A server with a log file, of fake models by default; use as a context manager."""

    def __init__(
        self, log: Path, *options: str, token: str = "", server: tuple[str, ...] = FAKE_MODELS
    ) -> None:
        self.log = log
        command = [sys.executable, *server, "--host", "127.0.0.1"]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--port", "0", *options],
                cwd=ROOT,
                env={**os.environ, "CURATOR_TOKEN": token},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "ServerProcess":
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            running = re.search(r"Uvicorn running on (http://\S+)", self.log.read_text())
            if running:
                self.url = running[1]
                return self
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(f"not up after 120 s: {self.log.read_text()}")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def metric(self, line: str, **headers: str) -> float:
        """The value of a metric, 0 when it was never counted."""
        text = requests.get(self.url + "/metrics", headers=headers, timeout=5).text
        found = re.search(rf"^{re.escape(line)} (\S+)$", text, re.MULTILINE)
        return float(found[1]) if found else 0.0
