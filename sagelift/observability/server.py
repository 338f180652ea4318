"""Serve `/metrics`, `/healthz` and `/readyz` for Prometheus, orchestrators and `sagelift stream status`."""

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
"""The paths that are served."""


@contextmanager
def serving(
    host: str,
    port: int,
    registry: CollectorRegistry,
    health: Callable[[], Health],
    facts: Callable[[], dict[str, Any]] = dict,
) -> Iterator[str]:
    """Serve in a thread until the block ends; yield the base URL.

    Args:
        host: Address to listen on.
        port: Port to listen on; 0 picks a free one.
        registry: Source of `/metrics`.
        health: Source of `/healthz` (alive) and `/readyz` (ready).
        facts: More fields for the answers of `/healthz` and `/readyz`.

    Raises:
        SettingsError: The server cannot listen on this address.
    """

    class Handler(BaseHTTPRequestHandler):
        server_version = "sagelift"
        sys_version = ""
        timeout = 5  # seconds for a client that sends nothing

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(HTTPStatus.OK, content_type, encode(registry))
                return
            if path not in PATHS:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", f"the paths are {', '.join(PATHS)}\n".encode())
                return
            current = health()
            ok = current.alive if path == "/healthz" else current.ready
            answer = {"ok": ok, "state": current.state, "reason": current.reason, **facts()}
            status = HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE
            self._answer(status, "application/json", json.dumps(answer).encode() + b"\n")

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
            """Log nothing: a line per scrape would fill the log."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: Any) -> None:
            """Ignore clients that disconnect."""

    try:
        server = Server((host, port), Handler)
    except (OSError, OverflowError) as error:
        raise SettingsError(
            f"metrics.host, metrics.port: cannot listen on {host}:{port} "
            f"({getattr(error, 'strerror', None) or error}); port 0 picks a free one"
        ) from None
    thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="metrics", daemon=True)
    thread.start()
    try:
        yield f"http://{_reachable(server.server_address[0])}:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _reachable(host: Any) -> str:
    """Return the address under which this machine reaches a server on `host`."""
    return {"0.0.0.0": "127.0.0.1"}.get(host, str(host))
