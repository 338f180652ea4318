"""`sagelift stream`: run a consumer, show the consumers, print and register the schemas of the messages."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from sagelift.commands.console import AsJson, current_settings, print_json, say

if TYPE_CHECKING:
    from sagelift.observability.stream_status import StreamStatus
    from sagelift.settings import Settings

app = typer.Typer(help="Streaming consumers: run one, show their status, print message schemas.", no_args_is_help=True)

_LogFormat = Annotated[
    Literal["auto", "text", "json"] | None,
    typer.Option(
        "--log-format",
        help="Format of the log: text, json, or auto: text on a terminal and JSON elsewhere. Default: the setting "
        "log_format.",
    ),
]


@app.command()
def catalog(log_format: _LogFormat = None) -> None:
    """Consume catalogue updates: write features, compute embeddings, publish them.

    Runs until SIGTERM or Ctrl-C. Exit code 4 when most messages cannot be used.
    """
    _run("catalog", log_format)


@app.command()
def events(log_format: _LogFormat = None) -> None:
    """Consume shop events into the experiment database.

    Runs until SIGTERM or Ctrl-C. Exit code 4 when most messages cannot be used.
    """
    _run("events", log_format)


@app.command()
def schema(
    contract: Annotated[
        str | None, typer.Argument(help="Name of the contract. Without it, list all names with their topics.")
    ] = None,
    language: Annotated[
        Literal["json_schema", "avro"], typer.Option("--format", help="Schema language to print.")
    ] = "json_schema",
    write: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Write all schemas, in both languages, into this folder.")
    ] = None,
) -> None:
    """Print the schema of the messages on a topic, as JSON Schema or Avro."""
    from streaming.kafka.schema_registry.schemas import CONTRACTS, avro_schemas, json_schemas, write_schemas

    if write is not None:
        for path in write_schemas(write):
            typer.echo(path)
        return
    if contract is None:
        for name in json_schemas():
            typer.echo(f"{name:20}{CONTRACTS[name].topic if name in CONTRACTS else 'headers of <topic>.dlq'}")
        return
    schemas = avro_schemas() if language == "avro" else json_schemas()
    if contract not in schemas:
        raise typer.BadParameter(f"{contract!r} has no schema in {language}; choose one of {', '.join(schemas)}")
    print_json(schemas[contract])


@app.command()
def register() -> None:
    """Register the schemas of all contracts with the schema registry of the settings.

    For producers that may only read from the registry. The first writer of a contract registers its schema too.
    """
    from sagelift.errors import SettingsError
    from sagelift.services import Services

    with Services(current_settings()) as services:
        codec = services.registry_codec
        if codec is None:
            raise SettingsError("schema_registry.url is empty; set SAGELIFT_SCHEMA_REGISTRY__URL")
        for subject, schema_id in codec.register().items():
            typer.echo(f"{schema_id:6}  {subject}")


@app.command()
def status(
    once: Annotated[
        bool, typer.Option("--once", help="Print the status once and exit. Always the case when the output is piped.")
    ] = False,
    every: Annotated[
        float, typer.Option(min=0.2, help="Seconds between two updates. Rates are measured over this time.")
    ] = 2.0,
    url: Annotated[
        list[str] | None, typer.Option(help="A consumer on another machine, as http://host:port; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the consumers: state, lag, rates, freshness, retries, dead letters.

    Updates until Ctrl-C on a terminal. The state folder lists the consumers of this machine. Exit code 1 when a
    consumer is not healthy.
    """
    live = not once and not as_json and sys.stdout.isatty()
    readings = statuses(current_settings(), url or [], every, at_once=live)
    if live:
        result = _show_live(readings)
    else:
        result = next(readings)
        _print_once(result, as_json)
    raise typer.Exit(0 if result.healthy else 1)


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


def statuses(
    settings: Settings,
    urls: list[str],
    every_s: float,
    *,
    at_once: bool,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[StreamStatus]:
    """Yield the status of the consumers, again and again.

    Args:
        settings: Settings of the installation.
        urls: Addresses of consumers that the state folder does not know.
        every_s: Seconds between two statuses.
        at_once: Whether to yield the first status at once, without rates. Otherwise it is yielded after `every_s`,
            because rates need two readings; without a known consumer it is yielded at once.
        sleep: Waits for some seconds.
    """
    from sagelift.observability.scrape import fetch
    from sagelift.observability.stream_status import ask_broker, collect, summarize

    before = collect(settings, urls, fetch)
    wait = bool(before) and not at_once
    while True:
        if wait:
            sleep(every_s)
        topics, now = ask_broker(settings), collect(settings, urls, fetch)
        yield summarize(topics, before, now)
        before, wait = now, True


def _print_once(status: StreamStatus, as_json: bool) -> None:
    from rich.console import Console

    from sagelift.observability.stream_table import render

    if as_json:
        print_json(_plain(status))
    else:
        Console(width=None if sys.stdout.isatty() else 200).print(render(status))


def _show_live(readings: Iterator[StreamStatus]) -> StreamStatus:
    """Show the statuses on the terminal until Ctrl-C; return the last one."""
    from rich.live import Live

    from sagelift.observability.stream_table import render

    status = next(readings)
    with Live(render(status), auto_refresh=False) as live:
        try:
            for status in readings:
                live.update(render(status), refresh=True)
        except KeyboardInterrupt:
            pass
    return status


def _plain(status: StreamStatus) -> dict[str, Any]:
    return {
        "healthy": status.healthy,
        "topics": status.topics,
        "workers": status.workers,
        "problems": status.problems,
    }
