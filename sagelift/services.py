"""From settings to working parts: the one place that knows which room gets which address.

An address that the settings leave empty is the local stack's, read from its state folder. Everything is opened at
first use and closed together.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from typing import TYPE_CHECKING, Any

from sagelift.errors import SageliftError
from sagelift.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from experiments.privacy import Tokens
    from experiments.store import ExperimentStore
    from feature_repo.store import ProductFeatureStore
    from inference.triton.channel import Tls
    from inference.triton.circuit import CircuitBreaker
    from inference.triton.client import TritonClient
    from inference.triton.embedder import ItemEmbedder
    from inference.visual_cache import VisualCache
    from streaming.catalogue.pipeline import CatalogPipeline
    from streaming.kafka.connection import Connection
    from streaming.kafka.schema_registry.codec import RegistryCodec
    from streaming.vectors.publisher import PublishOffers, PublishVectors

CATALOG_GROUP = "sagelift-catalog"
"""Consumer group of `sagelift stream catalog`."""
EVENTS_GROUP = "sagelift-events"
"""Consumer group of `sagelift stream events`."""


class Services:
    """The parts of one installation. A context manager.

    Attributes:
        breaker: for the client of Triton, of those who try again by themselves; to be set before it is used.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._open = ExitStack()
        self._embedder: ItemEmbedder | None = None
        self.breaker: CircuitBreaker | None = None

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close everything that was opened, the last first."""
        self._open.close()

    @cached_property
    def kafka(self) -> Connection:
        """The Kafka cluster of the settings, or the local stack's broker."""
        from streaming.kafka.codec import JSON
        from streaming.kafka.connection import Connection

        settings = self.settings.kafka
        address = settings.bootstrap_servers or self._local("kafka_bootstrap", "Kafka")
        return Connection(address, settings.client, self.registry_codec or JSON)

    @cached_property
    def registry_codec(self) -> RegistryCodec | None:
        """Codec of the settings' schema registry; None without a registry."""
        settings = self.settings.schema_registry
        if not settings.url:
            return None
        from streaming.kafka.schema_registry.client import SchemaRegistry
        from streaming.kafka.schema_registry.codec import RegistryCodec

        registry = SchemaRegistry(
            settings.url,
            username=settings.username,
            password=settings.password.get_secret_value(),
            ca_file=settings.ca_file,
        )
        return RegistryCodec(self._open.enter_context(registry), settings.format)

    @cached_property
    def triton(self) -> TritonClient:
        """A client of the settings' Triton, or of the local stack's."""
        from inference.triton.channel import open_channel
        from inference.triton.client import TritonClient

        settings = self.settings.triton
        address = settings.url or self._local("triton_grpc", "Triton")
        channel = open_channel(address, self.triton_tls)
        client = TritonClient(address, deadline_s=settings.deadline_s, breaker=self.breaker, channel=channel)
        return self._open.enter_context(client)

    @property
    def triton_tls(self) -> Tls | None:
        """How to speak TLS with the settings' Triton; None without."""
        from inference.triton.channel import Tls

        tls = self.settings.triton
        if not tls.tls:
            return None
        return Tls(tls.tls_ca_file, tls.tls_cert_file, tls.tls_key_file, tls.tls_server_name)

    @cached_property
    def features(self) -> ProductFeatureStore:
        """The feature store in the state folder."""
        from feature_repo.store import ProductFeatureStore

        return self._open.enter_context(ProductFeatureStore.open(self.settings.state))

    @cached_property
    def visual_cache(self) -> VisualCache:
        """Image vectors by content hash."""
        from inference.visual import VISUAL_VERSION
        from inference.visual_cache import VisualCache

        cache = VisualCache(self.settings.state / "image_vectors.db", VISUAL_VERSION)
        self._open.callback(cache.close)
        return cache

    @cached_property
    def database(self) -> Engine:
        """The experiment database's engine."""
        from sqlalchemy import create_engine
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError

        try:
            engine = create_engine(self.settings.database_url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError) as error:
            raise SageliftError(
                f"the experiment database cannot be used ({type(error).__name__}): set "
                "SAGELIFT_EXPERIMENTS__DATABASE_URL to a SQLAlchemy URL, for PostgreSQL "
                "postgresql+psycopg://user:password@host/name after pip install 'sagelift[postgres]'"
            ) from None
        self._open.callback(engine.dispose)
        return engine

    @cached_property
    def experiments(self) -> ExperimentStore:
        """The experiment store; its tables are made when there are none."""
        from experiments.store import ExperimentStore

        self.settings.state.mkdir(parents=True, exist_ok=True)
        store = ExperimentStore(self.database)
        store.create_all()
        return store

    def create_stores(self) -> None:
        """Create the experiment database and the feature store if they are missing."""
        _ = self.experiments, self.features

    def unit_tokens(self) -> Tokens | None:
        """Unit tokens made from the settings' key; None without a key."""
        from experiments.privacy import SqlNonces, Tokens

        key = self.settings.experiments.token_key.get_secret_value()
        return Tokens(bytes.fromhex(key), SqlNonces(self.experiments.engine)) if key else None

    def embedder(self) -> ItemEmbedder | None:
        """The live release, asked for anew at each call; None before the first."""
        from inference.releases.repository import live_version
        from inference.triton.embedder import ItemEmbedder

        if live_version(self.settings.model_repository) is None:
            return None
        if self._embedder is None:
            self._embedder = ItemEmbedder(self.triton, self.settings.model_repository)
        else:
            self._embedder.refresh()
        self.features.ensure_model_version(self._embedder.model_version)
        return self._embedder

    def prepare_visual_encoder(self) -> None:
        """Have Triton serve the visual encoder of this program, rightly; quick when it does.

        The local stack loads what is in its repository when it starts; another server serves what it was told to.

        Raises:
            ArtifactError: the model repository cannot be written.
            ServingError: Triton cannot load it, or answers its probe wrongly: it may serve another repository.
        """
        from inference.releases.export import export_visual_encoder
        from inference.releases.repository import VISUAL_ENCODER

        folder = export_visual_encoder(self.settings.model_repository)
        self.triton.load(VISUAL_ENCODER)
        self.triton.probe(folder)

    def catalog_pipeline(self) -> CatalogPipeline:
        """The catalogue consumer's pipeline on the real parts."""
        from streaming.catalogue.images.fetch import ImageFetcher
        from streaming.catalogue.images.vectors import CachedImageVectors
        from streaming.catalogue.pipeline import CatalogPipeline

        wanted = self.settings.images
        fetcher = self._open.enter_context(
            ImageFetcher(
                max_bytes=wanted.max_bytes,
                timeout=wanted.timeout_s,
                max_pixels=wanted.max_pixels,
                allow_private=wanted.allow_private,
                root=self.settings.image_folders,
            )
        )
        images = CachedImageVectors(fetcher.fetch_many, self.triton.encode_images, self.visual_cache)
        vectors, offers = self.publishers()
        return CatalogPipeline(self.features, images, self.embedder, vectors, offers, self.kafka.codec)

    def publishers(self) -> tuple[PublishVectors, PublishOffers]:
        """Publishers of vectors and offers with the connection's codec; closed with the services."""
        from streaming.vectors.publisher import embedding_publisher, offer_publisher

        producer, codec = self.producer(), self.kafka.codec
        return embedding_publisher(producer, codec), offer_publisher(producer, codec)

    def producer(self) -> Any:
        """A Kafka producer, closed with the services."""
        producer = self.kafka.producer()
        self._open.callback(producer.close, 2)  # all that counts was flushed
        return producer

    def _local(self, name: str, what: str) -> str:
        from sagelift.stack.status import read_status

        status = read_status(self.settings.state)
        address = getattr(status, name)
        if status.running and not address:
            raise SageliftError(f"the local stack in {self.settings.state} is still starting {what}; try again shortly")
        if not status.running:
            variable = {"Kafka": "SAGELIFT_KAFKA__BOOTSTRAP_SERVERS", "Triton": "SAGELIFT_TRITON__URL"}[what]
            raise SageliftError(
                f"no {what} is known: no local stack runs in {self.settings.state} (start one with `sagelift up`), "
                f"and {variable} is not set"
            )
        return str(address)


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float, pause_s: float = 0.1) -> None:
    """Poll until the condition holds.

    Raises:
        SageliftError: it does not within the time; `what` says what was waited for.
    """
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise SageliftError(f"gave up waiting for {what} after {timeout_s:.0f} s")
        time.sleep(pause_s)
