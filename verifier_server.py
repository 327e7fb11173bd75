"""The verifier server: hosts music models that score WAV uploads against prompts over HTTP.

    python verifier_server.py                          # everything whose weights are there
    python verifier_server.py --fetch clap quality     # download what these two need, and end
    python verifier_server.py --fetch kld_pq           # the same for a judge of the benchmark
    python verifier_server.py --models tags --port 9000
    CURATOR_TOKEN=secret python verifier_server.py     # clients must send the token

Runs in the environment of envs/verifier, and downloads nothing unless --fetch is given. The page
/docs describes the requests; /ready tells when the models are loaded, /metrics what they do.
SIGTERM or Ctrl-C finishes what is queued and stops.

Exit codes: 0 stopped as asked, or every file fetched; 1 a file could not be fetched, or the port
could not be listened on; 2 wrong usage, or a model was named whose weights are missing; 5 the
weights' folder cannot be written, or the disk is full; 130 a download was interrupted. After 5 and
130 the same command goes on with the download.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace

from src.runs.ending import Exit, check_environment

check_environment("verifier", ("tyro", "uvicorn", "fastapi"))  # which what follows imports

import tyro
import uvicorn

from src.data import hub
from src.data.files import WriteError
from src.models.adapter import Adapter
from src.runs.arguments import given
from src.runs.fetch import fetch
from src.server.app import create_app
from src.server.connections import Seldom, connections, raise_file_limit
from src.server.settings import ServerSettings, SettingsError, configure_torch
from src.verifier_core import NotHosted, choose
from src.weights.files import is_non_commercial

logger = logging.getLogger("verifier_server")

SELDOM = {"asyncio": "socket.accept() out of", "uvicorn.error": "Invalid HTTP request"}


def main() -> int:
    args = given(None, "verifier_server.py")
    settings = tyro.cli(ServerSettings, description=__doc__, args=args, use_underscores=True)
    settings = replace(settings, token=settings.token or os.environ.get("CURATOR_TOKEN") or None)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    try:
        settings.check()
        settings.use_weights_dir()
        if settings.fetch is not None:
            return fetch(settings.fetch)
        adapters, left_out = choose(settings.models)
        say_what_is_hosted(adapters, left_out)
        hub.go_offline()
        settings = replace(settings, device=configure_torch(settings, len(adapters)))
    except (SettingsError, NotHosted) as error:
        logger.error("%s", error)
        return Exit.USAGE
    except WriteError as error:
        logger.error(
            "%s; make room, or choose another --weights_dir: the same command goes on", error
        )
        return Exit.FOLDER
    except KeyboardInterrupt:
        logger.error("interrupted: the same command goes on where this one stopped")
        return Exit.INTERRUPTED
    if settings.token is None and not settings.is_local:
        logger.warning(
            "anyone who reaches this machine can use the server: set CURATOR_TOKEN, "
            "or listen on --host 127.0.0.1"
        )
    return serve(adapters, settings)


def say_what_is_hosted(adapters: Sequence[Adapter], left_out: dict[str, str]) -> None:
    for name, problem in left_out.items():
        logger.warning("%s is left out: %s", name, problem)
    for adapter in adapters:
        logger.info("%s: %s; licence: %s", adapter.name, adapter.summary, adapter.licence)
        if is_non_commercial(adapter.licence):
            logger.warning("%s: NOT FOR COMMERCIAL USE; licence: %s", adapter.name, adapter.licence)


def serve(adapters: Sequence[Adapter], settings: ServerSettings) -> int:
    """Host the adapters until SIGTERM or SIGINT. Returns 0, or 1 when it cannot listen."""
    app, max_files = create_app(adapters, settings), raise_file_limit()
    # An attack must not fill the disk with the log of itself.
    for name, message in SELDOM.items():
        logging.getLogger(name).addFilter(Seldom(message, seconds=10))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=connections(settings, max_files),
            ws="none",
            backlog=min(2048, max_files // 4),  # one turn of the event loop may accept so many
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
        if exit_.code:  # uvicorn's, which has said why
            return 1
    if not getattr(app.state, "stopped", False):
        logger.warning("a model was still computing when the time to stop was over")
        logging.shutdown()
        os._exit(0)  # ending the interpreter under a computing thread would crash
    return 0


def _stop_at_end_of_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
