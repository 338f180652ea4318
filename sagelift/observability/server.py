"""`/metrics`, `/healthz` and `/readyz` over HTTP, for Prometheus, orchestrators and `sagelift stream status`."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from sagelift.errors import SettingsError
from sagelift.observability.health import Health

PATHS = ("/metrics", "/healthz", "/readyz")


@contextmanager
def serving(
    host: str,
    port: int,
    registry: CollectorRegistry,
    health: Callable[[], Health],
    facts: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    """Answers in the background until the block is left; yields the address as a URL.

    Args:
        port: 0 takes any free one.
        facts: what the answers of `/healthz` and `/readyz` say besides state and reason.

    Raises:
        SettingsError: the address cannot be listened on.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "sagelift"
        sys_version = ""
        timeout = 5  # of a client that sends nothing

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(registry))
                return
            if path not in PATHS:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", f"there are {', '.join(PATHS)}\n".encode())
                return
            found = health()
            well = found.alive if path == "/healthz" else found.ready
            told = {"ok": well, "state": found.state, "reason": found.reason, **facts()}
            status = HTTPStatus.OK if well else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", json.dumps(told).encode() + b"\n")

        do_HEAD = do_GET

        def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A line for each scrape would bury the log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """A client that hung up is no news."""

    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"metrics.host, metrics.port: {host}:{port} cannot be listened on "
            f"({getattr(error, 'strerror', None) or error}); 0 takes any free port"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{_named(server.server_address[0])}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _named(host: Any) -> str:
    """Under which name this machine reaches what listens on `host`."""
    return {"0.0.0.0": "127.0.0.1"}.get(host, str(host))
