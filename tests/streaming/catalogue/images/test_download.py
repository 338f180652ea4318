"""Downloads of images: limits of time and size, and no way into private networks."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import ssl
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from streaming.catalogue.images.fetch import ImageFetcher
from streaming.errors import ImageError
from tests.streaming.catalogue.images.web import PICTURE, Answer, Server, refused, send

# --- http ---


def test_an_image_is_fetched_over_http(fetcher: ImageFetcher, server: Server) -> None:
    server.answers["/a%20b.jpg?v=1"] = send()
    assert fetcher.fetch(f"{server.url}/a b.jpg?v=1").content_hash == hashlib.sha256(PICTURE).hexdigest()


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (send(404), "answered 404", False),
        (send(410), "answered 410", False),
        (send(429), "answered 429", True),
        (send(500), "answered 500", True),
        (send(503), "answered 503", True),
        (send(kind="text/html"), "calls it 'text/html'", False),
        (send(kind=None), "calls it 'nothing'", False),
        (send(body=b"<html>"), "is not a JPEG", False),
        (send(body=b"x" * 100_001), "is larger than 100000 bytes", False),
        (send(body=b"x" * 100_001, sized=False, Connection="close"), "is larger than 100000 bytes", False),
        (send(Content_Encoding="gzip"), "compressed it", False),
        (send(302, Location="ftp://shop.example/a.jpg"), "neither http nor https", False),
        (send(302, Location="file:///etc/passwd"), "neither http nor https", False),
        (send(302, Location="/a.jpg"), "redirects more than 3 times", False),
    ],
)
def test_a_bad_answer_is_refused_with_its_reason(
    fetcher: ImageFetcher, server: Server, answer: Answer, reason: str, retryable: bool
) -> None:
    server.answers["/a.jpg"] = answer
    refused(fetcher, f"{server.url}/a.jpg", reason, retryable=retryable)


def test_a_body_shorter_than_announced_is_retryable(fetcher: ImageFetcher, server: Server) -> None:
    def cut_off(request: BaseHTTPRequestHandler) -> None:
        send(body=b"", sized=False, Content_Length="5000")(request)
        request.wfile.write(PICTURE[:50])
        request.close_connection = True

    server.answers["/a.jpg"] = cut_off
    refused(fetcher, f"{server.url}/a.jpg", "the connection failed", retryable=True)


def test_three_redirects_are_followed(fetcher: ImageFetcher, server: Server) -> None:
    server.answers.update({f"/{n}": send(302, b"", Location=f"/{n - 1}") for n in (1, 2, 3, 4)})
    server.answers["/0"] = send()
    assert fetcher.fetch(f"{server.url}/3")
    refused(fetcher, f"{server.url}/4", "redirects more than 3 times")


def test_a_refused_connection_is_retryable(fetcher: ImageFetcher) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    refused(fetcher, f"http://127.0.0.1:{port}/a.jpg", "the connection failed", retryable=True)


@pytest.mark.parametrize("part", ["head", "body"])
def test_a_server_that_drips_bytes_is_abandoned_at_the_deadline(server: Server, part: str) -> None:
    """Each single read is quick: only a deadline for the whole download ends it."""

    def drip(request: BaseHTTPRequestHandler) -> None:
        if part == "body":
            send(body=b"", sized=False, Content_Length="5000")(request)
        else:
            request.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not server.hang_up.wait(0.05):
            request.wfile.write(b"x")
            request.wfile.flush()

    server.answers["/a.jpg"] = drip
    with ImageFetcher(allow_private=True, timeout=0.5) as fetcher:
        refused(fetcher, f"{server.url}/a.jpg", "did not arrive within 0.5 s", retryable=True)
    assert not server.hang_up.is_set(), "the fetch ended while the server was still sending"


# --- Private addresses ---


def test_a_private_address_is_refused_unless_allowed(server: Server) -> None:
    server.answers["/a.jpg"] = send()
    with ImageFetcher() as careful, ImageFetcher(allow_private=True) as trusting:
        refused(careful, f"{server.url}/a.jpg", "is not on the public internet")
        assert server.hosts == [], "not even a connection was made"
        assert trusting.fetch(f"{server.url}/a.jpg")


@pytest.mark.parametrize(
    "host", ["localhost", "127.1", "2130706433", "0x7f000001", "0.0.0.0", "[::1]", "[::ffff:7f00:1]"]
)
def test_loopback_is_recognised_however_it_is_written(server: Server, host: str) -> None:
    server.answers["/a.jpg"] = send()
    with ImageFetcher() as fetcher, pytest.raises(ImageError, match=r"not on the public internet|has no address"):
        fetcher.fetch(f"http://{host}:{server.port}/a.jpg")
    assert server.hosts == []


def loopback_is_public(address: str) -> bool:
    """127.0.0.1 stands for a public address; 127.0.0.2 stays private."""
    return address == "127.0.0.1"


def test_a_redirect_from_a_public_to_a_private_address_is_refused(server: Server) -> None:
    names = {"shop.example": ["127.0.0.1"], "inside.example": ["127.0.0.2"]}
    server.answers["/ok.jpg"] = send()
    server.answers["/a.jpg"] = send(302, b"", Location=f"http://inside.example:{server.port}/ok.jpg")
    server.answers["/b.jpg"] = send(302, b"", Location=f"http://127.0.0.2:{server.port}/ok.jpg")
    resolve = lambda host, port: names.get(host, [host])  # noqa: E731
    with ImageFetcher(resolve=resolve, is_public=loopback_is_public) as fetcher:
        assert fetcher.fetch(f"http://shop.example:{server.port}/ok.jpg")
        for path in ("a.jpg", "b.jpg"):
            refused(fetcher, f"http://shop.example:{server.port}/{path}", "is not on the public internet")
    assert set(server.hosts) == {f"shop.example:{server.port}"}


def test_the_address_that_was_checked_is_the_one_connected_to(server: Server) -> None:
    """DNS rebinding: a name that is public when it is checked and private at the next look-up."""
    asked: list[str] = []

    def rebind(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    server.answers["/a.jpg"] = send()
    with ImageFetcher(resolve=rebind, is_public=loopback_is_public) as fetcher:
        assert fetcher.fetch(f"http://shop.example:{server.port}/a.jpg")
        assert asked == ["shop.example"]
        assert fetcher.fetch(f"http://shop.example:{server.port}/a.jpg"), "over the same, checked connection"


def test_of_several_addresses_only_the_public_ones_are_tried(server: Server) -> None:
    server.answers["/a.jpg"] = send()
    with ImageFetcher(resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"], is_public=loopback_is_public) as fetcher:
        assert fetcher.fetch(f"http://shop.example:{server.port}/a.jpg")
    with ImageFetcher(resolve=lambda host, port: ["127.0.0.2", "10.0.0.1"], is_public=loopback_is_public) as fetcher:
        refused(fetcher, f"http://shop.example:{server.port}/a.jpg", "127.0.0.2, 10.0.0.1")


def test_an_address_that_does_not_answer_leaves_time_for_the_next(server: Server) -> None:
    """127.0.0.3 refuses; a socket with a full backlog on 127.0.0.2 never answers."""
    server.answers["/a.jpg"] = send()
    with socket.socket() as deaf, contextlib.ExitStack() as stack:
        deaf.bind(("127.0.0.2", server.port))
        deaf.listen(0)
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", server.port))
        addresses = ["127.0.0.3", "127.0.0.2", "127.0.0.1"]
        with ImageFetcher(allow_private=True, timeout=1, resolve=lambda host, port: addresses) as fetcher:
            assert fetcher.fetch(f"http://shop.example:{server.port}/a.jpg")


def test_a_name_server_that_is_down_is_retryable_and_an_unknown_name_is_not() -> None:
    def fail(code: int) -> Callable[[str, int], list[str]]:
        def resolve(host: str, port: int) -> list[str]:
            raise socket.gaierror(code, "no answer")

        return resolve

    with ImageFetcher(resolve=fail(socket.EAI_AGAIN)) as fetcher:
        refused(fetcher, "http://shop.example/a.jpg", "has no address", retryable=True)
    with ImageFetcher(resolve=fail(socket.EAI_NONAME)) as fetcher:
        refused(fetcher, "http://shop.example/a.jpg", "has no address")


# --- https ---

# Self-signed for shop.example, until 2126; of no use outside these tests.
SHOP_EXAMPLE = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgOUf6/1LW4zPaYhcX
+tgHJtArXhT0XpVG2M384uQ3UTWhRANCAAS6TKhJ3VOjVt5rQUUHE/hXlwcXLOkE
jWJvpipRp4bekY7b9uq4HHhG5LTbQoGgkIp+Xn0R4dp89GnrYU34To/6
-----END PRIVATE KEY-----
-----BEGIN CERTIFICATE-----
MIIBnjCCAUSgAwIBAgIUbe+7uDvWiFwS9ksEW+COxDO8Bz0wCgYIKoZIzj0EAwIw
FzEVMBMGA1UEAwwMc2hvcC5leGFtcGxlMCAXDTI2MTEyMjExNTE1MFoYDzIxMjYx
MDI5MTE1MTUwWjAXMRUwEwYDVQQDDAxzaG9wLmV4YW1wbGUwWTATBgcqhkjOPQIB
BggqhkjOPQMBBwNCAAS6TKhJ3VOjVt5rQUUHE/hXlwcXLOkEjWJvpipRp4bekY7b
9uq4HHhG5LTbQoGgkIp+Xn0R4dp89GnrYU34To/6o2wwajAdBgNVHQ4EFgQUtCNc
tX+X8Q5RTuE/d3yOEpndwLgwHwYDVR0jBBgwFoAUtCNctX+X8Q5RTuE/d3yOEpnd
wLgwFwYDVR0RBBAwDoIMc2hvcC5leGFtcGxlMA8GA1UdEwEB/wQFMAMBAf8wCgYI
KoZIzj0EAwIDSAAwRQIgA0URvPgesy2L8lUZKdJ9TGcShJWSpyexDPiwLyiYtzMC
IQDa5JpQmx6F3nnfJmPT8e+l08h3RbdMvPu0ofgVXvgIIA==
-----END CERTIFICATE-----
"""


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    path = tmp_path / "shop.example.pem"
    path.write_text(SHOP_EXAMPLE)
    return path


@pytest.fixture
def tls_server(certificate: Path) -> Iterator[Server]:
    server = Server()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.http.socket = context.wrap_socket(server.http.socket, server_side=True)
    server.answers["/a.jpg"] = send()
    yield server
    server.close()


def to_loopback(host: str, port: int) -> list[str]:
    return ["127.0.0.1"]


def test_https_checks_the_certificate_against_the_name_not_the_address(
    tls_server: Server, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with ImageFetcher(allow_private=True, resolve=to_loopback) as fetcher:
        assert fetcher.fetch(f"https://shop.example:{tls_server.port}/a.jpg")
        refused(fetcher, f"https://other.example:{tls_server.port}/a.jpg", "CERTIFICATE_VERIFY_FAILED")


def test_an_untrusted_certificate_is_a_permanent_error(tls_server: Server) -> None:
    with ImageFetcher(allow_private=True, resolve=to_loopback) as fetcher:
        refused(fetcher, f"https://shop.example:{tls_server.port}/a.jpg", "CERTIFICATE_VERIFY_FAILED")
