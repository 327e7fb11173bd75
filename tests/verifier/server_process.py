"""A server of the tests' own as a real process on a free port."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).resolve().parents[2]
FAKE_MODELS = ("-m", "tests.verifier.fake_models")
REAL_MODELS = ("verifier_server.py",)


class ServerProcess:
    """A server with a log file, of fake models by default; use as a context manager.

    headers: with its token, if it has one.
    """

    def __init__(
        self, log: Path, *options: str, token: str = "", server: tuple[str, ...] = FAKE_MODELS
    ) -> None:
        self.log = log
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        command = [sys.executable, *server, "--host", "127.0.0.1", "--port", "0", *options]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "CURATOR_TOKEN": token},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> "ServerProcess":
        deadline = time.monotonic() + 120
        while not (running := re.search(r"Uvicorn running on (\S+)", self.log.read_text())):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)
        self.url = running[1]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def get(self, path: str, **how: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=5, **{"headers": self.headers, **how})

    def metric(self, line: str) -> float:
        """The value of a metric, 0 when it was never counted."""
        found = re.search(rf"^{re.escape(line)} (\S+)$", self.get("/metrics").text, re.MULTILINE)
        return float(found[1]) if found else 0.0
