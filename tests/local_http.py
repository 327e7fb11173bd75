"""An HTTP server on a free loopback port, for as long as a `with` block."""

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: object) -> None:
        pass  # a client that goes away is part of the tests


class Handler(BaseHTTPRequestHandler):
    """Answers HEAD and GET by `answer`, and says nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def do_HEAD(self) -> None:
        self.answer()

    do_GET = do_HEAD

    def head(self, status: int, facts: Mapping[str, object]) -> None:
        self.send_response(status)
        for key, value in facts.items():
            self.send_header(key, str(value))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yields the server's URL."""
    with _Server(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
