"""Delimited text (CSV, TSV): read record by record, with bounded memory for any file."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from streaming.contracts import MAX_MESSAGE_BYTES
from streaming.errors import FeedError
from streaming.feeds.files import cannot_read


class BrokenRecord(Exception):
    """A record that cannot be split into cells; the message is the rule that it breaks."""


Record = list[str] | BrokenRecord


def records(path: Path, delimiter: str) -> Iterator[tuple[int, Record]]:
    """Yield the file's records with the row numbers that a spreadsheet shows: the header is 1.

    The text is UTF-8, or UTF-16 with a byte order mark (Excel's "Unicode text"). A byte that is not UTF-8 becomes
    a lone surrogate: `values.text` refuses it and names the field.

    Raises:
        FeedError: The file cannot be read as text.
    """
    try:
        with open(path, encoding=_encoding(path), errors="surrogateescape", newline="") as file:
            yield from _records(file, delimiter)
    except OSError as error:
        raise cannot_read(path, error) from error
    except UnicodeError as error:
        raise FeedError(f"{path} is not valid UTF-16: {error}; save it as UTF-8.") from error


def read_header(path: Path, delimiter: str) -> list[str]:
    """Return the column names in the first row.

    Raises:
        FeedError: The file is empty, or its first row is broken or names a column twice.
    """
    _, header = next(records(path, delimiter), (1, []))
    if isinstance(header, BrokenRecord):
        raise FeedError(f"{path} has a broken header: it {header}.")
    names = [name.strip() for name in header]
    if any("\udc80" <= char <= "\udcff" for name in names for char in name):
        raise FeedError(f"{path} is not valid UTF-8 in its header; save it as UTF-8.")
    if not any(names):
        raise FeedError(f"{path} has no header in its first row; write the column names there.")
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise FeedError(f"{path} has the column {repeated[0]!r} twice; remove or rename one.")
    return names


def rows(path: Path, delimiter: str) -> Iterator[tuple[int, dict[str, str] | BrokenRecord]]:
    """Yield the records after the header as `{column: cell}`, without empty cells and blank rows."""
    header = read_header(path, delimiter)
    for number, cells in records(path, delimiter):
        if number == 1:
            continue
        if isinstance(cells, BrokenRecord):
            yield number, cells
        elif len(cells) > len(header):
            yield number, BrokenRecord(f"has {len(cells)} cells, the header has {len(header)}; quote the delimiter")
        elif any(cell.strip() for cell in cells):
            # Spreadsheets omit empty cells at the end of a row, so a short row is valid.
            yield number, {name: cell for name, cell in zip(header, cells, strict=False) if cell.strip()}


def _encoding(path: Path) -> str:
    with open(path, "rb") as file:
        start = file.read(2)
    return "utf-16" if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _records(file: TextIO, delimiter: str) -> Iterator[tuple[int, Record]]:
    lines = _Lines(file)
    # Strict mode refuses `"Best" mug` and an unclosed quote instead of changing them silently.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    number = 0
    while True:
        number += 1
        first = lines.count + 1
        lines.size = 0
        record: Record
        try:
            record = next(reader)
        except StopIteration:
            return
        except BrokenRecord as error:
            record = error
        except csv.Error as error:
            record = BrokenRecord(
                f"is not properly quoted ({error}); lines {first} to {lines.count} of the file cannot be used"
            )
        yield number, record


class _Lines:
    """The lines of a text file for csv.reader; raises `BrokenRecord` for a record larger than a message may be.

    This is a class because iteration must continue after the error, which a generator cannot do.
    """

    def __init__(self, file: TextIO) -> None:
        self.count = 0  # lines read
        self.size = 0  # characters of the current record; `_records` resets it
        self._file = file

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        remaining = MAX_MESSAGE_BYTES - self.size
        line = self._file.readline(remaining + 1)
        if not line:
            raise StopIteration
        self.count += 1
        self.size += len(line)
        if len(line) > remaining:
            while line and not line.endswith(("\n", "\r")):
                line = self._file.readline(65_536)
            raise BrokenRecord(f"is longer than {MAX_MESSAGE_BYTES} characters")
        return line
