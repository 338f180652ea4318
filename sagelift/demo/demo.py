"""`sagelift demo`: the whole loop on real components, from an empty folder to a lift.

A shop opens with its usual recommendations; its shoppers' events train ItemSage; the model is released and the
catalogue embedded; products change and their embeddings follow; an experiment shows both kinds of recommendation to
the same shoppers; a report says what came of it. Shoppers' time is simulated (four weeks, the last of them ending
now); everything else is real: broker, inference server, feature store, database, clocks of the freshness.
"""

from __future__ import annotations

import random
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from sagelift.demo.shoppers import Market, Shoppers, ShopProduct
from sagelift.errors import DemoError
from sagelift.progress import Stage, Stages
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services, wait_for
from sagelift.settings import ExperimentSettings, KafkaSettings, Settings, TritonSettings
from sagelift.workers import stack_options, worker_specs

if TYPE_CHECKING:
    from concurrent.futures import Future

    from analysis.report import Report
    from feature_repo.rows import ProductFeatures
    from inference.retrieval import RetrievalIndex
    from sagelift.stack.stack import LocalStack

EXPERIMENT = "itemsage-vs-sum"
DAY = timedelta(days=1)


class DemoConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The demo's size."""

    catalog: Path | None = None  # a feed or a folder with products.jsonl; None: the generated sample
    products: int = 1000  # of the generated sample
    shoppers: int = 4000
    days_before: int = 14
    days_of_experiment: int = 14
    window_days: int = 10  # after first exposure that count
    training_steps: int = 125
    changes: int = 300  # catalogue changes whose freshness is measured
    changes_per_s: float = 20.0
    seed: int = 7


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds from an update's arrival in Kafka to its embedding being retrievable, over `count` embeddings."""

    p50: float
    p99: float
    count: int


class Lift(msgspec.Struct, frozen=True):
    """One metric of the report: raw means, and the lift by `method`.

    With CUPED the lift is adjusted for what each user did before, and so need not be treatment / control - 1, which
    is `unadjusted`.
    """

    control: float | None
    treatment: float | None
    lift: float | None
    low: float | None
    high: float | None
    p: float | None
    method: str
    unadjusted: float | None


