"""The gRPC channel to a Triton server: its options, and TLS.

gRPC says of every failure to connect only that the server is unavailable, and tries again; whether a certificate is
not trusted or the port speaks something else is found here, by one connection before the channel's own.
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
    ("grpc.max_reconnect_backoff_ms", 1000),  # gRPC's own ceiling is 120 s: a restarted server would wait as long
    ("grpc.keepalive_time_ms", 30_000),  # a peer that vanished without a word is noticed
    ("grpc.keepalive_timeout_ms", 5_000),
]

_TIMEOUT_S = 5.0  # of each step of the first connection
# A client's first words in HTTP/2, with an empty SETTINGS frame; the server answers with its own (RFC 9113, 3.4).
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


@dataclass(frozen=True)
class Tls:
    """How to speak TLS with one server.

    ca_file: PEM certificates of the authorities that may sign the server's; by default gRPC's own list.
    cert_file, key_file: PEM, for a server that asks for our certificate (mutual TLS); the key without a password.
    server_name: the name that the server's certificate bears, where it is not the host that is called.
    """

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    server_name: str = ""


def open_channel(url: str, tls: Tls | None = None) -> grpc.Channel:
    """A channel to `host:port`. A server that cannot be reached now is no error: requests are retried.

    Raises:
        ServingError: a file of `tls` is missing, holds something else or does not fit the other; the server is not
            trusted, bears another name, does not take our certificate, or speaks TLS when we do not or the reverse.
    """
    if tls is None:
        _check(url, None, "")
        return grpc.insecure_channel(url, CHANNEL_OPTIONS)
    _check(url, _context(tls), tls.server_name)
    credentials = grpc.ssl_channel_credentials(
        *(None if file is None else file.read_bytes() for file in (tls.ca_file, tls.key_file, tls.cert_file))
    )
    name = [("grpc.ssl_target_name_override", tls.server_name)] if tls.server_name else []
    return grpc.secure_channel(url, credentials, [*CHANNEL_OPTIONS, *name])


def _context(tls: Tls) -> ssl.SSLContext:
    """The same trust as gRPC's, with errors that say what is wrong: gRPC's own go to its log."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_alpn_protocols(["h2"])
    try:
        if tls.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(tls.ca_file)
        if tls.cert_file is not None:
            # The password is what gRPC would open it with: none. OpenSSL would ask for one at the terminal.
            context.load_cert_chain(tls.cert_file, tls.key_file, lambda: "")
    except OSError as error:  # of which ssl.SSLError is one
        files = ", ".join(str(file) for file in (tls.ca_file, tls.cert_file, tls.key_file) if file)
        raise ServingError(
            f"the files for TLS with Triton ({files}) cannot be used: {_said(error)}; check SAGELIFT_TRITON__TLS_..."
        ) from None
    return context


def _check(url: str, context: ssl.SSLContext | None, server_name: str) -> None:
    host, _, port = url.rpartition(":")
    if not host or not port.isdigit():  # one of gRPC's other forms
        return
    host = host.strip("[]")
    try:
        with socket.create_connection((host, int(port)), _TIMEOUT_S) as plain:
            if context is None:
                _greet(plain, url)
                return
            with context.wrap_socket(plain, server_hostname=server_name or host) as tls:
                # TLS 1.3 tells a client only after the handshake what the server thinks of its certificate.
                _greet(tls, url)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _OTHER_NAME:
            remedy = "name the one that it bears in SAGELIFT_TRITON__TLS_SERVER_NAME"
        else:
            remedy = "name the file of the authority that signed it in SAGELIFT_TRITON__TLS_CA_FILE"
        raise ServingError(
            f"the certificate of Triton at {url} is not trusted: {error.verify_message.rstrip('.')}; {remedy}"
        ) from None
    except ssl.SSLError as error:
        if "certificate" in _said(error):
            raise ServingError(
                f"Triton at {url} does not take our certificate ({_said(error)}): set SAGELIFT_TRITON__TLS_CERT_FILE "
                "and SAGELIFT_TRITON__TLS_KEY_FILE to a pair that it trusts"
            ) from None
        raise ServingError(
            f"{url} does not speak TLS ({_said(error)}): check SAGELIFT_TRITON__TLS and the port"
        ) from None
    except OSError:  # away for now
        return


def _greet(connection: socket.socket, url: str) -> None:
    try:
        connection.sendall(_HELLO)
        answer = connection.recv(1)
    except (ConnectionResetError, BrokenPipeError, ssl.SSLEOFError):
        answer = b""
    if answer == b"\x00":  # of the length of the server's SETTINGS frame
        return
    if isinstance(connection, ssl.SSLSocket):
        raise ServingError(
            f"Triton at {url} ends the connection after the TLS handshake: it may want a certificate that it trusts "
            "(SAGELIFT_TRITON__TLS_CERT_FILE and SAGELIFT_TRITON__TLS_KEY_FILE), or be no Triton's gRPC port"
        )
    raise ServingError(
        f"{url} does not answer as gRPC does: it may speak TLS (SAGELIFT_TRITON__TLS), or be no Triton's gRPC port"
    )


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and not error.reason:
        return "not PEM, or a key with a password"
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).lower().replace("_", " ")
