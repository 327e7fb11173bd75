"""A verifier server for the length of a `with` block.

    with local_server(["tags"]) as url:
        client = ServerClient(url)

It runs in the environment of envs/verifier, on a free loopback port, and ends with the block or
with this process, however that ends: it watches a pipe of which this process has the other end.
"""

import logging
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from src.client import ServerClient
from src.connection import ServerUnreachable, VerifierError
from src.data.files import ROOT

logger = logging.getLogger(__name__)

PYTHON = ROOT / "envs" / "verifier" / ".venv" / "bin" / "python"
START_SECONDS = 300.0


@contextmanager
def local_server(
    models: Sequence[str],
    device: str = "auto",
    server: Sequence[str] = ("verifier_server.py",),
) -> Iterator[str]:
    """Yields the URL of a server whose `models` are loaded on the device.

    Raises ServerUnreachable with the log's end when the server does not come up.
    """
    with tempfile.TemporaryDirectory(prefix="curator-server-") as scratch:
        log = Path(scratch) / "server.log"
        command = [str(PYTHON), *server, "--host", "127.0.0.1", "--port", "0"]
        # This process waits while the server scores: the server may have every core.
        command += ["--stop_with_stdin", "--threads", "-1", "--device", device]
        command += ["--models", *models]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
            )
        with process:
            try:
                yield _wait_until_ready(process, log, models)
            finally:
                process.kill()  # it keeps nothing, and nobody else uses it


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path, models: Sequence[str]) -> str:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        running = re.search(r"Uvicorn running on (http://\S+)", log.read_text(errors="replace"))
        if running:
            with suppress(VerifierError):
                # The server takes its token from the environment, which it has from this process.
                token = os.environ.get("CURATOR_TOKEN")
                ServerClient(running[1], token, total_seconds=START_SECONDS).checkpoints(models)
                logger.info("verifier server at %s", running[1])
                return running[1]
            break
        time.sleep(0.1)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise ServerUnreachable(f"the verifier server did not come up; the end of its log:\n{tail}")
