"""A test connection to a broker before kafka-python connects, to find out why a connection fails.

kafka-python 3.0.12 retries every failure of a first connection until the time is up and then reports "Unable to
bootstrap". An untrusted certificate, a wrong password (it drops the broker's answer, because the connection ends with
it) and a listener with another protocol all look like an unreachable broker. This module performs the same
steps once, and reports each failure.

Wire format: https://kafka.apache.org/protocol
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Mapping
from typing import Any

from kafka.net.sasl import get_sasl_mechanism

from streaming.errors import BrokerError

TIMEOUT_S = 5.0
"""Seconds for each step: a server that accepts a connection and stays silent must not delay the start."""
PAUSE_S = 0.5
"""Seconds before the second attempt when a broker ended the connection without an answer."""
_ANSWER_LIMIT = 1 << 20  # bytes; a longer answer belongs to another protocol
_SASL_HANDSHAKE, _API_VERSIONS, _METADATA, _SASL_AUTHENTICATE = 17, 18, 3, 36
_UNSUPPORTED_SASL_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_ENDED = (EOFError, ConnectionResetError, BrokenPipeError)
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def tls_context(settings: Mapping[str, Any]) -> ssl.SSLContext | None:
    """Return a TLS context for the settings (`ssl_...` of kafka-python); None without TLS.

    Raises:
        BrokerError: A file is missing, has the wrong content, or does not match the others.
    """
    if not settings.get("security_protocol", "").endswith("SSL"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.get("ssl_check_hostname", True)
    ca, cert, key = (settings.get(f"ssl_{name}") for name in ("cafile", "certfile", "keyfile"))
    # Never None: without a password OpenSSL would ask for one at the terminal.
    password = settings.get("ssl_password") or ""
    try:
        if ca:
            context.load_verify_locations(ca)
        else:
            context.load_default_certs()
        if cert:
            context.load_cert_chain(cert, key, lambda: password)
    except OSError as error:  # includes ssl.SSLError
        files = ", ".join(str(file) for file in (ca, cert, key) if file)
        raise BrokerError(
            f"the files for TLS with Kafka ({files}) cannot be used: {_reason(error)}; check SAGELIFT_KAFKA__SSL_..."
        ) from None
    return context


class _ConnectionEnded(BrokerError):
    """The broker ended the connection without an answer."""


def check(bootstrap_servers: str, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> str:
    """Connect to the first broker of a list that can be reached.

    Args:
        bootstrap_servers: `host:port` of one or several brokers, separated by commas.
        settings: Settings of kafka-python (security).
        context: From `tls_context`.

    Returns:
        "" on success, otherwise why no broker could be reached, which may be temporary.

    Raises:
        BrokerError: Brokers were reached, but all refused us; the error gives the reason and the remedy.
    """
    try:
        return _connect_to_first(bootstrap_servers, settings, context)
    except _ConnectionEnded:  # the broker may be shutting down; then it is unreachable a moment later
        time.sleep(PAUSE_S)
        return _connect_to_first(bootstrap_servers, settings, context)


def _connect_to_first(bootstrap_servers: str, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> str:
    refusal: BrokerError | None = None
    unreachable = ""
    for address in bootstrap_servers.split(","):
        host, port = _host_and_port(address.strip())
        try:
            _connect(host, port, settings, context)
            return ""
        except BrokerError as error:
            refusal = refusal or error
        except OSError as error:
            unreachable = unreachable or f"{address.strip()}: {error.strerror or error or 'no answer'}"
    if refusal is not None:
        raise refusal
    return unreachable


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (address.strip("[]"), 9092)


def _connect(host: str, port: int, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> None:
    where = f"{host}:{port}"
    with socket.create_connection((host, port), TIMEOUT_S) as tcp:
        if context is None:
            _send_first_requests(_Requests(tcp), where, settings)
            return
        try:
            tls = context.wrap_socket(tcp, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _distrusted(where, error) from None
        except TimeoutError:
            raise
        except OSError as error:  # includes ssl.SSLError; a listener without TLS just closes
            raise _ConnectionEnded(
                f"{where} does not accept TLS with our settings ({_reason(error)}): "
                f"SAGELIFT_KAFKA__SECURITY_PROTOCOL is {settings['security_protocol']}; check it, and the port"
            ) from None
        with tls:
            _send_first_requests(_Requests(tls), where, settings)


def _distrusted(where: str, error: ssl.SSLCertVerificationError) -> BrokerError:
    if error.verify_code in _OTHER_NAME:
        remedy = "use a broker name that its certificate contains (SAGELIFT_KAFKA__BOOTSTRAP_SERVERS)"
    else:
        remedy = "name the file of the authority that signed it in SAGELIFT_KAFKA__SSL_CA_FILE"
    return BrokerError(f"the certificate of {where} is not trusted: {error.verify_message.rstrip('.')}; {remedy}")


def _send_first_requests(requests: _Requests, where: str, settings: Mapping[str, Any]) -> None:
    """Send a client's first requests, up to the first one that needs authentication."""
    protocol = settings.get("security_protocol", "PLAINTEXT")
    try:
        requests.ask(_API_VERSIONS, 0)
    except ssl.SSLError as error:  # with TLS 1.3 the server checks the client certificate only now
        raise BrokerError(
            f"{where} does not accept our certificate ({_reason(error)}): set SAGELIFT_KAFKA__SSL_CERT_FILE to one "
            "that it trusts"
        ) from None
    except _ENDED:
        required = "a certificate (SAGELIFT_KAFKA__SSL_CERT_FILE)" if protocol.endswith("SSL") else "SSL or SASL_SSL"
        raise _ConnectionEnded(
            f"{where} ends the connection at once: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {protocol}; this port may "
            f"require {required}, or it is not a Kafka broker's"
        ) from None
    try:
        if protocol.startswith("SASL"):
            _authenticate(requests, where, settings)
        else:
            requests.ask(_METADATA, 4, struct.pack(">iB", 0, 0))
    except _ENDED:
        if protocol.startswith("SASL"):
            raise _ConnectionEnded(
                f"{where} ended the connection during the authentication of user {settings['sasl_plain_username']!r}"
            ) from None
        required = "SASL_SSL" if protocol == "SSL" else "SASL_PLAINTEXT"
        raise _ConnectionEnded(
            f"{where} requires authentication: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {protocol}; set it to {required}, "
            "with mechanism, user and password"
        ) from None


