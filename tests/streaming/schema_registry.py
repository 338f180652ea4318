"""A schema registry for tests, over real HTTP: the part of Confluent's REST interface that a client meets.

Written from https://docs.confluent.io/platform/current/schema-registry/develop/api.html: paths, bodies, status codes
and `error_code`s. A schema has one id however many subjects it is registered under; a new version of a subject must be
able to read what the one before it wrote (BACKWARD, Confluent's default), as far as added and changed fields go.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class Refusal(Exception):
    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.body = status, {"error_code": code, "message": message}


class Schema(NamedTuple):
    kind: str
    text: str  # canonical JSON, so that the same schema is found again
    references: str = "[]"

    @property
    def parsed(self) -> Any:
        return json.loads(self.text)


class Registry:
    """The server; a context manager. `requests` are the calls that were made, `down` has it answer 503."""

    def __init__(self, user: tuple[str, str] | None = None, *, read_only: bool = False) -> None:
        self.schemas: list[Schema] = []  # by id - 1
        self.subjects: dict[str, list[int]] = {}  # ids of the versions
        self.requests: list[str] = []
        self.down = False
        self.user, self.read_only = user, read_only
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Registry:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def add(self, subject: str, schema: Any, kind: str = "AVRO") -> int:
        """Register without asking for compatibility, as after `PUT /config {"compatibility": "NONE"}`."""
        with self._lock:
            return self._put(subject, Schema(kind, json.dumps(schema, sort_keys=True)))

    def answer(self, method: str, path: str, body: Any, authorization: str | None) -> Any:
        with self._lock:
            self.requests.append(f"{method} {path}")
            if self.down:
                raise Refusal(503, 50301, "Error while forwarding the request to the primary")
            if self.user and authorization != "Basic " + base64.b64encode(":".join(self.user).encode()).decode():
                raise Refusal(401, 401, "User cannot access the resource.")
            return self._route(method, path, body)

    def _route(self, method: str, path: str, body: Any) -> Any:
        if result := re.fullmatch(r"/schemas/ids/(\d+)(/versions)?", path):
            number = int(result[1])
            if method != "GET" or not 0 < number <= len(self.schemas):
                raise Refusal(404, 40403, f"Schema {number} not found")
            if result[2]:
                return [
                    {"subject": subject, "version": version}
                    for subject, ids in self.subjects.items()
                    for version, schema_id in enumerate(ids, 1)
                    if schema_id == number
                ]
            schema = self.schemas[number - 1]
            said: dict[str, Any] = {"schema": schema.text}
            if schema.kind != "AVRO":  # which is left out
                said["schemaType"] = schema.kind
            if schema.references != "[]":
                said["references"] = json.loads(schema.references)
            return said
        if method == "POST" and (result := re.fullmatch(r"/subjects/([^/]+)(/versions)?", path)):
            subject, schema = result[1], self._schema(body)
            return self._register(subject, schema) if result[2] else self._look_up(subject, schema)
        raise Refusal(404, 404, "HTTP 404 Not Found")

    def _schema(self, body: Any) -> Schema:
        try:
            text = json.dumps(json.loads(body["schema"]), sort_keys=True)
        except (ValueError, KeyError):
            raise Refusal(422, 42201, "Invalid schema") from None
        return Schema(body.get("schemaType", "AVRO"), text, json.dumps(body.get("references", [])))

    def _look_up(self, subject: str, schema: Schema) -> Any:
        if subject not in self.subjects:
            raise Refusal(404, 40401, f"Subject '{subject}' not found.")
        for version, number in enumerate(self.subjects[subject], 1):
            if self.schemas[number - 1] == schema:
                return {"subject": subject, "id": number, "version": version, "schema": schema.text}
        raise Refusal(404, 40403, "Schema not found")

    def _register(self, subject: str, schema: Schema) -> Any:
        if self.read_only:
            raise Refusal(403, 40301, "User is denied operation Write on Subject: " + subject)
        if (versions := self.subjects.get(subject)) and (why := incompatible(schema, self.schemas[versions[-1] - 1])):
            raise Refusal(
                409,
                409,
                f'Schema being registered is incompatible with an earlier schema for subject "{subject}": {why}',
            )
        return {"id": self._put(subject, schema)}

    def _put(self, subject: str, schema: Schema) -> int:
        if schema not in self.schemas:
            self.schemas.append(schema)
        number = self.schemas.index(schema) + 1
        versions = self.subjects.setdefault(subject, [])
        if number not in versions:
            versions.append(number)
        return number

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        registry = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                raw = self.rfile.read(length)
                body = json.loads(raw) if raw else None
                try:
                    status, said = 200, registry.answer(self.command, self.path, body, self.headers["Authorization"])
                except Refusal as refusal:
                    status, said = refusal.status, refusal.body
                out = json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", MEDIA_TYPE)
                self.send_header("Content-Length", str(len(out)))
                self.end_headers()
                self.wfile.write(out)

            do_POST = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def incompatible(new: Schema, old: Schema) -> str | None:
    """Why a reader of the new schema cannot read what was written by the old one; None when it can."""
    if new.kind != old.kind:
        return "TYPE_CHANGED"
    if new.kind == "JSON":
        required = set(new.parsed.get("required", ())) - set(old.parsed.get("required", ()))
        if required:
            return f"REQUIRED_ATTRIBUTE_ADDED {sorted(required)}"
        added = new.parsed.get("properties", {}).keys() - old.parsed.get("properties", {}).keys()
        is_open = old.parsed.get("additionalProperties", True)
        return f"PROPERTY_ADDED_TO_OPEN_CONTENT_MODEL {sorted(added)}" if added and is_open else None
    before = {field["name"]: field["type"] for field in old.parsed.get("fields", ())}
    for field in new.parsed.get("fields", ()):
        name = field["name"]
        if name not in before and "default" not in field:
            return f"READER_FIELD_MISSING_DEFAULT_VALUE '{name}'"
        if name in before and before[name] != field["type"]:
            return f"TYPE_MISMATCH '{name}'"
    return None
