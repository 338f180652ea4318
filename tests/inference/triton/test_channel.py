"""The channel to Triton, without a server; tests/integration/test_security.py covers a real one."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from inference.errors import ServingError
from inference.triton.channel import Tls, open_channel


@pytest.mark.parametrize("url", ["127.0.0.1:1", "[::1]:1", "unix:/nowhere.sock"])
def test_a_server_that_is_down_is_no_error(url: str) -> None:
    open_channel(url).close()


def test_a_server_that_stays_silent_does_not_delay_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        open_channel(url, timeout_s=0.05).close()
        open_channel(url, Tls(), timeout_s=0.05).close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x46", b""])
def test_a_port_that_does_not_speak_grpc_is_refused(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(ServingError, match="does not answer as gRPC does"):
            open_channel(f"127.0.0.1:{listening.getsockname()[1]}")
        thread.join()


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"ca\.pem\) cannot be used: no such file"):
        open_channel("triton:8001", Tls(ca_file=tmp_path / "ca.pem"))
    (tmp_path / "ca.pem").write_text("no certificate\n")
    with pytest.raises(ServingError, match=r"ca\.pem\) cannot be used: no certificate"):
        open_channel("triton:8001", Tls(ca_file=tmp_path / "ca.pem"))
