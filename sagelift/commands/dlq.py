"""`sagelift dlq list | show | replay`: what could not be used, why, and sending it again once that is mended."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagelift.commands.console import current_settings, say

if TYPE_CHECKING:
    from sagelift.services import Services
    from streaming.dead_letters.causes import Cause
    from streaming.dead_letters.reader import DeadLetterReader, Letter, LetterId, Wanted
    from streaming.dead_letters.replay import Result

app = typer.Typer(help="Dead letters: what could not be used, why, and sending it again.", no_args_is_help=True)

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_NAMED_SKIPS = 20  # of each reason, on stderr

_Topic = Annotated[list[str] | None, typer.Option(help="catalog.updates or events; without it, both.")]
_Stage = Annotated[
    list[str] | None, typer.Option(help="Where it failed: fetch, decode, merge, image, embed or store; repeatable.")
]
_Error = Annotated[list[str] | None, typer.Option(help="The error's class: ContractError; repeatable.")]
_Key = Annotated[list[str] | None, typer.Option(help="Product id, or unit id of an event; repeatable.")]
_Since = Annotated[str | None, typer.Option(help="From this time on: 2026-05-04, 2026-05-04T12:30Z, or 2h (ago).")]
_Until = Annotated[str | None, typer.Option(help="Before this time, in the same forms.")]
_Match = Annotated[str, typer.Option(help="Text in the error's message, in any case.")]
_MaxAttempts = Annotated[int | None, typer.Option(min=1, help="Only what has failed at most so often.")]
_Id = Annotated[str, typer.Argument(metavar="ID", help="As `sagelift dlq list` prints it: catalog.updates.dlq/0:17.")]


@app.command("list")
def list_letters(
    topic: _Topic = None,
    stage: _Stage = None,
    error: _Error = None,
    key: _Key = None,
    since: _Since = None,
    until: _Until = None,
    match: _Match = "",
    max_attempts: _MaxAttempts = None,
    open_only: Annotated[bool, typer.Option("--open", help="Only what was not replayed yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    summary: Annotated[bool, typer.Option("--summary", help="Count by cause instead.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List dead letters, the newest first; or with --summary their causes, the most frequent first."""
    from streaming.dead_letters.causes import causes
    from streaming.dead_letters.replay import Ledger

    wanted = _wanted(stage, error, key, since, until, match, max_attempts)
    with _open(topic) as (services, reader):
        replayed = Ledger(services.kafka, reader) if open_only else None

        def meant(letter: Letter) -> bool:
            return wanted(letter) and (replayed is None or letter.id not in replayed)

        if summary:
            _print_causes(causes(reader.letters(meant, wanted.since))[:limit], as_json)
            return
        found = reader.newest(meant, limit, wanted.since)
        if replayed is None and found:
            replayed = Ledger(services.kafka, reader, of_letters_since=min(letter.time for letter in found))
    done = {letter.id for letter in found if replayed is not None and letter.id in replayed}
    if as_json:
        for letter in found:
            _print_json_line(row(letter, letter.id in done))
    else:
        _print_table(found, done)
    if len(found) == limit:
        say(f"the newest {limit}; --limit shows more, --summary the causes of all")


