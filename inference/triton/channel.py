"""The gRPC channel to a Triton server: its options and TLS.

gRPC reports every failure to connect as "unavailable" and tries again. So this module first opens a connection of its
own. This distinguishes an untrusted certificate, or a port with another protocol, from a server that is down.
"""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from inference.errors import ServingError

CHANNEL_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's default of 120 s would delay the return of a restarted server
    ("grpc.keepalive_time_ms", 30_000),  # notices a peer that vanished without closing the connection
    ("grpc.keepalive_timeout_ms", 5_000),
]

TIMEOUT_S = 5.0  # for each step of the first connection
# The HTTP/2 client preface with an empty SETTINGS frame; the server answers with its SETTINGS (RFC 9113, section 3.4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_WRONG_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True)
class Tls:
    """How to speak TLS with one server.

    Attributes:
        ca_file: PEM certificates of the authorities that may sign the server's certificate. None uses gRPC's list.
        cert_file: PEM, our certificate for a server that asks for one (mutual TLS).
        key_file: PEM, the key of `cert_file`, without a password.
        server_name: The name in the server's certificate, if it is not the host name in the URL.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""


def open_channel(url: str, tls: Tls | None = None, *, timeout_s: float = TIMEOUT_S) -> grpc.Channel:
    """Open a channel to `host:port`. A server that cannot be reached now is no error: requests are retried.

    Args:
        url: `host:port` of Triton's gRPC interface.
        tls: How to encrypt the connection; None leaves it unencrypted.
        timeout_s: Seconds for each step of the check of the server.

    Raises:
        ServingError: If a file of `tls` is missing, has the wrong content or does not match another; if the server's
            certificate is not trusted or has another name; if the server rejects our certificate; if exactly one side
            speaks TLS.
    """
    if tls is None:
        _check(url, None, "", timeout_s)
        return grpc.insecure_channel(url, CHANNEL_OPTIONS)
    _check(url, _context(tls), tls.server_name, timeout_s)
    credentials = grpc.ssl_channel_credentials(
        *(None if file is None else file.read_bytes() for file in (tls.ca_file, tls.key_file, tls.cert_file))
    )
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(url, credentials, [*CHANNEL_OPTIONS, *name])


def _context(tls: Tls) -> ssl.SSLContext:
    """Return a context that trusts the same authorities as gRPC. Its errors explain the failure; gRPC only logs it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        if tls.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file is not None:
            # No password, as with gRPC. Without the callback OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, lambda: "")
    except OSError as error:  # includes ssl.SSLError
        files = ", ".join(str(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise ServingError(
            f"the files for TLS with Triton ({files}) cannot be used: {_reason(error)}; check SAGELIFT_TRITON__TLS_..."
        ) from None
    return context


def _check(url: str, context: ssl.SSLContext | None, server_name: str, timeout_s: float) -> None:
    """Connect once and raise an error if the server cannot be the Triton that the channel needs."""
    host, _, port = url.rpartition(":")
    if not host or not port.isdigit():  # another form of gRPC address: leave it to gRPC
        return
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), timeout_s) as plain:
            if context is None:
                _greet(plain, url)
                return
            with context.wrap_socket(plain, server_hostname=server_name or host) as tls:
                # With TLS 1.3 a client learns only after the handshake whether the server accepts its certificate.
                _greet(tls, url)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _WRONG_NAME:
            remedy = "set SAGELIFT_TRITON__TLS_SERVER_NAME to the name in the certificate"
        else:
            remedy = "set SAGELIFT_TRITON__TLS_CA_FILE to the file of the authority that signed it"
        raise ServingError(
            f"the certificate of Triton at {url} is not trusted: {error.verify_message.rstrip('.')}; {remedy}"
        ) from None
    except ssl.SSLError as error:
        if "certificate" in _reason(error):
            raise ServingError(
                f"Triton at {url} rejects our certificate ({_reason(error)}): set SAGELIFT_TRITON__TLS_CERT_FILE "
                "and SAGELIFT_TRITON__TLS_KEY_FILE to a pair that it trusts"
            ) from None
        raise ServingError(
            f"{url} does not speak TLS ({_reason(error)}): check SAGELIFT_TRITON__TLS and the port"
        ) from None
    except OSError:  # cannot be reached now
        return


def _greet(connection: socket.socket, url: str) -> None:
    """Send the HTTP/2 preface and raise an error unless the server answers as gRPC does."""
    try:
        connection.sendall(_HELLO)
        answer = connection.recv(1)
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        answer = b""
    if answer == b"\x00":  # the first byte of the length of the server's SETTINGS frame
        return
    if isinstance(connection, ssl.SSLSocket):
        raise ServingError(
            f"Triton at {url} ends the connection after the TLS handshake: it may need a certificate that it trusts "
            "(SAGELIFT_TRITON__TLS_CERT_FILE and SAGELIFT_TRITON__TLS_KEY_FILE), or this is not Triton's gRPC port"
        )
    raise ServingError(
        f"{url} does not answer as gRPC does: it may speak TLS (SAGELIFT_TRITON__TLS), or this is not Triton's gRPC "
        "port"
    )


def _reason(error: OSError) -> str:
    """Return the reason of an error in lower case, for a message."""
    if isinstance(error, ssl.SSLError) and not error.reason:
        return "not PEM, or a key with a password"
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).lower().replace("_", " ")
