"""The first connection to a broker, with servers that answer as no broker should.

tests/integration/test_security.py covers the answers of real brokers.
"""

from __future__ import annotations

import base64
import socket
import ssl
import struct
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from streaming.errors import BrokerError
from streaming.kafka import handshake
from streaming.kafka.connection import Connection
from streaming.kafka.handshake import check, tls_context

SCRAM = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "SCRAM-SHA-256",
    "sasl_plain_username": "shop",
    "sasl_plain_password": "hunter2",
}
API_VERSIONS = struct.pack(">hi", 0, 0)


def framed(body: bytes) -> bytes:
    return struct.pack(">ii", len(body) + 4, 1) + body


def token(data: bytes) -> bytes:
    """A SaslAuthenticate answer without an error."""
    return framed(struct.pack(">hhi", 0, -1, len(data)) + data)


@contextmanager
def server(answers: Iterable[bytes], asked: list[bytes] | None = None) -> Iterator[str]:
    """Answers the requests of each connection in turn, then ends it; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):  # the end of the test
                while True:
                    connection, _ = listening.accept()
                    with connection, suppress(ConnectionError):  # of a client that does not understand, and hangs up
                        converse(connection)

        def converse(connection: socket.socket) -> None:
            pending = iter(answers)
            while request := connection.recv(4096):
                if asked is not None:
                    asked.append(request)
                if (answer := next(pending, None)) is None:
                    return
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join(5)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handshake, "PAUSE_S", 0.0)


def test_a_broker_that_answers_is_fine() -> None:
    with server([framed(API_VERSIONS), framed(bytes(12))]) as address:
        assert check(address, {}, None) == ""


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", id="a web server"),
        pytest.param(b"\x15\x03\x03\x00\x02\x02\x46", id="a TLS alert"),
        pytest.param(struct.pack(">i", 2_000_000_000), id="two gigabytes to come"),
        pytest.param(struct.pack(">i", -1), id="a negative length"),
    ],
)
def test_a_server_that_is_no_broker_is_an_error_at_once(answer: bytes) -> None:
    with server([answer]) as address, pytest.raises(BrokerError, match=r"ends the connection at once: .* is PLAINTEXT"):
        check(address, {}, None)


def test_a_silent_server_does_not_delay_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be a broker that is starting, so the error comes only when kafka-python gives up too."""
    monkeypatch.setattr(handshake, "TIMEOUT_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        assert check(address, {}, None) == f"{address}: timed out"
        with pytest.raises(BrokerError, match=f"no Kafka broker answers at {address} .*timed out"):
            Connection(address).check()


def test_a_broker_that_is_shutting_down_is_unreachable_and_does_not_refuse_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """It hangs up, as a broker that requires TLS does; shortly after, the port is closed."""
    with socket.create_server(("127.0.0.1", 0)) as dying:

        def serve() -> None:
            dying.accept()[0].close()

        def gone(_: float) -> None:
            thread.join()
            dying.close()

        thread = threading.Thread(target=serve)
        thread.start()
        monkeypatch.setattr(handshake.time, "sleep", gone)
        assert "refused" in check(f"127.0.0.1:{dying.getsockname()[1]}", {}, None)


def test_unreachable_brokers_are_not_a_refusal() -> None:
    assert "refused" in check("127.0.0.1:1,[::1]:1", {}, None)


def test_a_refusal_by_one_of_several_brokers_is_an_error_only_when_none_accepts_us() -> None:
    with server([b"HTTP/1.1 400"]) as web, server([framed(API_VERSIONS), framed(bytes(12))]) as broker:
        assert check(f"{web},{broker}", {}, None) == ""


def test_a_broker_that_does_not_know_the_password_either_is_not_trusted() -> None:
    """SCRAM authenticates both sides: a server at the broker's address neither learns the password nor passes."""

    asked: list[bytes] = []

    def answers() -> Iterator[bytes]:  # the first of SCRAM must continue the client's nonce
        yield framed(API_VERSIONS)
        yield framed(struct.pack(">hi", 0, 0))
        nonce = asked[-1].rpartition(b"r=")[2]
        yield token(b"r=" + nonce + b"x,s=" + base64.b64encode(b"salt") + b",i=4096")
        yield token(b"v=" + base64.b64encode(bytes(32)))

    expected = "cannot prove that it knows the password of user 'shop'"
    with server(answers(), asked) as address, pytest.raises(BrokerError, match=expected) as raised:
        check(address, SCRAM, None)
    assert "hunter2" not in str(raised.value)
    assert not any(b"hunter2" in request for request in asked)


def test_a_broker_that_hangs_up_during_authentication_is_an_error() -> None:
    expected = "ended the connection during the authentication of user 'shop'"
    with server([framed(API_VERSIONS)]) as address, pytest.raises(BrokerError, match=expected):
        check(address, SCRAM, None)


def test_tls_is_at_least_1_2_and_checks_names_by_default() -> None:
    context = tls_context({"security_protocol": "SSL"})
    assert context is not None
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.check_hostname
    assert context.verify_mode == ssl.CERT_REQUIRED
    lax = tls_context({"security_protocol": "SSL", "ssl_check_hostname": False})
    assert lax is not None
    assert lax.verify_mode == ssl.CERT_REQUIRED, "only the name goes unchecked"
    assert tls_context({}) is None


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"security_protocol": "SSL", "ssl_cafile": str(tmp_path / "ca.pem")}
    with pytest.raises(BrokerError, match=r"ca\.pem\) cannot be used: no such file"):
        tls_context(settings)
    (tmp_path / "ca.pem").write_text("no certificate\n")
    with pytest.raises(BrokerError, match=r"ca\.pem\) cannot be used: no certificate"):
        tls_context(settings)