@app.command("show")
def show(
    id: _Id,
    raw: Annotated[
        bool, typer.Option("--raw", help="Write the message's bytes as they came, and nothing else.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one dead letter: why it failed, where it came from, all headers, the message."""
    from streaming.dead_letters.replay import find_replayed

    parsed = _parse_id(id)
    if raw and as_json:
        raise typer.BadParameter("choose --raw or --json")
    with _open(None) as (services, reader):
        letter = reader.get(parsed)
        whole = letter.value if letter.cut_from is None else reader.original(letter)
        replayed = None if raw else find_replayed(services.kafka, reader, letter)
    cut = letter.cut_from is not None and whole is None
    value = letter.value if cut else whole
    if raw:
        sys.stdout.buffer.write(value or b"")
        sys.stdout.buffer.flush()
        if value is None:
            say("the message has no value (null)")
        elif cut:
            say(f"only the first {len(value)} of {letter.cut_from} bytes: the original is no longer on its topic")
        raise typer.Exit(1 if cut else 0)
    if as_json:
        _print_json_line(
            row(letter, replayed is not None)
            | {
                "replayed_at": replayed.time if replayed else None,
                "replayed_to": replayed.to if replayed else None,
                "headers": [[name, _json_bytes(content)] for name, content in letter.headers],
                "value": _json_bytes(value),
                "cut_from": letter.cut_from if cut else None,
            }
        )
        return
    _print_letter(letter, value, cut)
    if replayed is not None:
        typer.echo(f"\nreplayed {_time(replayed.time)} as {replayed.to}")


@app.command("replay")
def replay(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Dead letters to replay; or say which by filters.")
    ] = None,
    topic: _Topic = None,
    stage: _Stage = None,
    error: _Error = None,
    key: _Key = None,
    since: _Since = None,
    until: _Until = None,
    match: _Match = "",
    max_attempts: _MaxAttempts = None,
    all_letters: Annotated[bool, typer.Option("--all", help="All that are there.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Replay at most so many, the oldest first.")] = None,
    rate: Annotated[float, typer.Option(help="Messages a second.")] = 100.0,
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send dead letters to the topic that they came from, each once. Exit code 1 when some could not be."""
    from sagelift.progress import Stages
    from streaming.dead_letters.replay import Ledger, plan, rehearse, replaying

    filters = any((topic, stage, error, key, since, until, match, max_attempts))
    if sum((bool(ids), filters, all_letters)) != 1:
        raise typer.BadParameter("say which: ids, filters (--stage image --since 2h ...), or --all; one of the three")
    if not rate > 0:
        raise typer.BadParameter(f"{rate:g} must be above 0 messages a second", param_hint="--rate")
    wanted = _wanted(stage, error, key, since, until, match, max_attempts)
    parsed = [_parse_id(id) for id in dict.fromkeys(ids or ())]
    named: dict[str, int] = {}
    with _open(topic) as (services, reader):
        for id in parsed:
            reader.check(id)  # all of them, before the first is sent
        letters = map(reader.get, parsed) if parsed else reader.letters(wanted, wanted.since)

        def say_skipped(letter: Letter, reason: str) -> None:
            _say_skipped(letter, reason, named)

        if dry_run:
            planned = plan(letters, reader.original, Ledger(services.kafka, reader), again=again, limit=limit)
            result = rehearse(planned, say_skipped)
        else:
            replication = services.settings.kafka.replication
            with (
                replaying(services.kafka, reader, rate=rate, replication=replication) as replayer,
                Stages().stage("replay", "Replay") as stage_shown,
            ):
                planned = plan(letters, reader.original, replayer.ledger, again=again, limit=limit)
                result = replayer.run(planned, lambda done: stage_shown.update(done, limit), say_skipped)
    _print_result(result, dry_run, as_json)
    raise typer.Exit(1 if _missed(result) else 0)


# ------------------------------------------------------------------------------------------------ what is meant


@contextmanager
def _open(topics: Sequence[str] | None) -> Iterator[tuple[Services, DeadLetterReader]]:
    from sagelift.services import Services
    from streaming.dead_letters.reader import SOURCES, DeadLetterReader

    for topic in topics or ():
        if topic not in SOURCES:
            raise typer.BadParameter(f"{topic!r} is none of {', '.join(SOURCES)}", param_hint="--topic")
    with Services(current_settings()) as services, DeadLetterReader(services.kafka, topics or SOURCES) as reader:
        yield services, reader


def _wanted(
    stage: Sequence[str] | None,
    error: Sequence[str] | None,
    key: Sequence[str] | None,
    since: str | None,
    until: str | None,
    match: str,
    max_attempts: int | None,
) -> Wanted:
    from streaming.dead_letters.reader import Wanted

    now = datetime.now(UTC)
    first, last = point_in_time(since, now, "--since"), point_in_time(until, now, "--until")
    if first is not None and last is not None and first >= last:
        raise typer.BadParameter(f"--since {since} is not before --until {until}")
    return Wanted(
        stages=stage or (),
        errors=error or (),
        keys=key or (),
        since=first,
        until=last,
        match=match,
        max_attempts=max_attempts,
    )


def point_in_time(text: str | None, now: datetime, option: str) -> datetime | None:
    """`2h`, `30m`, `7d` before now; or ISO 8601, in UTC where it states no zone."""
    if text is None:
        return None
    number, unit = text[:-1], text[-1:]
    try:
        if unit in _UNITS and number.isascii() and number.isdigit():
            return now - timedelta(**{_UNITS[unit]: int(number)})
        at = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"{text!r} is no time: write 2026-05-04, 2026-05-04T12:30Z, or how long ago: 30s, 15m, 2h, 7d, 1w",
            param_hint=option,
        ) from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _parse_id(text: str) -> LetterId:
    from streaming.dead_letters.reader import LetterId
    from streaming.errors import DeadLetterError

    try:
        return LetterId.parse(text)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="ID") from None


# ------------------------------------------------------------------------------------------------ what is printed


def row(letter: Letter, replayed: bool) -> dict[str, Any]:
    """A letter as one JSON object of `dlq list --json`."""
    from streaming.dead_letters.reader import readable, source_topic

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


def _print_table(letters: Sequence[Letter], replayed: Collection[LetterId]) -> None:
    from streaming.dead_letters.reader import readable

    if not letters:
        say("no dead letter is like that")
        return
    lines: list[tuple[str, ...]] = [("ID", "TIME (UTC)", "STAGE", "ERROR", "KEY", "TRIES", "REPLAYED", "MESSAGE")]
    for letter in letters:
        key, done = printable(readable(letter.key)), "yes" if letter.id in replayed else "no"
        facts = (letter.stage, letter.error, key[:40], str(letter.attempts or ""), done, letter.message)
        lines.append((str(letter.id), _time(letter.time), *map(printable, facts)))
    _print_columns(lines)


def _print_causes(found: Sequence[Cause], as_json: bool) -> None:
    if as_json:
        for cause in found:
            _print_json_line(
                {name: getattr(cause, name) for name in cause.__struct_fields__} | {"newest": str(cause.newest)}
            )
        return
    if not found:
        say("no dead letter is like that")
        return
    lines = [("LETTERS", "TOPIC", "STAGE", "ERROR", "FIRST (UTC)", "LAST (UTC)", "NEWEST", "MESSAGE")]
    for cause in found:
        where = (cause.topic, printable(cause.stage), printable(cause.error))
        times = (_time(cause.first), _time(cause.last))
        lines.append((str(cause.letters), *where, *times, str(cause.newest), printable(cause.message)))
    _print_columns(lines)


def _print_columns(lines: Sequence[Sequence[str]]) -> None:
    """Aligned; on a terminal the last column is cut at the right edge, into a pipe it goes whole."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        typer.echo(text if edge is None or len(text) <= edge else text[: edge - 1] + "…")


def _print_letter(letter: Letter, value: bytes | None, cut: bool) -> None:
    from streaming.dead_letters.reader import readable

    source = letter.source
    came = f"{source.topic}/{source.partition}:{letter.source_offset}" if source else "its headers do not say"
    about = {
        "id": str(letter.id),
        "time": _time(letter.time),
        "stage": letter.stage,
        "error": letter.error,
        "message": letter.message,
        "attempts": f"{letter.attempts or 'unknown'}, the first {letter.fact('first.time') or 'unknown'}",
        "came from": f"{came}, read by {letter.fact('consumer.group') or 'unknown'}",
        "key": readable(letter.key) if letter.key is not None else "(none)",
    }
    for name, text in about.items():
        typer.echo(f"{name:<10} {printable(text)}")
    typer.echo("\nheaders")
    for name, content in letter.headers:
        typer.echo(f"  {printable(name)}: {printable(readable(content)) if content is not None else '(none)'}")
    if value is None:
        typer.echo("\nthe message has no value (null)")
        return
    size = (
        f"the first {len(value)} of {letter.cut_from} bytes; the rest is no longer there"
        if cut
        else f"{len(value)} bytes"
    )
    text = readable(value)
    typer.echo(f"\nmessage ({size})\n" + "\n".join(printable(line) for line in text.split("\n")))


def _print_result(result: Result, dry_run: bool, as_json: bool) -> None:
    skipped = dict(result.skipped)
    if as_json:
        _print_json_line({"replayed": result.replayed, "skipped": skipped, "dry_run": dry_run})
        return
    typer.echo(f"{result.replayed} {'would be ' if dry_run else ''}replayed, {sum(skipped.values())} skipped")
    for reason, count in result.skipped.most_common():
        typer.echo(f"  {count}: {reason}")


def _say_skipped(letter: Letter, reason: str, named: dict[str, int]) -> None:
    from streaming.dead_letters.replay import ALREADY

    named[reason] = named.get(reason, 0) + 1
    if reason != ALREADY and named[reason] <= _NAMED_SKIPS:
        say(f"{letter.id} is skipped: {reason}")


def _missed(result: Result) -> int:
    """Letters that were meant to be replayed and could not be; those of an earlier replay are done."""
    from streaming.dead_letters.replay import ALREADY

    return sum(count for reason, count in result.skipped.items() if reason != ALREADY)


def printable(text: str) -> str:
    """Text that does nothing to a terminal: what a poisoned message holds is shown, not obeyed."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _json_bytes(value: bytes | None) -> Any:
    """Bytes as text when they are UTF-8, else `{"base64": ...}`."""
    import base64

    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def _time(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _print_json_line(value: Any) -> None:
    import msgspec

    typer.echo(msgspec.json.encode(value).decode())
