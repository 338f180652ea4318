"""`sagelift serve experiments`: the REST interface as a process. Listens on loopback unless it is told otherwise."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import current_settings, say

if TYPE_CHECKING:
    from experiments.client import Assigner
    from experiments.events import EventRow
    from experiments.keys import KeyRing
    from experiments.privacy import Tokens
    from experiments.refresh import Refresher
    from experiments.store import ExperimentStore
    from sagelift.services import Services

app = typer.Typer(help="Interfaces over HTTP.", no_args_is_help=True)

KEYS_REFRESH_S = 5.0  # how long a key that was revoked elsewhere may be used where that was not heard
log = logging.getLogger(__name__)


@app.callback()
def _serve() -> None:
    """Interfaces over HTTP."""


@app.command()
def experiments(
    host: Annotated[
        str, typer.Option(help="Address to listen on; put TLS in front of any but loopback.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
    exposures: Annotated[
        str, typer.Option(help="Where exposures go: kafka (topic events), database, or off.")
    ] = "kafka",
    rate: Annotated[float, typer.Option(min=0.1, help="Requests per second of one key.")] = 1_000.0,
) -> None:
    """Serve experiments, decisions, exposures and OpenFeature's remote protocol. Until SIGTERM or Ctrl-C."""
    import uvicorn

    from experiments.changes import ChangeListener
    from experiments.client import Assigner
    from experiments.exposures import ExposureLogger
    from experiments.keys import ApiKeys, KeyRing
    from experiments.refresh import Refresher
    from experiments.rest.app import create_app
    from experiments.rest.limits import Limits
    from sagelift.commands.experiment.units import unit_tokens
    from sagelift.services import Services

    if exposures not in ("kafka", "database", "off"):
        raise typer.BadParameter(f"{exposures!r} is none of kafka, database, off", param_hint="--exposures")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)  # a new database takes ten lines to be made
    with Services(current_settings()) as services, ExitStack() as stack:
        store = services.experiments
        logger = None
        if exposures == "kafka":
            logger = ExposureLogger(_to_kafka(services, stack))
        elif exposures == "database":
            logger = ExposureLogger(_to_database(store))
        assigner = Assigner(store.load, logger, cache=services.settings.state / "experiments.json")
        tokens = unit_tokens(services.settings, store.engine)
        ring = KeyRing(ApiKeys(store.engine).all)
        keys = Refresher(lambda: _refresh(ring), KEYS_REFRESH_S)
        assigner.start()
        listener = ChangeListener(store.engine, lambda: _changed(assigner, keys, tokens))
        keys.loaded.wait(KEYS_REFRESH_S)
        limits = Limits(rate=rate, burst=max(1, round(2 * rate)))
        config = uvicorn.Config(
            create_app(store, assigner, ring, tokens=tokens, limits=limits),
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
        )
        socket = config.bind_socket()
        say(f"experiments on http://{host}:{socket.getsockname()[1]} (exposures: {exposures})")
        try:
            uvicorn.Server(config).run([socket])
        finally:
            listener.close()
            keys.close(KEYS_REFRESH_S)
            assigner.close()
            if logger is not None and (unsent := logger.close()):
                say(f"{unsent} exposures could not be sent")


def _changed(assigner: Assigner, keys: Refresher, tokens: Tokens | None) -> None:
    assigner.wake()
    keys.wake()
    if tokens is not None:
        tokens.forget()  # another process may have erased a user


def _refresh(ring: KeyRing) -> bool:
    try:
        ring.refresh()
    except Exception:  # a database that is away has many names; the keys that were good stay
        log.exception("the API keys cannot be read; those that were good stay so")
        return False
    return True


def _to_kafka(services: Services, stack: ExitStack) -> Callable[[EventRow], Future[None]]:
    from streaming.events.sink import to_event
    from streaming.kafka.producers import EventPublisher

    publisher = stack.enter_context(EventPublisher(services.kafka))

    def send(row: EventRow) -> Future[None]:
        return publisher.deliver(to_event(row))

    return send


def _to_database(store: ExperimentStore) -> Callable[[EventRow], None]:
    def send(row: EventRow) -> None:
        if rejected := store.write_events([row]).rejected:
            raise ValueError(rejected[0].reason)

    return send
