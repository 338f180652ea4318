"""`sagelift dlq list | show | replay`: dead letters, why they failed, and how to send them again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from sagelift.commands import dlq_output
from sagelift.commands.console import current_settings, say
from sagelift.commands.option_groups import expand_options
from sagelift.commands.times import parse_time

if TYPE_CHECKING:
    from sagelift.services import Services
    from streaming.dead_letters.letters import Letter, LetterFilter, LetterId
    from streaming.dead_letters.reader import DeadLetterReader
    from streaming.dead_letters.replay import ReplayResult
    from streaming.dead_letters.replay_plan import SkipReason

app = typer.Typer(
    help="Dead letters: messages that could not be used, why, and how to resend them.", no_args_is_help=True
)

_NAMED_SKIPS = 20  # of each reason, on stderr

_Id = Annotated[
    str, typer.Argument(metavar="ID", help="Id that `sagelift dlq list` prints, such as catalog.updates.dlq/0:17.")
]
_AsJsonLines = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


@dataclass(frozen=True)
class LetterFilters:
    """Filters that select letters. Without a filter, all letters are selected."""

    panel: ClassVar[str] = "Filters"

    topic: Annotated[
        list[str] | None, typer.Option(help="Topic: catalog.updates or events; repeatable. Default: both.")
    ] = None
    stage: Annotated[
        list[str] | None,
        typer.Option(help="Stage that failed: fetch, decode, merge, image, embed or store; repeatable."),
    ] = None
    error: Annotated[list[str] | None, typer.Option(help="Class of the error, such as ContractError; repeatable.")] = (
        None
    )
    key: Annotated[list[str] | None, typer.Option(help="Product id, or unit id of an event; repeatable.")] = None
    since: Annotated[
        str | None, typer.Option(help="First time: 2026-05-04, 2026-05-04T12:30Z, or 2h (two hours ago).")
    ] = None
    until: Annotated[str | None, typer.Option(help="End of the time, exclusive, in the same forms.")] = None
    match: Annotated[str, typer.Option(help="Text in the error message, in upper or lower case.")] = ""
    max_attempts: Annotated[
        int | None, typer.Option(min=1, help="Only letters that failed at most this many times.")
    ] = None

    def __bool__(self) -> bool:
        return any(astuple(self))

    def predicate(self) -> LetterFilter:
        """The filters as a predicate over letters.

        Raises:
            typer.BadParameter: A time cannot be read, or `since` is not before `until`.
        """
        from streaming.dead_letters.letters import LetterFilter

        now = datetime.now(UTC)
        since = _time(self.since, "--since", now)
        until = _time(self.until, "--until", now)
        if since is not None and until is not None and since >= until:
            raise typer.BadParameter(f"--since {self.since} is not before --until {self.until}")
        return LetterFilter(
            stages=self.stage or (),
            errors=self.error or (),
            keys=self.key or (),
            since=since,
            until=until,
            match=self.match,
            max_attempts=self.max_attempts,
        )


@dataclass(frozen=True)
class ReplayOptions:
    """How letters are replayed."""

    all_letters: Annotated[bool, typer.Option("--all", help="Replay all dead letters.")] = False
    limit: Annotated[
        int | None, typer.Option(min=1, help="Largest number of letters to replay, oldest first. Default: no limit.")
    ] = None
    rate: Annotated[float, typer.Option(help="Messages per second.")] = 100.0
    again: Annotated[bool, typer.Option("--again", help="Also replay letters that were replayed before.")] = False
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be done, and change nothing.")] = False


@app.command("list")
@expand_options
def list_letters(
    filters: LetterFilters,
    open_only: Annotated[bool, typer.Option("--open", help="Only letters that were not replayed yet.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of rows.")] = 50,
    summary: Annotated[bool, typer.Option("--summary", help="Count the letters by cause.")] = False,
    as_json: _AsJsonLines = False,
) -> None:
    """List dead letters, newest first. With --summary: their causes, most frequent first."""
    from streaming.dead_letters.causes import group_by_cause
    from streaming.dead_letters.replay_log import ReplayLog

    matches = filters.predicate()
    with _open_letters(filters.topic) as (services, reader):
        log = ReplayLog(services.kafka, reader) if open_only else None

        def selected(letter: Letter) -> bool:
            return matches(letter) and (log is None or letter.id not in log)

        if summary:
            return dlq_output.print_causes(group_by_cause(reader.letters(selected, matches.since))[:limit], as_json)
        letters = reader.newest(selected, limit, matches.since)
        if log is None and letters:
            oldest = min(letter.time for letter in letters)
            log = ReplayLog(services.kafka, reader, of_letters_since=oldest)
    replayed = {letter.id for letter in letters if log is not None and letter.id in log}
    dlq_output.print_letters(letters, replayed, as_json)
    if len(letters) == limit:
        say(f"these are the newest {limit}; --limit shows more, --summary shows the causes of all")


@app.command("show")
def show(
    id: _Id,
    raw: Annotated[bool, typer.Option("--raw", help="Write only the message's bytes, unchanged.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show one dead letter: why it failed, where it came from, all headers, the message.

    Exit code 1 with --raw when only the beginning of the message still exists.
    """
    from streaming.dead_letters.replay_log import find_replayed

    letter_id = _parse_id(id)
    if raw and as_json:
        raise typer.BadParameter("choose --raw or --json")
    with _open_letters(None) as (services, reader):
        letter = reader.get(letter_id)
        original = letter.value if letter.cut_from is None else reader.original(letter)
        replayed = None if raw else find_replayed(services.kafka, reader, letter)
    cut = letter.cut_from is not None and original is None
    value = letter.value if cut else original
    if raw:
        dlq_output.print_raw(letter, value, cut)
        raise typer.Exit(1 if cut else 0)
    output = dlq_output.print_letter_json if as_json else dlq_output.print_letter
    output(letter, value, cut, replayed)


