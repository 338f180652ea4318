"""JSON Lines: one product as one JSON object a line, under the contract's names or their aliases."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import BinaryIO

import msgspec

from streaming.contracts import MAX_MESSAGE_BYTES
from streaming.errors import FeedError
from streaming.feeds.rows import Row, RowBuilder, field_of


def _number(digits: str) -> Decimal | str:
    try:
        return Decimal(digits)
    except InvalidOperation:  # an exponent beyond what a Decimal holds; as text the price refuses it
        return digits


# Prices keep the decimals that the file states: 109.99 must not become 109.98999999999999.
_decoder = msgspec.json.Decoder(dict[str, object], float_hook=_number)


def read_jsonl(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """The products of a JSONL file; row numbers are line numbers. Blank lines are skipped.

    Raises:
        FeedError: the file cannot be read, or is no JSONL from its first line on.
    """
    try:
        with open(path, "rb") as file:
            for number, line in _lines(file):
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                    _check_start(path, line)
                if len(line) > MAX_MESSAGE_BYTES:
                    yield builder.refuse(number, "", f"is longer than {MAX_MESSAGE_BYTES} bytes")
                elif line.strip():
                    yield _row(number, line, builder)
    except OSError as error:
        raise FeedError(f"{path} cannot be read: {error.strerror or error}.") from error


def _row(number: int, line: bytes, builder: RowBuilder) -> Row:
    try:
        item = _decoder.decode(line)
    except msgspec.ValidationError as error:
        return builder.refuse(number, "", f"must be one JSON object: {str(error).partition(' - at')[0]}")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return builder.refuse(number, "", f"is not JSON: {error}")
    raw: dict[str, object] = {}
    for name, value in item.items():
        field = field_of(name)
        if field is None:
            builder.count_unknown(name)
        elif field not in raw or name == field:
            raw[field] = value
    return builder.build(number, raw)


def _check_start(path: Path, line: bytes) -> None:
    if line.lstrip().startswith(b"["):
        raise FeedError(f"{path} is one JSON array; write one product a line (JSON Lines).")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FeedError(f"{path} is UTF-16; JSON Lines are UTF-8: save it as UTF-8.")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """The lines with their numbers; of an overlong one only the start, a byte more than is allowed."""
    number = 0
    # Two bytes of room for the line's end.
    while line := file.readline(MAX_MESSAGE_BYTES + 2):
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(65_536)
        yield number, line.rstrip(b"\r\n")
