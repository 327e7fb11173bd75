"""The server's process: it listens until a signal, or the end of its input, asks it to stop."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence

import uvicorn

from src.models.adapter import Adapter
from src.server.app import create_app
from src.server.settings import ServerSettings

logger = logging.getLogger(__name__)


def serve(adapters: Sequence[Adapter], settings: ServerSettings) -> int:
    """Host the adapters until SIGTERM or SIGINT. Returns 0; SystemExit(1) when it cannot listen."""
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
        threading.Thread(target=_stop_at_end_of_stdin, daemon=True).start()
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


def _stop_at_end_of_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
