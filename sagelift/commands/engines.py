"""Where the jobs over the whole catalogue are worked on: in this process, or on Spark."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.settings import Settings

if TYPE_CHECKING:
    from feature_repo.jobs.spark import SparkEngine
    from sagelift.services import Services
    from streaming.release.reembed import Elsewhere, Parts


class EngineName(StrEnum):
    """What works on the shards."""

    LOCAL = "local"
    SPARK = "spark"


EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="What works on the shards: this process, or Spark's executors.")
]
MasterOption = Annotated[
    str | None,
    typer.Option(
        help="Spark's master, such as local[4] or spark://host:7077. Without it that of spark-submit, or local[*]."
    ),
]


@contextmanager
def spark_engine(engine: EngineName, master: str | None) -> Iterator[SparkEngine | None]:
    """The engine over a Spark session that ends with the block; None for this process.

    Raises:
        BadParameter: a master without Spark.
        SparkError: Spark is not installed or cannot be started.
    """
    if engine is EngineName.LOCAL:
        if master is not None:
            raise typer.BadParameter("--master is Spark's: add --engine spark")
        yield None
        return
    from feature_repo.jobs.spark import SparkEngine, spark_session

    with spark_session(master) as session:
        yield SparkEngine(session)


@contextmanager
def embedding_elsewhere(services: Services, engine: EngineName, master: str | None) -> Iterator[Elsewhere | None]:
    """Who embeds a release's catalogue; None for this process.

    Raises:
        StoreStateError: the executors cannot reach the online store.
    """
    from streaming.release.reembed import Elsewhere

    with spark_engine(engine, master) as spark:
        if spark is None:
            yield None
            return
        spark.check_store(services.features.feast.config)
        yield Elsewhere(spark, partial(open_parts, services.settings))


def open_parts(settings: Settings, version: str) -> Parts:
    """What an executor embeds with: the same store, Triton and Kafka, reached by the same settings."""
    from inference.client import ItemEmbedder
    from sagelift.services import Services
    from streaming.release.reembed import Parts
    from streaming.vectors.embedding_topic import EmbeddingPublisher

    services = Services(settings)  # open as long as the executor's process is
    embedder = ItemEmbedder(services.triton, settings.model_repository, version=version)
    return Parts(services.features, embedder, EmbeddingPublisher(services.producer()))