class DemoCatalogue(msgspec.Struct, frozen=True):
    """What was published."""

    source: str
    products: int
    refused_rows: int


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `sagelift demo --json` prints."""

    catalogue: DemoCatalogue
    stages_s: dict[str, float]
    freshness_ms: Percentiles
    dead_letters: int
    model: dict[str, Any]
    srm_p: float | None
    lifts: dict[str, Lift]
    decision: str
    report: str


class Demo:
    """One run, in a state folder of its own that is emptied first (`<state>/demo`).

    It always starts its own broker, Triton and database, whatever services the settings name: made-up products,
    orders and models have no business in a real installation.
    """

    def __init__(self, settings: Settings, config: DemoConfig) -> None:
        self.config = config
        self.state = settings.state / "demo"
        local = {"kafka": KafkaSettings(), "triton": TritonSettings(), "experiments": ExperimentSettings()}
        self.settings = settings.model_copy(update={"state_dir": self.state, **local})
        self.stages = Stages()

    def run(self) -> tuple[DemoResult, Report]:
        """Everything, in order. Whatever happens, nothing is left running."""
        from sagelift.stack.components import fetch_all
        from sagelift.stack.stack import LocalStack

        with self.stages.stage("components", "Components: Apache Kafka, Triton") as stage:
            fetch_all(self.settings.cache, stage.say)
        self._empty_state()
        with self.stages.stage("catalogue", "Catalogue") as stage:
            feed = self._catalogue(stage)
        with LocalStack(self.state, self.settings.cache, stack_options(self.settings)) as stack:
            with self.stages.stage("stack", "Local stack: broker, Triton, consumers") as stage:
                self._start(stack)
            with Services(self.settings) as services:
                return self._loop(services, feed)

    def _empty_state(self) -> None:
        from sagelift.stack.errors import AlreadyRunningError
        from sagelift.stack.status import read_status

        if (status := read_status(self.state)).running:
            raise AlreadyRunningError(
                f"a demo is running already in {self.state} (pid {status.pid}); wait for it or stop it first"
            )
        if self.state.exists():
            shutil.rmtree(self.state)
        self.state.mkdir(parents=True)

    def _catalogue(self, stage: Stage) -> Path:
        if self.config.catalog is not None:
            from streaming.feeds import read_feed

            read_feed(self.config.catalog, now=datetime.now(UTC))  # a missing or empty feed is told now
            return self.config.catalog
        from sagelift.demo.samples import write_sample

        total = self.config.products
        return write_sample(
            self.state / "catalogue",
            total,
            self.config.seed,
            progress=lambda n: stage.update(n, total, "drawing products"),
        )

    def _start(self, stack: LocalStack) -> None:
        from inference.repository import export_visual_encoder
        from streaming.kafka.connection import Connection
        from streaming.kafka.topic_admin import ensure_topics

        ensure_topics(Connection(stack.kafka_bootstrap))
        export_visual_encoder(self.settings.model_repository)
        stack.load_model("visual_encoder")
        for spec in worker_specs(stack, self.settings):
            stack.add_worker(spec)

    def _loop(self, services: Services, feed: Path) -> tuple[DemoResult, Report]:
        with self.stages.stage("features", "Features: text, images and offers through Kafka into Feast") as stage:
            catalogue = self._publish(services, feed, stage)
        with self.stages.stage("history", "Two weeks of the usual shop") as stage:
            shop = _DemoShop(services, self.config)
            shop.usual(stage)
            self._wait_for_events(services, stage)
        with self.stages.stage("training", "ItemSage: training") as stage:
            model = self._train(services, stage)
        with self.stages.stage("release", "Release: export, load, probe, embed the catalogue") as stage:
            model |= self._release(services, catalogue.products, stage)
        with self.stages.stage("updates", "Catalogue changes, followed by their embeddings") as stage:
            index, freshness = self._follow_changes(services, shop.features, model["version"], stage)
        with self.stages.stage("experiment", "Experiment: two weeks, control and treatment") as stage:
            shop.experiment(index, Path(model["release"]), stage)
            self._wait_for_events(services, stage)
        with self.stages.stage("report", "Report"):
            report, path = self._report(services)
        return self._result(services, catalogue, freshness, model, report, path), report

    # ------------------------------------------------------------------------------------------------ the stages

    def _publish(self, services: Services, feed: Path, stage: Stage) -> DemoCatalogue:
        from streaming.contracts import ProductUpdate
        from streaming.feeds import BadRow, read_feed
        from streaming.kafka.producers import CatalogPublisher

        refused = 0
        rows = read_feed(feed, now=datetime.now(UTC))

        def good() -> Iterator[ProductUpdate]:
            nonlocal refused
            for row in rows:
                if isinstance(row, BadRow):
                    refused += 1
                    stage.say(f"refused: {row}")
                else:
                    yield row

        with CatalogPublisher(services.kafka) as publisher:
            count = publisher.send_all(good())
        if not count:
            raise DemoError(
                f"{feed} has no product that could be published; all {refused} rows were refused (see above)"
            )
        self._wait_for_group(services, CATALOG_GROUP, "catalog.updates", count, stage, timeout_s=600)
        products = sum(1 for _ in services.features.product_ids())
        return DemoCatalogue(str(feed), products, refused)

    def _train(self, services: Services, stage: Stage) -> dict[str, Any]:
        from inference.train import TrainConfig
        from sagelift.training import train_run

        steps = self.config.training_steps
        config = TrainConfig(steps=steps, search_steps=min(150, steps), seed=self.config.seed)
        run, result = train_run(services, config, lambda name, done, total: stage.update(done, total, name))
        return {
            "run": str(run),
            "parameters": result.parameters,
            "training_pairs": result.training_pairs,
            "recall_at_10": round(result.itemsage.mean_recall, 4),
            "recall_at_10_sum": round(result.sum.mean_recall, 4),
        }

    def _release(self, services: Services, products: int, stage: Stage) -> dict[str, Any]:
        from sagelift.training import latest_run, release_run

        released = release_run(services, latest_run(services), lambda done: stage.update(done, products, "embedding"))
        path = self.settings.model_repository / "itemsage" / released.version
        return {"version": released.version, "release": str(path), "probe_cosine": round(released.probe_cosine, 6)}

    def _follow_changes(
        self, services: Services, features: dict[str, ProductFeatures], version: str, stage: Stage
    ) -> tuple[RetrievalIndex, Percentiles]:
        """Publish changes at a steady rate and time each from the broker's stamp to its place in the index."""
        from inference.retrieval import RetrievalIndex
        from streaming.kafka.producers import CatalogPublisher
        from streaming.vectors.embedding_topic import IndexFollower

        index = RetrievalIndex(version)
        waited: list[float] = []
        applied = threading.Event()

        def on_applied(_: str, milliseconds: float) -> None:
            if applied.is_set():
                waited.append(milliseconds)

        with IndexFollower(services.kafka, index, on_applied) as follower:
            self._catch_up(follower)
            applied.set()
            with CatalogPublisher(services.kafka) as publisher:
                changes = Changes(list(features.values()), self.config.seed)
                start = time.monotonic()
                for number in range(self.config.changes):
                    time.sleep(max(0.0, start + number / self.config.changes_per_s - time.monotonic()))
                    changes.send(number, publisher)
                    stage.update(number + 1, self.config.changes)
                publisher.flush()
            self._wait_for_group(services, CATALOG_GROUP, "catalog.updates", self.config.changes, stage)
            self._catch_up(follower)
        p50, p99 = np.percentile(waited, [50, 99])
        return index, Percentiles(round(float(p50), 1), round(float(p99), 1), len(waited))

    def _report(self, services: Services) -> tuple[Report, Path]:
        from analysis.metrics import shop_metrics
        from analysis.novelty import age_windows
        from analysis.render.html import write_html
        from analysis.report import analyze
        from analysis.sources.experiment_tables import ExperimentTables

        window = timedelta(days=self.config.window_days)
        # The events of four weeks arrived within minutes: how late they are says nothing.
        source = ExperimentTables(services.database, EXPERIMENT, window=window, late_after=None)
        report = analyze(
            source,
            shop_metrics(),
            control="sum",
            treatment="itemsage",
            title="ItemSage against Sum",
            ages=age_windows(window, window / 7),
        )
        return report, write_html(report, self.state / "report.html")

    def _result(
        self,
        services: Services,
        catalogue: DemoCatalogue,
        freshness: Percentiles,
        model: dict[str, Any],
        report: Report,
        path: Path,
    ) -> DemoResult:
        from streaming.kafka.lag import LagMeter
        from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, dead_letter_topic

        dead = 0
        for topic in (CATALOG_UPDATES, EVENTS):
            with LagMeter(services.kafka, "sagelift-demo", dead_letter_topic(topic)) as meter:
                dead += meter.end()
        lifts = {
            name: Lift(
                m.control,
                m.treatment,
                m.lift,
                m.low,
                m.high,
                m.p,
                m.method,
                m.unadjusted.lift if m.unadjusted else m.lift,
            )
            for name in ("gmv_per_user", "clicks_per_user")
            for m in [report.metric(name)]
        }
        srm = report.check("sample_ratio")
        return DemoResult(
            catalogue=catalogue,
            stages_s=self.stages.seconds,
            freshness_ms=freshness,
            dead_letters=dead,
            model=model,
            srm_p=srm.value,
            lifts=lifts,
            decision=report.decision.verdict,
            report=str(path),
        )

    # ----------------------------------------------------------------------------------------------- waiting

    def _catch_up(self, follower: Any) -> None:
        if not follower.catch_up(60):
            raise DemoError("the index did not catch up with product.embeddings within 60 s")

    def _wait_for_events(self, services: Services, stage: Stage) -> None:
        self._wait_for_group(services, EVENTS_GROUP, "events", 0, stage, timeout_s=300)

    def _wait_for_group(
        self, services: Services, group: str, topic: str, expected: int, stage: Stage, timeout_s: float = 120
    ) -> None:
        from streaming.kafka.lag import LagMeter

        with LagMeter(services.kafka, group, topic) as meter:
            total = meter.lag() or expected

            def done() -> bool:
                left = meter.lag()
                stage.update(max(0, total - left), total, f"{topic} consumed")
                return left == 0

            wait_for(done, f"{group} to consume {topic}; see {self.state / 'workers'}", timeout_s, pause_s=0.2)


