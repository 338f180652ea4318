"""JSON Lines: one product per line as a JSON object, with the contract's field names or their aliases."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import BinaryIO

import msgspec

from streaming.contracts import MAX_MESSAGE_BYTES
from streaming.errors import FeedError
from streaming.feeds.files import open_feed
from streaming.feeds.rows import Row, RowBuilder, field_of


def _parse_number(digits: str) -> Decimal | str:
    try:
        return Decimal(digits)
    except InvalidOperation:  # Decimal cannot hold the exponent; the price check refuses the text
        return digits


# Prices keep the decimals that the file states: 109.99 must not become 109.98999999999999.
_decoder = msgspec.json.Decoder(dict[str, object], float_hook=_parse_number)


def read_jsonl(path: Path, builder: RowBuilder) -> Iterator[Row]:
    """Stream the products of a JSON Lines file. Row numbers are line numbers; blank lines are skipped.

    Raises:
        FeedError: The file cannot be read, or its first line shows that it is not JSON Lines.
    """
    with open_feed(path) as file:
        for number, line in _lines(file):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
                _check_start(path, line)
            if len(line) > MAX_MESSAGE_BYTES:
                yield builder.refuse(number, "", f"is longer than {MAX_MESSAGE_BYTES} bytes")
            elif line.strip():
                yield _row(number, line, builder)


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
        raise FeedError(f"{path} is one JSON array; write one product per line (JSON Lines).")
    if line.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise FeedError(f"{path} is UTF-16; JSON Lines must be UTF-8: save it as UTF-8.")


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield the lines with their numbers; a line that is too long is cut to one byte more than the limit."""
    number = 0
    while line := file.readline(MAX_MESSAGE_BYTES + 2):  # 2 bytes for the line end
        number += 1
        rest = line
        while rest and not rest.endswith(b"\n"):
            rest = file.readline(65_536)
        yield number, line.rstrip(b"\r\n")