@app.command("replay")
@expand_options
def replay(
    filters: LetterFilters,
    options: ReplayOptions,
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of letters to replay. Or use filters, or --all.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Send dead letters back to the topic that they came from, each once.

    Exit code 1 when some could not be sent.
    """
    if sum((bool(ids), bool(filters), options.all_letters)) != 1:
        raise typer.BadParameter(
            "say which letters: ids, filters (--stage image --since 2h ...), or --all; exactly one of the three"
        )
    if not options.rate > 0:
        raise typer.BadParameter(f"{options.rate:g} must be above 0 messages per second", param_hint="--rate")
    matches = filters.predicate()
    letter_ids = [_parse_id(id) for id in dict.fromkeys(ids or ())]
    with _open_letters(filters.topic) as (services, reader):
        for letter_id in letter_ids:
            reader.check(letter_id)  # all of them, before the first is sent
        letters = map(reader.get, letter_ids) if letter_ids else reader.letters(matches, matches.since)
        result = (
            _dry_run(services, reader, letters, options)
            if options.dry_run
            else _replay(services, reader, letters, options)
        )
    dlq_output.print_result(result, options.dry_run, as_json)
    raise typer.Exit(1 if _failed(result) else 0)


def _dry_run(
    services: Services, reader: DeadLetterReader, letters: Iterator[Letter], options: ReplayOptions
) -> ReplayResult:
    from streaming.dead_letters.replay import dry_run
    from streaming.dead_letters.replay_log import ReplayLog
    from streaming.dead_letters.replay_plan import plan

    log = ReplayLog(services.kafka, reader)
    planned = plan(letters, reader.original, log, again=options.again, limit=options.limit)
    return dry_run(planned, SkipReport())


def _replay(
    services: Services, reader: DeadLetterReader, letters: Iterator[Letter], options: ReplayOptions
) -> ReplayResult:
    from sagelift.progress import Stages
    from streaming.dead_letters.replay import replaying
    from streaming.dead_letters.replay_plan import plan

    replication = services.settings.kafka.replication
    with (
        replaying(services.kafka, reader, rate=options.rate, replication=replication) as replayer,
        Stages().stage("replay", "Replay") as stage,
    ):
        planned = plan(letters, reader.original, replayer.log, again=options.again, limit=options.limit)
        return replayer.run(planned, lambda done: stage.update(done, options.limit), SkipReport())


class SkipReport:
    """Prints skipped letters on stderr, at most 20 for each reason. Letters of an earlier replay are not printed."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def __call__(self, letter: Letter, reason: SkipReason) -> None:
        """Report one skipped letter."""
        from streaming.dead_letters.replay_plan import SkipReason

        self._counts[reason] = self._counts.get(reason, 0) + 1
        if reason != SkipReason.ALREADY_REPLAYED and self._counts[reason] <= _NAMED_SKIPS:
            say(f"{letter.id} is skipped: {reason}")


def _failed(result: ReplayResult) -> int:
    """Number of letters that could not be replayed, without those of an earlier replay."""
    from streaming.dead_letters.replay_plan import SkipReason

    return sum(count for reason, count in result.skipped.items() if reason != SkipReason.ALREADY_REPLAYED)


@contextmanager
def _open_letters(topics: Sequence[str] | None) -> Iterator[tuple[Services, DeadLetterReader]]:
    from sagelift.services import Services
    from streaming.dead_letters.letters import SOURCES
    from streaming.dead_letters.reader import DeadLetterReader

    for topic in topics or ():
        if topic not in SOURCES:
            raise typer.BadParameter(f"{topic!r} is none of {', '.join(SOURCES)}", param_hint="--topic")
    with Services(current_settings()) as services, DeadLetterReader(services.kafka, topics or SOURCES) as reader:
        yield services, reader


def _time(text: str | None, option: str, now: datetime) -> datetime | None:
    return None if text is None else parse_time(text, option, naive_is_utc=True, now=now)


def _parse_id(text: str) -> LetterId:
    from streaming.dead_letters.letters import LetterId
    from streaming.errors import DeadLetterError

    try:
        return LetterId.parse(text)
    except DeadLetterError as error:
        raise typer.BadParameter(str(error), param_hint="ID") from None
