"""The process behind `sagelift serve experiments`: assignments, API keys and exposures over HTTP."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Literal

import uvicorn

from experiments.api_keys import ApiKeys, KeyRing
from experiments.assigner import Assigner
from experiments.exposures import ExposureLogger
from experiments.notifications import ChangeListener
from experiments.refresh import Refresher
from experiments.rest.app import create_app
from experiments.rest.limits import Limits
from sagelift.services import Services

if TYPE_CHECKING:
    from experiments.privacy import Tokens
    from experiments.store import ExperimentStore

KEYS_REFRESH_S = 5.0
"""Seconds for which a key that another process revoked may still be accepted when no notification arrives."""

ExposureTarget = Literal["kafka", "database", "off"]

log = logging.getLogger(__name__)


def serve_experiments(
    services: Services,
    host: str,
    port: int,
    *,
    exposures: ExposureTarget,
    rate: float,
    say: Callable[[str], object],
) -> None:
    """Serve the REST interface until a signal or an error. Queued exposures are sent before it returns or raises.

    Args:
        services: Parts of the installation.
        host: Address to listen on.
        port: Port to listen on; 0 is any free port.
        exposures: Where exposures go.
        rate: Largest number of requests per second of one key.
        say: Called with each message for the user: the URL once the port is open, and unsent exposures at the end.
    """
    store = services.experiments
    with ExitStack() as stack:
        logger = _exposure_logger(services, exposures, stack)
        if logger is not None:
            stack.callback(_close, logger, say)
        assigner = Assigner(store.load, logger, cache=services.settings.state / "experiments.json")
        tokens = services.unit_tokens()
        key_ring = KeyRing(ApiKeys(store.engine).all)
        with _kept_current(store, assigner, key_ring, tokens):
            limits = Limits(rate=rate, burst=max(1, round(2 * rate)))
            app = create_app(store, assigner, key_ring, tokens=tokens, limits=limits)
            config = uvicorn.Config(app, host=host, port=port, log_level="warning", server_header=False)
            with config.bind_socket() as socket:
                say(f"experiments on http://{host}:{socket.getsockname()[1]} (exposures: {exposures})")
                uvicorn.Server(config).run([socket])


@contextmanager
def _kept_current(
    store: ExperimentStore, assigner: Assigner, key_ring: KeyRing, tokens: Tokens | None
) -> Iterator[None]:
    """Keep experiments, keys and tokens current: at once after a notification, otherwise from time to time."""
    keys = Refresher(lambda: _refresh(key_ring), KEYS_REFRESH_S)
    assigner.start()

    def changed() -> None:
        assigner.wake()
        keys.wake()
        if tokens is not None:
            tokens.forget()  # another process may have erased a user

    listener = ChangeListener(store.engine, changed)
    keys.loaded.wait(KEYS_REFRESH_S)
    try:
        yield
    finally:
        listener.close()
        keys.close(KEYS_REFRESH_S)
        assigner.close()


def _refresh(key_ring: KeyRing) -> bool:
    try:
        key_ring.refresh()
    except Exception:  # every database driver has its own error for an unreachable server
        log.exception("the API keys cannot be read; the keys read before remain valid")
        return False
    return True


def _exposure_logger(services: Services, target: ExposureTarget, stack: ExitStack) -> ExposureLogger | None:
    if target == "kafka":
        from streaming.events.exposures import ExposureSender
        from streaming.kafka.producers import EventPublisher

        publisher = stack.enter_context(EventPublisher(services.kafka))
        return ExposureLogger(ExposureSender(publisher).send)
    if target == "database":
        return ExposureLogger(services.experiments.send_exposure)
    return None


def _close(logger: ExposureLogger, say: Callable[[str], object]) -> None:
    if unsent := logger.close():
        say(f"{unsent} exposures could not be sent")
