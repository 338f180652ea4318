"""A client of a schema registry with Confluent's REST interface (also Karapace, Redpanda, Apicurio's compatible one).

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. It says which schema an id stands for, and
gives ids to ours. What an id stands for never changes, so it is asked once.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from streaming.errors import RegistryError, SchemaError

T = TypeVar("T")
SchemaType = Literal["AVRO", "JSON", "PROTOBUF"]

_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"
_NOT_THERE = frozenset({40401, 40402, 40403})  # subject, version, schema
_AGAIN_S = 30.0  # how long an answer that may change is believed: an id that is unknown, subjects that lack ours
_REMEMBERED = 10_000


class RegisteredSchema(msgspec.Struct, frozen=True):
    """What an id stands for, and the subjects that it is registered under."""

    type: str
    text: str
    subjects: frozenset[str]
    references: bool


class _Schema(msgspec.Struct, rename="camel"):
    schema: str
    schema_type: str = "AVRO"  # as the registry leaves it out
    references: list[Any] | None = None


class _SubjectVersion(msgspec.Struct):
    subject: str
    version: int


class _Id(msgspec.Struct):
    id: int


class _Refusal(msgspec.Struct):
    error_code: int = 0
    message: str = ""


class SchemaRegistry:
    """Asks the registry; safe to share between threads. A context manager.

    Args:
        urls: its address, or several of one cluster with commas between.
        username, password: for HTTP basic authentication, where it wants one.
        ca_file: PEM certificates of the authorities that may sign its own; by default the system's.
        timeout_s: of one request.
    """

    def __init__(
        self,
        urls: str,
        *,
        username: str = "",
        password: str = "",
        ca_file: Path | None = None,
        timeout_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._urls = [url.strip().rstrip("/") for url in urls.split(",")]
        verify: ssl.SSLContext | bool = ssl.create_default_context(cafile=ca_file) if ca_file else True
        auth = httpx.BasicAuth(username, password) if username else None
        headers = {"Accept": _MEDIA_TYPE, "Content-Type": _MEDIA_TYPE}
        # Not through a proxy of the environment: a registry is as near as the broker.
        self._http = httpx.Client(auth=auth, verify=verify, timeout=timeout_s, headers=headers, trust_env=False)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: dict[int, tuple[RegisteredSchema | None, float]] = {}  # and when that was asked

    def __enter__(self) -> SchemaRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def find(self, schema_id: int, subject: str) -> RegisteredSchema | None:
        """What an id stands for; None when the registry does not know it.

        An answer in which `subject` is missing is asked for anew after a while: it may be registered meanwhile.

        Raises:
            RegistryError: no answer, or none that can be used.
        """
        found, asked = self._known.get(schema_id, (None, float("-inf")))
        final = found is not None and subject in found.subjects
        if final or self._clock() - asked < _AGAIN_S:
            return found
        found = self._ask(schema_id)
        with self._lock:
            if len(self._known) >= _REMEMBERED:  # ids of poison; those in use come again
                self._known.clear()
            self._known[schema_id] = found, self._clock()
        return found

    def register(self, subject: str, kind: SchemaType, schema: Mapping[str, Any]) -> int:
        """The id of a schema under a subject; it is registered when it is not.

        Looked up first, so that a user who may only read can use what another has registered.

        Raises:
            SchemaError: it is not compatible with the subject's, or the registry calls it no schema.
            RegistryError: no answer, or none that can be used.
        """
        text = msgspec.json.encode(schema).decode()
        body = {"schema": text} | ({} if kind == "AVRO" else {"schemaType": kind})
        path = f"/subjects/{quote(subject, safe='')}"
        answer = self._send("POST", path, body)
        if self._refusal(answer).error_code in _NOT_THERE:
            answer = self._send("POST", f"{path}/versions", body)
        if answer.status_code in (409, 422):
            raise SchemaError(
                f"{self._urls[0]} does not take the {kind} schema of subject {subject}: "
                f"{self._refusal(answer).message or answer.status_code}; "
                "register a compatible one, or let the subject take it (its compatibility level)"
            )
        return self._read(answer, _Id).id

    def _ask(self, schema_id: int) -> RegisteredSchema | None:
        answer = self._send("GET", f"/schemas/ids/{schema_id}")
        if self._refusal(answer).error_code in _NOT_THERE:
            return None
        schema = self._read(answer, _Schema)
        versions = self._read(self._send("GET", f"/schemas/ids/{schema_id}/versions"), list[_SubjectVersion])
        subjects = frozenset(each.subject for each in versions)
        return RegisteredSchema(schema.schema_type, schema.schema, subjects, bool(schema.references))

    def _send(self, method: str, path: str, body: Mapping[str, str] | None = None) -> httpx.Response:
        content = None if body is None else msgspec.json.encode(body)
        error: Exception | None = None
        for url in self._urls:
            try:
                return self._http.request(method, url + path, content=content)
            except (httpx.HTTPError, httpx.InvalidURL) as failed:
                error = error or failed
        raise RegistryError(
            f"the schema registry {', '.join(self._urls)} does not answer "
            f"({type(error).__name__}: {error}); set SAGELIFT_SCHEMA_REGISTRY__URL, or mend it"
        ) from error

    @staticmethod
    def _refusal(answer: httpx.Response) -> _Refusal:
        if answer.is_success:
            return _Refusal()
        try:
            return msgspec.json.decode(answer.content, type=_Refusal)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return _Refusal()

    def _read(self, answer: httpx.Response, kind: type[T]) -> T:
        if answer.status_code in (401, 403):
            raise RegistryError(
                f"the schema registry {answer.url.copy_with(path='/')} does not let us in ({answer.status_code}): set "
                "SAGELIFT_SCHEMA_REGISTRY__USERNAME and __PASSWORD, or give that user the right"
            )
        try:
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=kind)
        except (httpx.HTTPStatusError, msgspec.DecodeError, UnicodeDecodeError):
            said = self._refusal(answer).message or answer.text[:200]
            raise RegistryError(f"the schema registry answers {answer.status_code} at {answer.url}: {said!r}") from None
