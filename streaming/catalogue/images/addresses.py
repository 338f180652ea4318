"""Which addresses a download may connect to: no link of a feed reaches the network behind the firewall.

Each address is checked before the connection, also after a redirect, and the connection uses exactly that address. No
second DNS look-up happens, which could return another address.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import httpcore

from streaming.errors import ImageError

Resolver = Callable[[str, int], Sequence[str]]
"""Host and port -> IP addresses."""

_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet; an IPv4 address inside an IPv6 address counts."""
    ip: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        wrapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if wrapped is not None:
            return is_public(str(wrapped))
        if ip.is_site_local:
            return False
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and not ip.is_unspecified


def resolve_host(host: str, port: int) -> list[str]:
    """Resolve a host with the system's resolver."""
    infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in infos))


class CheckedBackend(httpcore.NetworkBackend):
    """Opens connections only to permitted addresses, and enforces each thread's deadline.

    Args:
        resolve: Resolves host names.
        permitted: Whether a connection to an IP address is permitted.
    """

    def __init__(self, resolve: Resolver, permitted: Callable[[str], bool]) -> None:
        self._resolve = resolve
        self._permitted = permitted
        self._sockets = httpcore.SyncBackend()
        self._thread = threading.local()

    def start(self, timeout: float) -> None:
        """Give this thread `timeout` seconds from now on."""
        self._thread.deadline = time.monotonic() + timeout

    def left(self, kind: type[httpcore.TimeoutException]) -> float:
        """Return the seconds until this thread's deadline; raise `kind` after it."""
        seconds = float(self._thread.deadline) - time.monotonic()
        if seconds <= 0:
            raise kind
        return seconds

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Any = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first permitted address of the host that answers.

        Raises:
            ImageError: The host has no address, or no permitted address.
        """
        try:
            addresses = self._resolve(host, port)
        except (OSError, UnicodeError) as error:
            retryable = getattr(error, "errno", None) == socket.EAI_AGAIN
            raise ImageError(f"the host {host!r} has no address: {error}", retryable=retryable) from None
        permitted = [address for address in addresses if self._permitted(address)]
        if not permitted:
            raise ImageError(
                f"the host {host!r} is not on the public internet ({', '.join(addresses)}); "
                "private addresses have to be allowed in the settings"
            )
        failure: httpcore.ConnectError | httpcore.ConnectTimeout | None = None
        for tried, address in enumerate(permitted):
            try:
                # An equal share of the time for each: an address that drops packets must not use up the others' time.
                share = self.left(httpcore.ConnectTimeout) / (len(permitted) - tried)
                stream = self._sockets.connect_tcp(address, port, share, local_address, socket_options)
                return _DeadlineStream(stream, self)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None
        raise failure


class _DeadlineStream(httpcore.NetworkStream):
    """A connection on which each wait ends at its thread's deadline, even if the server sends single bytes."""

    def __init__(self, stream: httpcore.NetworkStream, backend: CheckedBackend) -> None:
        self._stream = stream
        self._backend = backend

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._backend.left(httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._backend.left(httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        left = self._backend.left(httpcore.ConnectTimeout)
        return _DeadlineStream(self._stream.start_tls(ssl_context, server_hostname, left), self._backend)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
