"""The broker's settings, and the probe that tells a ready broker from an open port."""

import socket
import struct
import threading
from pathlib import Path

import pytest

from sagelift.stack import kafka


def test_a_cluster_id_never_begins_like_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = iter([b"\xf8" + b"\0" * 15, b"\0" * 16])  # 0xf8 begins with "-" in URL-safe base64
    monkeypatch.setattr(kafka.uuid, "uuid4", lambda: type("Uuid", (), {"bytes": next(draws)}))
    assert kafka.new_cluster_id() == "A" * 22


def test_settings_survive_javas_escapes(tmp_path: Path) -> None:
    kafka.write_properties(tmp_path / "p", {"log.dirs": "a\\b", "node.id": 1})
    assert (tmp_path / "p").read_text() == "log.dirs=a\\\\b\nnode.id=1\n"


def test_every_listener_is_on_loopback() -> None:
    settings = kafka.broker_settings(1, 2, Path("/data"))
    for name in ("listeners", "advertised.listeners"):
        assert all("//127.0.0.1:" in listener for listener in str(settings[name]).split(","))


@pytest.mark.parametrize(
    ("answer", "ready"),
    [
        pytest.param(struct.pack(">iiii", 12, 1, 0, 1), True, id="one live broker"),
        pytest.param(struct.pack(">iiii", 12, 1, 0, 0), False, id="still fenced"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", False, id="something else"),
        pytest.param(b"", False, id="closed at once"),
    ],
)
def test_only_a_broker_that_names_a_live_broker_is_ready(answer: bytes, ready: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1024)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        assert kafka.probe(f"127.0.0.1:{server.getsockname()[1]}") is ready
        thread.join()


@pytest.mark.parametrize("bootstrap", ["", "localhost", "127.0.0.1:none", ":9092"])
def test_an_address_without_host_or_port_does_not_answer(bootstrap: str) -> None:
    assert kafka.probe(bootstrap) is False
