"""Ports on loopback: free ones to pick, and who holds one that is taken."""

import random
import socket
from collections.abc import Collection
from pathlib import Path

from sagelift.stack.errors import PortError

LOOPBACK = "127.0.0.1"
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def pick_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """`count` different free ports, none of them in `taken`.

    Below the range from which the system takes ports for outgoing connections: there, while a server restarts, a
    client that keeps connecting to its port can be given that very port, connect to itself, and lock the server out.
    """
    low, high = 20000, _first_ephemeral_port() - 1
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
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As the servers do it: connections that linger in TIME_WAIT do not count, a listener does.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def require_free(port: int, what: str) -> None:
    """Raises PortError, naming the process that listens where it can be told."""
    if not is_free(port):
        raise PortError(
            f"Port {port}, which {what} was told to use, is taken{_by_whom(port)}: end that program or "
            "choose another port."
        )


def _by_whom(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (process {connection.pid})"
    except (psutil.Error, OSError):  # other users' processes, and on macOS all of them, need root
        pass
    return ""


def _first_ephemeral_port() -> int:
    try:
        return int(_RANGE_FILE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32768
