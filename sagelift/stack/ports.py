"""Loopback ports: pick free ports, and name the process that uses a port."""

import random
import socket
from collections.abc import Collection
from pathlib import Path

from sagelift.stack.errors import PortError

LOOPBACK = "127.0.0.1"
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def pick_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Pick free ports below the range that the system uses for outgoing connections.

    Inside that range a client that keeps connecting to a restarting server can get the server's port as its own,
    connect to itself, and block the server.

    Args:
        count: Number of ports.
        taken: Ports to leave out.

    Raises:
        PortError: There are not enough free ports.
    """
    low, high = 20000, first_ephemeral_port() - 1
    if high - low < 2000:
        low, high = 10000, 19999
    ports: list[int] = []
    for port in random.sample(range(low, high), min(1000, high - low)):
        if len(ports) == count:
            break
        if port not in taken and is_free(port):
            ports.append(port)
    if len(ports) < count:
        raise PortError(
            f"No free port between {low} and {high} on {LOOPBACK}: end some of the programs that listen there."
        )
    return ports


def is_free(port: int) -> bool:
    """Return whether a server can listen on the loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Like the servers: connections in TIME_WAIT do not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(port: int, what: str) -> None:
    """Check that the configured port of `what` is free.

    Raises:
        PortError: The port is in use. The message names the process if the system tells it.
    """
    if not is_free(port):
        raise PortError(
            f"Port {port}, which is configured for {what}, is in use{_by_process(port)}: end that program or choose "
            "another port."
        )


def first_ephemeral_port() -> int:
    """Return the first port that the system uses for outgoing connections."""
    try:
        return int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768


def _by_process(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):  # processes of other users, and on macOS all processes, need root
        pass
    return ""
