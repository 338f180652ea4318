"""A client of a schema registry with Confluent's REST interface (also Karapace, Redpanda and Apicurio).

https://docs.confluent.io/platform/current/schema-registry/develop/api.html. The registry returns the schema of an id
and assigns ids to our schemas. The schema of an id never changes, so the client asks for it once.
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
_NOT_FOUND = frozenset({40401, 40402, 40403})  # subject, version, schema
_CACHE_S = 30.0  # for answers that may change: an unknown id, subjects without the expected one
_CACHE_SIZE = 10_000


class RegisteredSchema(msgspec.Struct, frozen=True):
    """The schema of an id.

    Attributes:
        type: AVRO, JSON, PROTOBUF or another type.
        text: The schema.
        subjects: The subjects that it is registered under.
        references: Whether it refers to other schemas.
    """

    type: str
    text: str
    subjects: frozenset[str]
    references: bool


class _Schema(msgspec.Struct, rename="camel"):
    schema: str
    schema_type: str = "AVRO"  # the registry omits it for Avro
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
    """Client of a schema registry; safe to share between threads. A context manager.

    Args:
        urls: Address of the registry, or several addresses of one cluster, separated by commas.
        username: User for HTTP basic authentication; "" for none.
        password: Password of that user.
        ca_file: PEM certificates of the authorities that may sign the registry's certificate; by default the system's.
        timeout_s: Longest duration of a request, in seconds.
        clock: Seconds, such as `time.monotonic`.
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
        # No proxy from the environment: a registry is as close as the broker.
        self._http = httpx.Client(auth=auth, verify=verify, timeout=timeout_s, headers=headers, trust_env=False)
        self._clock = clock
        self._lock = threading.Lock()
        self._cache: dict[int, tuple[RegisteredSchema | None, float]] = {}  # schema and time of the answer

    def __enter__(self) -> SchemaRegistry:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def find(self, schema_id: int, subject: str) -> RegisteredSchema | None:
        """Return the schema of an id; None if the registry does not know the id.

        An answer without `subject` is requested again after 30 seconds: the schema may be registered later.

        Args:
            schema_id: The id.
            subject: The expected subject.

        Raises:
            RegistryError: The registry does not answer, or not with a usable answer.
        """
        schema, answered_at = self._cache.get(schema_id, (None, float("-inf")))
        final = schema is not None and subject in schema.subjects
        if final or self._clock() - answered_at < _CACHE_S:
            return schema
        schema = self._request_schema(schema_id)
        with self._lock:
            if len(self._cache) >= _CACHE_SIZE:  # bad messages filled it with ids; the ids in use are read again
                self._cache.clear()
            self._cache[schema_id] = schema, self._clock()
        return schema

    def register(self, subject: str, kind: SchemaType, schema: Mapping[str, Any]) -> int:
        """Return the id of a schema under a subject; register the schema if it is new.

        The schema is looked up first, so that a user with only read rights can use another user's schema.

        Args:
            subject: The subject.
            kind: Type of the schema.
            schema: The schema.

        Raises:
            SchemaError: The schema is invalid, or incompatible with the subject's schemas.
            RegistryError: The registry does not answer, or not with a usable answer.
        """
        text = msgspec.json.encode(schema).decode()
        body = {"schema": text} | ({} if kind == "AVRO" else {"schemaType": kind})
        path = f"/subjects/{quote(subject, safe='')}"
        answer = self._send("POST", path, body)
        if self._refusal(answer).error_code in _NOT_FOUND:
            answer = self._send("POST", f"{path}/versions", body)
        if answer.status_code in (409, 422):
            raise SchemaError(
                f"{self._urls[0]} does not accept the {kind} schema of subject {subject}: "
                f"{self._refusal(answer).message or answer.status_code}; "
                "register a compatible schema, or change the compatibility level of the subject"
            )
        return self._read(answer, _Id).id

    def _request_schema(self, schema_id: int) -> RegisteredSchema | None:
        answer = self._send("GET", f"/schemas/ids/{schema_id}")
        if self._refusal(answer).error_code in _NOT_FOUND:
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
            f"({type(error).__name__}: {error}); set SAGELIFT_SCHEMA_REGISTRY__URL, or start the registry"
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
                f"the schema registry {answer.url.copy_with(path='/')} refuses us ({answer.status_code}): set "
                "SAGELIFT_SCHEMA_REGISTRY__USERNAME and __PASSWORD, or give that user the right"
            )
        try:
            answer.raise_for_status()
            return msgspec.json.decode(answer.content, type=kind)
        except (httpx.HTTPStatusError, msgspec.DecodeError, UnicodeDecodeError):
            message = self._refusal(answer).message or answer.text[:200]
            raise RegistryError(
                f"the schema registry answers {answer.status_code} at {answer.url}: {message!r}"
            ) from None
