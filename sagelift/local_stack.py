"""The local stack as the settings describe it: its servers and its consumers."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from functools import partial

from sagelift.observability.triton_probe import KnownAnswerProbe, answers_correctly
from sagelift.services import Services
from sagelift.settings import Settings
from sagelift.stack.stack import LocalStack, StackOptions
from sagelift.stack.worker import WorkerSpec
from sagelift.workers import POISONED, WORKERS, WRONG_SETTINGS


def stack_options(settings: Settings) -> StackOptions:
    """The options of the local stack. A service that the settings give by address is not started.

    The checks of external services use the settings' users and certificates, which the stack does not know.
    """
    return StackOptions(
        kafka_answers=lambda _: _kafka_answers(settings),
        triton_answers=lambda _: _triton_answers(settings),
        kafka_bootstrap=settings.kafka.bootstrap_servers or None,
        kafka_port=settings.kafka.port or None,
        triton_url=settings.triton.url or None,
        triton_port=settings.triton.port or None,
        model_repository=settings.model_repository,
        triton_probe=KnownAnswerProbe(partial(answers_correctly, repository=settings.model_repository)),
    )


def worker_specs(stack: LocalStack, settings: Settings) -> Sequence[WorkerSpec]:
    """The consumers as child processes of the local stack.

    Args:
        stack: The running stack, whose addresses the consumers use.
        settings: Settings that the consumers inherit.
    """
    environment = _worker_environment(stack, settings)
    first_port = settings.metrics.port
    specs = []
    for number, name in enumerate(WORKERS):
        # Each consumer needs its own port.
        port = {"SAGELIFT_METRICS__PORT": str(first_port + number)} if first_port else {}
        command = [sys.executable, "-m", "sagelift", "stream", name]
        specs.append(WorkerSpec(name, command, environment | port, final=(POISONED, WRONG_SETTINGS)))
    return specs


def _worker_environment(stack: LocalStack, settings: Settings) -> dict[str, str]:
    return {
        **settings.environment(),
        "SAGELIFT_STATE_DIR": str(settings.state),
        "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS": stack.kafka_bootstrap,
        "SAGELIFT_TRITON__URL": stack.triton_grpc,
        "SAGELIFT_TRITON__MODEL_REPOSITORY": str(stack.model_repository),
        # Set here, because a consumer that gets an address cannot know that the broker is the local one.
        "SAGELIFT_IMAGES__FOLDERS": os.pathsep.join(map(str, settings.image_folders)),
        # One thread each: on a small machine the consumers must not take the cores from Triton.
        "OMP_NUM_THREADS": "1",
    }


def _kafka_answers(settings: Settings) -> bool:
    with Services(settings) as services:
        services.kafka.check()  # raises BrokerError with the reason
    return True


def _triton_answers(settings: Settings) -> bool:
    with Services(settings) as services:
        return services.triton.server_ready()
