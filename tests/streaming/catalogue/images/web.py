"""Pictures, and a web server on loopback that serves them."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from streaming.catalogue.images.fetch import ImageFetcher
from streaming.errors import ImageError

RED, WHITE = (220, 30, 30), (255, 255, 255)
Answer = Callable[[BaseHTTPRequestHandler], None]


def picture(size: tuple[int, int] = (300, 200), format: str = "JPEG", mode: str = "RGB", color: object = RED) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, color).save(file, format)  # type: ignore[arg-type]
    return file.getvalue()


PICTURE = picture()


def send(
    status: int = 200, body: bytes = PICTURE, kind: str | None = "image/jpeg", *, sized: bool = True, **headers: str
) -> Answer:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        if kind is not None:
            request.send_header("Content-Type", kind)
        if sized:
            request.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(body)

    return answer


class Server:
    """A web server on loopback; `answers` holds the answer by path, `hosts` the requested hosts."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.hosts: list[str] = []
        self.hang_up = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.hosts.append(self.headers["Host"])
                try:
                    outer.answers[self.path](self)
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class QuietServer(ThreadingHTTPServer):
            def handle_error(self, *_: object) -> None:  # clients that hang up are what these tests are about
                pass

        self.http = QuietServer(("127.0.0.1", 0), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    def close(self) -> None:
        self.hang_up.set()
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


def refused(fetcher: ImageFetcher, link: str, reason: str, *, retryable: bool = False) -> None:
    with pytest.raises(ImageError, match=reason) as caught:
        fetcher.fetch(link)
    assert caught.value.retryable is retryable
