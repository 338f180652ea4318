"""One connection to a broker before kafka-python makes its own, to learn why it would not come about.

kafka-python 3.0.12 retries every failure of a first connection until time is up and then says "Unable to bootstrap": an
untrusted certificate, a wrong password (it drops the broker's answer, because the connection ends with it) and a
listener that speaks something else look like a broker that is away. Here the same steps are taken once, in the open.

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

_TIMEOUT_S = 5.0  # of each step; a server that takes a connection and says nothing must not hold up a start
_PAUSE_S = 0.5
_ANSWER_LIMIT = 1 << 20  # bytes; what is longer is no answer to these questions, but the start of another protocol
_SASL_HANDSHAKE, _API_VERSIONS, _METADATA, _SASL_AUTHENTICATE = 17, 18, 3, 36
_UNSUPPORTED_SASL_MECHANISM, _ILLEGAL_SASL_STATE = 33, 34
_ENDED = (EOFError, ConnectionResetError, BrokenPipeError)
_OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def tls_context(settings: Mapping[str, Any]) -> ssl.SSLContext | None:
    """The TLS settings (`ssl_...` of kafka-python) as a context; None without TLS.

    Raises:
        BrokerError: a file is missing, holds something else, or does not fit the others.
    """
    if not settings.get("security_protocol", "").endswith("SSL"):
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = settings.get("ssl_check_hostname", True)
    ca, cert, key = (settings.get(f"ssl_{name}") for name in ("cafile", "certfile", "keyfile"))
    # A function, because without a password OpenSSL would ask for one at the terminal.
    password = settings.get("ssl_password") or ""
    try:
        if ca:
            context.load_verify_locations(ca)
        else:
            context.load_default_certs()
        if cert:
            context.load_cert_chain(cert, key, lambda: password)
    except OSError as error:  # of which ssl.SSLError is one
        files = ", ".join(str(file) for file in (ca, cert, key) if file)
        raise BrokerError(
            f"the files for TLS with Kafka ({files}) cannot be used: {_said(error)}; check SAGELIFT_KAFKA__SSL_..."
        ) from None
    return context


class _HungUp(BrokerError):
    """The connection ended without a word."""


def check(bootstrap_servers: str, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> str:
    """Connect to the first broker of a list that can be reached.

    Returns "" when that went well, else why none could be reached, which may pass.

    Raises:
        BrokerError: brokers were reached and none let us in; says why and what mends it.
    """
    try:
        return _first(bootstrap_servers, settings, context)
    except _HungUp:  # as a broker does that is just going down; then it is away in a moment
        time.sleep(_PAUSE_S)
        return _first(bootstrap_servers, settings, context)


def _first(bootstrap_servers: str, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> str:
    refused: BrokerError | None = None
    away = ""
    for address in bootstrap_servers.split(","):
        host, port = _host_and_port(address.strip())
        try:
            _connect(host, port, settings, context)
            return ""
        except BrokerError as error:
            refused = refused or error
        except OSError as error:
            away = away or f"{address.strip()}: {error.strerror or error or 'no answer'}"
    if refused is not None:
        raise refused
    return away


def _host_and_port(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdigit() else (address.strip("[]"), 9092)


def _connect(host: str, port: int, settings: Mapping[str, Any], context: ssl.SSLContext | None) -> None:
    where = f"{host}:{port}"
    with socket.create_connection((host, port), _TIMEOUT_S) as plain:
        if context is None:
            _introduce(_Wire(plain), where, settings)
            return
        try:
            tls = context.wrap_socket(plain, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            raise _distrusted(where, error) from None
        except TimeoutError:
            raise
        except OSError as error:  # of which ssl.SSLError is one; a plain listener just closes
            raise _HungUp(
                f"{where} does not speak TLS as we do ({_said(error)}): SAGELIFT_KAFKA__SECURITY_PROTOCOL is "
                f"{settings['security_protocol']}; check it, and the port"
            ) from None
        with tls:
            _introduce(_Wire(tls), where, settings)


def _distrusted(where: str, error: ssl.SSLCertVerificationError) -> BrokerError:
    if error.verify_code in _OTHER_NAME:
        remedy = "call the broker by a name in its certificate (SAGELIFT_KAFKA__BOOTSTRAP_SERVERS)"
    else:
        remedy = "name the file of the authority that signed it in SAGELIFT_KAFKA__SSL_CA_FILE"
    return BrokerError(f"the certificate of {where} is not trusted: {error.verify_message.rstrip('.')}; {remedy}")


def _introduce(wire: _Wire, where: str, settings: Mapping[str, Any]) -> None:
    """The first requests of a client, up to the first that is answered only after a sign-on."""
    protocol = settings.get("security_protocol", "PLAINTEXT")
    try:
        wire.ask(_API_VERSIONS, 0)
    except ssl.SSLError as error:  # TLS 1.3 tells a client only now what the server thinks of its certificate
        raise BrokerError(
            f"{where} does not take our certificate ({_said(error)}): set SAGELIFT_KAFKA__SSL_CERT_FILE to one that it "
            "trusts"
        ) from None
    except _ENDED:
        wanted = "a certificate (SAGELIFT_KAFKA__SSL_CERT_FILE)" if protocol.endswith("SSL") else "SSL or SASL_SSL"
        raise _HungUp(
            f"{where} ends the connection at once: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {protocol}; this port may "
            f"want {wanted}, or is no Kafka broker's"
        ) from None
    try:
        if protocol.startswith("SASL"):
            _sign_on(wire, where, settings)
        else:
            wire.ask(_METADATA, 4, struct.pack(">iB", 0, 0))
    except _ENDED:
        if protocol.startswith("SASL"):
            raise _HungUp(
                f"{where} ended the connection while user {settings['sasl_plain_username']!r} signed on"
            ) from None
        wanted = "SASL_SSL" if protocol == "SSL" else "SASL_PLAINTEXT"
        raise _HungUp(
            f"{where} wants a sign-on: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {protocol}; set it to {wanted}, with "
            "mechanism, user and password"
        ) from None


def _sign_on(wire: _Wire, where: str, settings: Mapping[str, Any]) -> None:
    name, user = settings["sasl_mechanism"], settings["sasl_plain_username"]
    code, answer = wire.ask_coded(_SASL_HANDSHAKE, 1, _string(name.encode()))
    if code == _ILLEGAL_SASL_STATE:
        raise BrokerError(
            f"{where} knows no sign-on by SASL: SAGELIFT_KAFKA__SECURITY_PROTOCOL is {settings['security_protocol']}; "
            "set it to what this port speaks (PLAINTEXT or SSL)"
        )
    if code == _UNSUPPORTED_SASL_MECHANISM:
        raise BrokerError(
            f"{where} does not know SASL mechanism {name}, only {', '.join(_strings(answer))}: set "
            "SAGELIFT_KAFKA__SASL_MECHANISM to one of these"
        )
    mechanism = get_sasl_mechanism(name)(**settings)
    while not mechanism.is_done():
        token = mechanism.auth_bytes()
        code, answer = wire.ask_coded(_SASL_AUTHENTICATE, 0, struct.pack(">i", len(token)) + token)
        if code:
            raise BrokerError(
                f"{where} does not let user {user!r} in by {name} (error {code}): check SAGELIFT_KAFKA__USERNAME, "
                "SAGELIFT_KAFKA__PASSWORD and SAGELIFT_KAFKA__SASL_MECHANISM"
            )
        try:
            mechanism.receive(_token(answer))
        except ValueError:
            raise BrokerError(
                f"{where} cannot prove that it knows the password of user {user!r}: it may not be the broker that it "
                "claims to be"
            ) from None


class _Wire:
    """Requests and answers on one socket, one at a time."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    def ask(self, api: int, version: int, body: bytes = b"") -> bytes:
        """The answer's body. Raises EOFError when the connection ends instead, OSError."""
        head = struct.pack(">hhih8s", api, version, 1, 8, b"sagelift")
        self._socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        (length,) = struct.unpack(">i", self._read(4))
        if not 4 <= length <= _ANSWER_LIMIT:
            raise EOFError  # a TLS alert, an HTTP answer: the connection is of no further use
        return self._read(length)[4:]  # less the correlation id

    def ask_coded(self, api: int, version: int, body: bytes) -> tuple[int, bytes]:
        """The error code with which the answer begins, and the rest."""
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
    """An array of strings."""
    (count,), at = struct.unpack_from(">i", answer), 4
    found = []
    for _ in range(count):
        (length,) = struct.unpack_from(">h", answer, at)
        found.append(answer[at + 2 : at + 2 + length].decode(errors="replace"))
        at += 2 + length
    return found


def _token(answer: bytes) -> bytes:
    """The mechanism's bytes, after the message, which is null where there is no error."""
    (message,) = struct.unpack_from(">h", answer)
    at = 2 + max(0, message)
    (length,) = struct.unpack_from(">i", answer, at)
    return answer[at + 4 : at + 4 + length]


def _said(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and not error.reason:
        return "not PEM, or a key that the password does not open"
    reason = getattr(error, "reason", None) or error.strerror or type(error).__name__
    return str(reason).lower().replace("_", " ")
