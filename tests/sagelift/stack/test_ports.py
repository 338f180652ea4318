"""Free ports are picked outside the range for outgoing connections, and the user of a port is named."""

import socket

import pytest

from sagelift.stack import ports
from sagelift.stack.errors import PortError


def test_picked_ports_are_different_free_and_outside_the_range_for_outgoing_connections() -> None:
    picked = ports.pick_ports(5)
    assert len(set(picked)) == 5
    assert all(map(ports.is_free, picked))
    assert all(port < ports.first_ephemeral_port() for port in picked)


def test_a_port_in_use_is_not_free_and_its_process_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        with pytest.raises(PortError, match=rf"^Port {port}, which is configured for Kafka, is in use by "):
            ports.require_free(port, "Kafka")
    ports.require_free(port, "Kafka")


def test_ports_that_are_taken_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: port % 1000 == 0)
    with pytest.raises(PortError, match="No free port"):
        ports.pick_ports(2000)
