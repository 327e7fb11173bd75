"""The verifier server: hosts music models that score WAV uploads against prompts over HTTP.

    python verifier_server.py                          # everything whose weights are there
    python verifier_server.py --models tags --port 9000
    CURATOR_TOKEN=secret python verifier_server.py     # clients must send the token

Runs in the environment of envs/verifier. The page /docs describes the requests; /ready tells when
the models are loaded, /metrics what they do. SIGTERM or Ctrl-C finishes what is queued and stops.
"""

import logging
import os
import signal
import sys
import threading
from dataclasses import replace

import tyro
import uvicorn

from src.server import ServerSettings, create_app
from src.verifier_core import NotHosted, choose

logger = logging.getLogger("verifier_server")


def main() -> int:
    settings = tyro.cli(ServerSettings, description=__doc__, use_underscores=True)
    settings = replace(settings, token=settings.token or os.environ.get("CURATOR_TOKEN") or None)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        adapters, left_out = choose(settings.models)
    except NotHosted as error:
        logger.error("%s", error)
        return 2
    for name, problem in left_out.items():
        logger.warning("%s is left out: %s", name, problem)
    for adapter in adapters:
        logger.info("%s: %s (%s)", adapter.name, adapter.summary, adapter.licence)
    if settings.token is None and settings.host not in ("127.0.0.1", "localhost", "::1"):
        logger.warning(
            "anyone who reaches this machine can use the server: set CURATOR_TOKEN, "
            "or listen on --host 127.0.0.1"
        )
    settings = replace(settings, device=configure_torch(settings, len(adapters)))
    app = create_app(adapters, settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            access_log=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=max(1, round(settings.stop_seconds)),
            log_level=settings.log_level,
        )
    )
    # Uvicorn stops gracefully and then raises the signal again: here that is the end of the job.
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda *_: sys.exit(0))
    if settings.stop_with_stdin:
        threading.Thread(target=stop_at_end_of_stdin, daemon=True).start()
    try:
        server.run()
    except SystemExit as exit_:
        if exit_.code:
            raise
    if not getattr(app.state, "stopped", False):
        logger.warning("a model was still computing when the time to stop was over")
        logging.shutdown()
        os._exit(0)  # ending the interpreter under a computing thread would crash
    return 0


def configure_torch(settings: ServerSettings, models: int) -> str:
    """Share the cores among the models, and resolve the device 'auto'."""
    import torch

    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    free = cores if settings.threads < 0 else cores - 1
    torch.set_num_threads(settings.threads if settings.threads > 0 else max(1, free // models))
    if settings.device != "auto":
        return settings.device
    return "cuda" if torch.cuda.is_available() else "cpu"


def stop_at_end_of_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
