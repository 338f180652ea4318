"""The draws in SQL, to recompute an assignment in a warehouse (S1 to S3 of docs/reference/assignment-spec.md)."""

import sqlite3
from collections.abc import Callable
from typing import Final, Literal

from experiments.kernel import HashVersion, buckets

Dialect = Literal["duckdb", "postgresql", "spark", "bigquery", "snowflake", "redshift"]
Draw = Literal["gate", "split"]

# S1. `{digits}` is the position of the draw's 15 hex digits: 1 for the gate, 16 for the split. NULL gives NULL.
_SHA256: Final[dict[Dialect, str]] = {
    "duckdb": "('0x' || substr(sha256({salt} || chr(31) || {unit}), {digits}, 15))::bigint % 10000",
    "postgresql": (
        "('x0' || substr(encode(sha256(convert_to({salt} || chr(31) || {unit}, 'UTF8')), 'hex'), {digits}, 15))"
        "::bit(64)::bigint % 10000"
    ),
    "spark": "cast(conv(substr(sha2(concat({salt}, chr(31), {unit}), 256), {digits}, 15), 16, 10) as bigint) % 10000",
    "bigquery": (
        "mod(cast(concat('0x', substr(to_hex(sha256(concat({salt}, chr(31), {unit}))), {digits}, 15)) as int64), 10000)"
    ),
    "snowflake": (
        "mod(to_number(substr(sha2(concat({salt}, chr(31), {unit}), 256), {digits}, 15), 'XXXXXXXXXXXXXXX'), 10000)"
    ),
    "redshift": "strtol(substring(sha2({salt} || chr(31) || {unit}, 256), {digits}, 15), 16) % 10000",
}

GB2_FUNCTIONS: Final = {
    "duckdb": """\
create or replace macro fnv1a32(text) as list_reduce(
    list_prepend(2166136261::bigint, flatten(list_transform(regexp_extract_all(text, '(?s).'), lambda c:
        case when ord(c) < 65536 then [ord(c)::bigint]
             else [55296 + ((ord(c) - 65536) >> 10), 56320 + ((ord(c) - 65536) & 1023)]::bigint[] end))),
    lambda h, u: (xor(h, u) * 16777619) & 4294967295);
create or replace macro gb2_bucket(salt, unit) as
    case when unit is not null then fnv1a32(fnv1a32(salt || unit)::varchar) % 10000 end;""",
    "postgresql": """\
create or replace function fnv1a32(text text) returns bigint language plpgsql immutable strict as $$
declare h bigint := 2166136261; c bigint;
begin
    for i in 1 .. length(text) loop
        c := ascii(substr(text, i, 1));
        if c > 65535 then
            h := ((h # (55296 + ((c - 65536) >> 10))) * 16777619) & 4294967295;
            c := 56320 + ((c - 65536) & 1023);
        end if;
        h := ((h # c) * 16777619) & 4294967295;
    end loop;
    return h;
end $$;
create or replace function gb2_bucket(salt text, unit text) returns bigint language sql immutable as
    $$ select fnv1a32(fnv1a32(salt || unit)::text) % 10000 $$;""",
}
"""S2: statements that define `gb2_bucket(salt, unit)`. FNV-1a hashes letter by letter, which one expression cannot."""


def bucket_sql(dialect: Dialect, draw: Draw, *, salt: str, unit: str) -> str:
    """Return the SQL expression of a draw of `sha256`.

    Args:
        dialect: The database.
        draw: The gate or the split.
        salt: The salt; it becomes a literal.
        unit: A column or another text expression.

    `bucket_sql("duckdb", "gate", salt="s1", unit="unit_id")` is
    `('0x' || substr(sha256('s1' || chr(31) || unit_id), 1, 15))::bigint % 10000`.
    """
    literal = "'" + salt.replace("'", "''") + "'"
    return _SHA256[dialect].format(salt=literal, unit=unit, digits={"gate": 1, "split": 16}[draw])


def register_sqlite(connection: sqlite3.Connection) -> None:
    """Register `gate_bucket(salt, unit)`, `split_bucket(salt, unit)` and `gb2_bucket(salt, unit)` on a connection.

    SQLite has no such hash functions itself (S3).
    """

    def function(hash_version: HashVersion, index: int) -> Callable[[str | None, str | None], int | None]:
        def bucket(salt: str | None, unit: str | None) -> int | None:
            return None if salt is None or unit is None else buckets(salt, unit, hash_version)[index]

        return bucket

    for name, bucket in (
        ("gate_bucket", function("sha256", 0)),
        ("split_bucket", function("sha256", 1)),
        ("gb2_bucket", function("gb2", 0)),
    ):
        connection.create_function(name, 2, bucket, deterministic=True)