class Changes:
    """A stream of changes as a shop makes them: prices, titles, new and deleted products, and a few bad messages."""

    def __init__(self, products: list[ProductFeatures], seed: int) -> None:
        self._products = products
        self._random = random.Random(seed)
        self._alive = [p for p in products if p.amount_minor and p.currency]

    def send(self, number: int, publisher: Any) -> None:
        """Publish change `number`: of ten, five retitle, three reprice, one is new, one is bad or a deletion."""
        kind = number % 10
        product = self._random.choice(self._alive or self._products)
        now = datetime.now(UTC)
        stamp: dict[str, Any] = {"version": int(now.timestamp() * 1e6) + number, "event_time": now}
        from streaming.contracts import Price, ProductUpdate

        if kind < 5:
            title = f"{product.text['title']} ({number})"
            publisher.send(ProductUpdate(id=product.id, op="patch", title=title, **stamp))
        elif kind < 8 and product.currency:
            price = Price(Decimal(self._random.randint(500, 20_000)) / 100, product.currency)
            publisher.send(ProductUpdate(id=product.id, op="patch", price=price, **stamp))
        elif kind == 8:
            new = ProductUpdate(id=f"demo-new-{number}", title=f"{product.text['title']} II", **stamp)
            publisher.send(new)
        elif number % 20 == 9:
            publisher.send(ProductUpdate(id=f"demo-new-{number - 1}", op="delete", **stamp))
        else:
            publisher.send(ProductUpdate(id=product.id, op="patch", title="no\x00good", **stamp))


