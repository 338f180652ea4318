"""How `sagelift dlq` prints dead letters: tables and single letters for people, JSON for programs."""

from __future__ import annotations

import base64
import shutil
import sys
from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from sagelift.commands.console import print_json_line, say

if TYPE_CHECKING:
    from streaming.dead_letters.causes import Cause
    from streaming.dead_letters.letters import Letter, LetterId
    from streaming.dead_letters.replay import ReplayResult
    from streaming.dead_letters.replay_log import Replayed

_NO_MATCH = "no dead letters match these filters"


def letter_row(letter: Letter, replayed: bool) -> dict[str, Any]:
    """A letter as one JSON object of `dlq list --json`."""
    from streaming.dead_letters.letters import readable, source_topic

    source = letter.source
    return {
        "id": str(letter.id),
        "topic": source_topic(letter.id.topic),
        "partition": source.partition if source else None,
        "offset": letter.source_offset,
        "time": letter.time,
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "key": readable(letter.key) if letter.key is not None else None,
        "attempts": letter.attempts,
        "first_time": letter.fact("first.time") or None,
        "consumer_group": letter.fact("consumer.group") or None,
        "replayed": replayed,
    }


def print_letters(letters: Sequence[Letter], replayed: Collection[LetterId], as_json: bool) -> None:
    """Print letters as a table or as lines of JSON.

    Args:
        letters: Letters in the order to print.
        replayed: Ids of those that were replayed.
        as_json: Whether to print JSON.
    """
    from streaming.dead_letters.letters import readable

    if as_json:
        for letter in letters:
            print_json_line(letter_row(letter, letter.id in replayed))
        return
    if not letters:
        say(_NO_MATCH)
        return
    lines: list[tuple[str, ...]] = [("ID", "TIME (UTC)", "STAGE", "ERROR", "KEY", "TRIES", "REPLAYED", "MESSAGE")]
    for letter in letters:
        key = printable(readable(letter.key))[:40]
        was_replayed = "yes" if letter.id in replayed else "no"
        cells = (letter.stage, letter.error, key, str(letter.attempts or ""), was_replayed, letter.message)
        lines.append((str(letter.id), _time(letter.time), *map(printable, cells)))
    _print_columns(lines)


def print_causes(causes: Sequence[Cause], as_json: bool) -> None:
    """Print causes as a table or as lines of JSON."""
    if as_json:
        for cause in causes:
            row = {name: getattr(cause, name) for name in cause.__struct_fields__}
            print_json_line(row | {"newest": str(cause.newest)})
        return
    if not causes:
        say(_NO_MATCH)
        return
    lines = [("LETTERS", "TOPIC", "STAGE", "ERROR", "FIRST (UTC)", "LAST (UTC)", "NEWEST", "MESSAGE")]
    for cause in causes:
        origin = (cause.topic, printable(cause.stage), printable(cause.error))
        times = (_time(cause.first), _time(cause.last))
        lines.append((str(cause.letters), *origin, *times, str(cause.newest), printable(cause.message)))
    _print_columns(lines)


def print_letter_json(letter: Letter, value: bytes | None, cut: bool, replayed: Replayed | None) -> None:
    """Print one letter as a line of JSON: its row, its headers, its value."""
    print_json_line(
        letter_row(letter, replayed is not None)
        | {
            "replayed_at": replayed.time if replayed else None,
            "replayed_to": replayed.to if replayed else None,
            "headers": [[name, _json_bytes(content)] for name, content in letter.headers],
            "value": _json_bytes(value),
            "cut_from": letter.cut_from if cut else None,
        }
    )


def print_letter(letter: Letter, value: bytes | None, cut: bool, replayed: Replayed | None) -> None:
    """Print one letter for people.

    Args:
        letter: The letter.
        value: The message's bytes; None for a message without a value.
        cut: Whether `value` is only the beginning of the message.
        replayed: When and where the letter was replayed; None when it was not.
    """
    from streaming.dead_letters.letters import readable

    for name, text in _facts(letter).items():
        typer.echo(f"{name:<10} {printable(text)}")
    typer.echo("\nheaders")
    for name, content in letter.headers:
        typer.echo(f"  {printable(name)}: {printable(readable(content)) if content is not None else '(none)'}")
    if value is None:
        typer.echo("\nthe message has no value (null)")
    else:
        size = f"{len(value)} bytes"
        if cut:
            size = f"the first {len(value)} of {letter.cut_from} bytes; the rest no longer exists"
        lines = (printable(line) for line in readable(value).split("\n"))
        typer.echo(f"\nmessage ({size})\n" + "\n".join(lines))
    if replayed is not None:
        typer.echo(f"\nreplayed {_time(replayed.time)} as {replayed.to}")


def print_raw(letter: Letter, value: bytes | None, cut: bool) -> None:
    """Write the message's bytes to stdout; if they are not the whole message, say so on stderr."""
    sys.stdout.buffer.write(value or b"")
    sys.stdout.buffer.flush()
    if value is None:
        say("the message has no value (null)")
    elif cut:
        say(f"only the first {len(value)} of {letter.cut_from} bytes: the original is no longer on its topic")


def print_result(result: ReplayResult, dry_run: bool, as_json: bool) -> None:
    """Print what a replay did, or would do."""
    skipped = dict(result.skipped)
    if as_json:
        print_json_line({"replayed": result.replayed, "skipped": skipped, "dry_run": dry_run})
        return
    typer.echo(f"{result.replayed} {'would be ' if dry_run else ''}replayed, {sum(skipped.values())} skipped")
    for reason, count in result.skipped.most_common():
        typer.echo(f"  {count}: {reason}")


def printable(text: str) -> str:
    """Escape control characters, so that the terminal shows a hostile message and does not execute it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _facts(letter: Letter) -> dict[str, str]:
    from streaming.dead_letters.letters import readable

    source = letter.source
    origin = f"{source.topic}/{source.partition}:{letter.source_offset}" if source else "its headers do not say"
    return {
        "id": str(letter.id),
        "time": _time(letter.time),
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "attempts": f"{letter.attempts or 'unknown'}, the first {letter.fact('first.time') or 'unknown'}",
        "came from": f"{origin}, read by {letter.fact('consumer.group') or 'unknown'}",
        "key": readable(letter.key) if letter.key is not None else "(none)",
    }


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    """Print aligned columns. On a terminal the last column is cut at the right edge; in a pipe it is complete."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        typer.echo(text if edge is None or len(text) <= edge else text[: edge - 1] + "…")


def _json_bytes(value: bytes | None) -> Any:
    """Bytes as text when they are UTF-8, otherwise as `{"base64": ...}`."""
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _time(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")
