"""`sagelift serve experiments`: the REST interface as a process. It listens on loopback by default."""

from __future__ import annotations

import logging
import signal
import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from sagelift.commands.console import current_settings, say
from sagelift.commands.option_groups import expand_options

app = typer.Typer(help="HTTP interfaces.", no_args_is_help=True)


@dataclass(frozen=True)
class ServeOptions:
    """How the interface listens and where it sends exposures."""

    host: Annotated[str, typer.Option(help="Address to listen on. Put TLS in front of any address but loopback.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is any free port.")] = 8080
    exposures: Annotated[
        Literal["kafka", "database", "off"],
        typer.Option(help="Where exposures go: Kafka (topic events), the database, or nowhere."),
    ] = "kafka"
    rate: Annotated[float, typer.Option(min=0.1, help="Largest number of requests per second of one key.")] = 1_000.0


@app.callback()
def _serve() -> None:
    """HTTP interfaces."""


@app.command()
@expand_options
def experiments(options: ServeOptions) -> None:
    """Serve experiments, assignments, exposures and OpenFeature's remote protocol.

    Runs until SIGTERM or Ctrl-C.
    """
    from sagelift.experiment_server import serve_experiments
    from sagelift.services import Services

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # creating a database would log ten lines
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # by default, a signal ends the process without its clean-up
    with Services(current_settings()) as services:
        serve_experiments(services, options.host, options.port, exposures=options.exposures, rate=options.rate, say=say)