class _DemoShop:
    """The shoppers, the shop that serves them, and the events that both leave."""

    def __init__(self, services: Services, config: DemoConfig) -> None:
        self.services, self.config = services, config
        self.features = {p.id: p for part in services.features.scan_features() for p in part}
        self.products = [
            ShopProduct(p.id, p.text, p.amount_minor, p.currency)
            for p in self.features.values()
            if p.amount_minor and p.currency
        ]
        if len(self.products) < 20:
            raise DemoError(
                f"the catalogue has {len(self.products)} products with a price; the demo's shoppers need at least 20"
            )
        if len(currencies := {p.currency for p in self.products}) > 1:
            raise DemoError(
                f"the catalogue has prices in {', '.join(sorted(currencies))}; the demo's report adds up one currency: "
                "publish a feed with prices in one"
            )
        self.market = Market(self.products, config.seed)
        self.shoppers = Shoppers(self.market, config.shoppers, config.seed + 1)
        self.main_images = {
            p.id: self.features[p.id].image_vectors[0] for p in self.products if len(self.features[p.id].image_vectors)
        }
        # A day to spare, so that the last refunds are not in the future.
        self.start = datetime.now(UTC) - (config.days_before + config.days_of_experiment + 1) * DAY
        self.day = 0

    def sum_index(self) -> RetrievalIndex:
        """The *Sum* baseline over the same products: image vectors summed, nothing trained."""
        from inference.dataset import sum_images
        from inference.retrieval import RetrievalIndex

        index = RetrievalIndex("sum")
        with_images = [self.features[p] for p in self.main_images]
        if with_images:
            for product, vector in zip(with_images, sum_images([p.image_vectors for p in with_images]), strict=True):
                index.upsert(product.id, 0, vector)
        return index

    def usual(self, stage: Stage) -> None:
        """The days before the experiment."""
        from inference.recommend import Recommender
        from sagelift.demo.shop import UsualShop

        def no_search(texts: Any) -> Any:
            raise AssertionError("the usual shop searches by keywords")

        similar = Recommender(self.sum_index(), no_search, self.main_images)
        self._visit(UsualShop(similar, self.products, self.config.seed), self.config.days_before, stage)

    def experiment(self, index: RetrievalIndex, release: Path, stage: Stage) -> None:
        """The days of the experiment."""
        from experiments.assigner import Assigner
        from experiments.config import Arm, ExperimentConfig, MetricRole
        from experiments.event_rows import EventRow
        from experiments.exposures import ExposureLogger
        from inference.queries import SearchQueries
        from inference.recommend import Recommender
        from sagelift.demo.shop import ExperimentShop, RecommenderAnswers, simulated_clock
        from streaming.events.sink import to_event
        from streaming.kafka.producers import EventPublisher

        store = self.services.experiments
        config = ExperimentConfig(
            key=EXPERIMENT,
            description="ItemSage embeddings against summed image vectors on all three surfaces",
            salt=f"{EXPERIMENT}-1",
            coverage=10_000,
            arms=(Arm("sum", 5_000), Arm("itemsage", 5_000)),
            control="sum",
            surfaces=("user", "image", "search"),
            metrics=(MetricRole("gmv_per_user", "primary"), MetricRole("clicks_per_user", "primary")),
        )
        store.create_experiment(EXPERIMENT, actor="demo", reason="shows that ItemSage pays")
        store.publish(config, actor="demo")
        store.transition(EXPERIMENT, "running", actor="demo", reason="the model is live")
        clock, set_clock = simulated_clock(self.start)
        search = SearchQueries.load(release)
        arms = {
            "sum": RecommenderAnswers(Recommender(self.sum_index(), search, self.main_images)),
            "itemsage": RecommenderAnswers(Recommender(index, search, self.main_images)),
        }
        with EventPublisher(self.services.kafka) as publisher:

            def deliver(row: EventRow) -> Future[None]:
                return publisher.deliver(to_event(row))

            logger = ExposureLogger(deliver, clock=clock)
            assigner = Assigner(store.load, logger)
            if not assigner.refresh():
                raise DemoError(f"the experiment cannot be loaded: {assigner.state.last_error}")
            shop = ExperimentShop(assigner, EXPERIMENT, arms)
            self._visit(shop, self.config.days_of_experiment, stage, set_clock)
            if unsent := logger.close(30):
                raise DemoError(f"{unsent} exposures could not be sent to Kafka")

    def _visit(self, shop: Any, days: int, stage: Stage, on_day: Callable[[datetime], None] = lambda at: None) -> None:
        from sagelift.demo.shop import to_event
        from streaming.kafka.producers import EventPublisher

        with EventPublisher(self.services.kafka) as publisher:
            for number in range(days):
                at = self.start + self.day * DAY
                on_day(at)
                for action in self.shoppers.round(shop, at, DAY):
                    publisher.send(to_event(action))
                self.day += 1
                stage.update(number + 1, days, "days")
