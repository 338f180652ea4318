"""`sagelift stream`: the consumers, and how they are."""

from __future__ import annotations

import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say

if TYPE_CHECKING:
    from sagelift.observability.stream_status import StreamStatus

app = typer.Typer(help="The streaming consumers: run one, see how they are.", no_args_is_help=True)

_LogFormat = Annotated[
    str | None,
    typer.Option(
        "--log-format",
        metavar="FORMAT",
        help="text, json, or auto: text on a terminal, JSON elsewhere. Without it, the setting log_format.",
    ),
]


@app.command()
def catalog(log_format: _LogFormat = None) -> None:
    """Consume catalogue updates: features, embeddings, product.embeddings. Until SIGTERM or Ctrl-C.

    Exit code 4: most messages cannot be used.
    """
    _run("catalog", log_format)


@app.command()
def events(log_format: _LogFormat = None) -> None:
    """Consume shop events into the experiment database. Until SIGTERM or Ctrl-C.

    Exit code 4: most messages cannot be used.
    """
    _run("events", log_format)


class SchemaLanguage(StrEnum):
    """In what a contract is described."""

    JSON_SCHEMA = "json_schema"
    AVRO = "avro"


@app.command()
def schema(
    contract: Annotated[
        str | None, typer.Argument(help="Its name; without it, all names with their topics are listed.")
    ] = None,
    language: Annotated[
        SchemaLanguage, typer.Option("--format", help="What to print it in.")
    ] = SchemaLanguage.JSON_SCHEMA,
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write all, in both, into this folder (docs/schemas).")
    ] = None,
) -> None:
    """Print what the messages on a topic must be, as JSON Schema or Avro."""
    from streaming.kafka.schema_registry.schemas import CONTRACTS, avro_schemas, json_schemas, write_schemas

    if write is not None:
        for path in write_schemas(write):
            typer.echo(path)
        return
    if contract is None:
        for name in json_schemas():
            typer.echo(f"{name:20}{CONTRACTS[name].topic if name in CONTRACTS else 'headers of <topic>.dlq'}")
        return
    known = avro_schemas() if language is SchemaLanguage.AVRO else json_schemas()
    if contract not in known:
        raise typer.BadParameter(f"{contract!r} has no {language.value}; there is {', '.join(known)}")
    print_json(known[contract])


@app.command()
def register() -> None:
    """Register the contracts' schemas with the schema registry of the settings, for producers that may only read.

    Whoever first writes a contract's message does it too.
    """
    from sagelift.errors import SettingsError
    from sagelift.services import Services

    with Services(current_settings()) as services:
        if services.wire is None:
            raise SettingsError("no schema registry is known: set SAGELIFT_SCHEMA_REGISTRY__URL")
        for subject, schema_id in services.wire.register().items():
            typer.echo(f"{schema_id:6}  {subject}")


def _run(name: str, log_format: str | None) -> None:
    from sagelift.settings import load_settings
    from sagelift.workers import POISONED, run_worker
    from streaming.errors import PoisonRateError

    settings = load_settings(**({} if log_format is None else {"log_format": log_format}))
    try:
        run_worker(name, settings)
    except PoisonRateError as error:
        say(f"sagelift: {error}")
        raise typer.Exit(POISONED) from None


@app.command()
def status(
    once: Annotated[bool, typer.Option("--once", help="Look once and end; so it is when piped.")] = False,
    every: Annotated[float, typer.Option(min=0.2, help="Seconds between two looks; rates are of that time.")] = 2.0,
    url: Annotated[
        list[str] | None, typer.Option(help="A consumer elsewhere, as http://host:port; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the consumers: state, lag, rates, freshness, retries, dead letters. Exit code 1: not all is well.

    Live until Ctrl-C on a terminal. The consumers of this machine are found in the state folder.
    """
    from sagelift.observability.stream_status import ask_broker, fetch, look, render
    from sagelift.observability.stream_status import status as understood

    settings, urls = current_settings(), url or []
    before = look(settings, urls, fetch)

    def found() -> StreamStatus:
        nonlocal before
        topics, now = ask_broker(settings), look(settings, urls, fetch)
        result = understood(topics, before, now)
        before = now
        return result

    if once or as_json or not sys.stdout.isatty():
        if before:
            time.sleep(every)
        result = found()
        if as_json:
            print_json(_plain(result))
        else:
            from rich.console import Console

            Console(width=None if sys.stdout.isatty() else 200).print(render(result))
        raise typer.Exit(0 if result.healthy else 1)

    from rich.live import Live

    result = found()
    with Live(render(result), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(every)
                result = found()
                live.update(render(result), refresh=True)
        except KeyboardInterrupt:
            pass
    raise typer.Exit(0 if result.healthy else 1)


def _plain(found: StreamStatus) -> dict[str, Any]:
    return {"healthy": found.healthy, "topics": found.topics, "workers": found.workers, "problems": found.problems}