def _authenticate(requests: _Requests, where: str, settings: Mapping[str, Any]) -> None:
    name, user = settings["sasl_mechanism"], settings["sasl_plain_username"]
    code, answer = requests.ask_coded(_SASL_HANDSHAKE, 1, _string(name.encode()))
    if code == _ILLEGAL_SASL_STATE:
        raise BrokerError(
            f"{where} does not support SASL: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {settings['security_protocol']}; "
            "set it to the protocol of this port (PLAINTEXT or SSL)"
        )
    if code == _UNSUPPORTED_SASL_MECHANISM:
        raise BrokerError(
            f"{where} does not support SASL mechanism {name}, only {', '.join(_strings(answer))}: set "
            "SAGELIFT_KAFKA__SASL_MECHANISM to one of these"
        )
    mechanism = get_sasl_mechanism(name)(**settings)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        code, answer = requests.ask_coded(_SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        if code:
            raise BrokerError(
                f"{where} refuses user {user!r} with {name} (error {code}): check SAGELIFT_KAFKA__USERNAME, "
                "SAGELIFT_KAFKA__PASSWORD and SAGELIFT_KAFKA__SASL_MECHANISM"
            )
        try:
            mechanism.receive(_token(answer))
        except ValueError:
            raise BrokerError(
                f"{where} cannot prove that it knows the password of user {user!r}: it may not be the broker that it "
                "claims to be"
            ) from None


class _Requests:
    """Sends requests over one socket and reads their answers, one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def ask(self, api: int, version: int, body: bytes = b"") -> bytes:
        """Return the body of the answer; raise EOFError if the connection ends instead."""
        head = struct.pack(">hhih8s", api, version, 1, 8, b"sagelift")
        self._socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        (length,) = struct.unpack(">i", self._read(4))
        if not 4 <= length <= _ANSWER_LIMIT:
            raise EOFError  # a TLS alert or an HTTP answer: not a Kafka broker
        return self._read(length)[4:]  # without the correlation id

    def ask_coded(self, api: int, version: int, body: bytes) -> tuple[int, bytes]:
        """Return the error code at the start of the answer, and the rest."""
        answer = self.ask(api, version, body)
        return struct.unpack_from(">h", answer)[0], answer[2:]

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            part = self._socket.recv(count - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def _string(text: bytes) -> bytes:
    return struct.pack(">h", len(text)) + text


def _strings(answer: bytes) -> list[str]:
    """Decode an array of strings."""
    (count,), at = struct.unpack_from(">i", answer), 4
    strings = []
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        strings.append(answer[at + 2 : at + 2 + length].decode(errors="replace"))
        at += 2 + length
    return strings


def _token(answer: bytes) -> bytes:
    """Return the mechanism's bytes, which follow an error message that is null on success."""
    (message,) = struct.unpack_from(">h", answer)
    at = 2 + max(0, message)
    (length,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + length]


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and not error.reason:
        return "not PEM, or a key that the password does not open"
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).lower().replace("_", " ")
