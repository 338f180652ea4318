"""`sagelift demo`: runs all stages of the loop on real components.

Only the shoppers and their time are simulated: four weeks, of which the last day ends now. The broker, the inference
server, the feature store, the database and the clocks of the freshness are real.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sagelift.demo.config import DemoConfig
from sagelift.demo.results import DemoResult
from sagelift.local_stack import stack_options, worker_specs
from sagelift.progress import Stages
from sagelift.services import Services
from sagelift.settings import ExperimentSettings, KafkaSettings, Settings, TritonSettings

if TYPE_CHECKING:
    from analysis.results import Report
    from sagelift.stack.stack import LocalStack


class Demo:
    """One run of the demo in its own state folder (`<state>/demo`), which it empties first.

    It always starts its own broker, Triton and database, even if the settings contain others: simulated products,
    orders and models must not enter a real installation.

    Args:
        settings: Settings; the demo uses their state and cache folders.
        config: Size of the demo.

    Attributes:
        config: Size of the demo.
        state: State folder of the demo.
        settings: Settings of the demo.
        stages: Progress and duration of the stages.
    """

    def __init__(self, settings: Settings, config: DemoConfig) -> None:
        self.config = config
        self.state = settings.state / "demo"
        local = {"kafka": KafkaSettings(), "triton": TritonSettings(), "experiments": ExperimentSettings()}
        self.settings = settings.model_copy(update={"state_dir": self.state, **local})
        self.stages = Stages()

    def run(self) -> tuple[DemoResult, Report]:
        """Run all stages. All components are stopped at the end, also after an error.

        Raises:
            AlreadyRunningError: Another demo runs in the state folder.
            DemoError: A stage failed.
        """
        from sagelift.demo.catalogue import prepare_feed
        from sagelift.stack.components import fetch_all
        from sagelift.stack.stack import LocalStack

        with self.stages.stage("components", "Components: Apache Kafka, Triton") as stage:
            fetch_all(self.settings.cache, stage.say)
        self._empty_state()
        with self.stages.stage("catalogue", "Catalogue") as stage:
            feed = prepare_feed(self.config, self.state / "catalogue", stage)
        with LocalStack(self.state, self.settings.cache, stack_options(self.settings)) as stack:
            with self.stages.stage("stack", "Local stack: broker, Triton, consumers"):
                self._start(stack)
            with Services(self.settings) as services:
                return self._loop(services, feed)

    def _empty_state(self) -> None:
        from sagelift.stack.errors import AlreadyRunningError
        from sagelift.stack.status import read_status

        if (status := read_status(self.state)).running:
            raise AlreadyRunningError(
                f"a demo is already running in {self.state} (pid {status.pid}); wait for it or stop it first"
            )
        if self.state.exists():
            shutil.rmtree(self.state)
        self.state.mkdir(parents=True)

    def _start(self, stack: LocalStack) -> None:
        from inference.releases.export import export_visual_encoder
        from streaming.kafka.connection import Connection
        from streaming.kafka.topic_admin import ensure_topics

        ensure_topics(Connection(stack.kafka_bootstrap))
        export_visual_encoder(self.settings.model_repository)
        stack.load_model("visual_encoder")
        for spec in worker_specs(stack, self.settings):
            stack.add_worker(spec)

    def _loop(self, services: Services, feed: Path) -> tuple[DemoResult, Report]:
        from sagelift.demo.catalogue import publish_feed
        from sagelift.demo.experiment import run_experiment
        from sagelift.demo.freshness import measure_freshness
        from sagelift.demo.history import run_history
        from sagelift.demo.model import release, train
        from sagelift.demo.report import count_dead_letters, lifts, write_report
        from sagelift.demo.world import World

        with self.stages.stage("features", "Features: text, images and offers through Kafka into Feast") as stage:
            catalogue = publish_feed(services, feed, stage)
        with self.stages.stage("history", f"{self.config.days_before} days of the usual shop") as stage:
            world = World(services, self.config)
            run_history(world, stage)
        with self.stages.stage("training", "ItemSage: training") as stage:
            model = train(services, self.config, stage)
        with self.stages.stage("release", "Release: export, load, probe, embed the catalogue") as stage:
            model |= release(services, catalogue.products, stage)
        with self.stages.stage("updates", "Catalogue changes, followed by their embeddings") as stage:
            index, freshness = measure_freshness(world, model["version"], stage)
        with self.stages.stage(
            "experiment", f"Experiment: {self.config.days_of_experiment} days, control and treatment"
        ) as stage:
            run_experiment(world, index, Path(model["release"]), stage)
        path = self.state / "report.html"
        with self.stages.stage("report", "Report"):
            report = write_report(services, path)
        return DemoResult(
            catalogue=catalogue,
            stages_s=self.stages.seconds,
            freshness_ms=freshness,
            dead_letters=count_dead_letters(services),
            model=model,
            srm_p=report.check("sample_ratio").value,
            lifts=lifts(report),
            decision=report.verdict.conclusion,
            report=str(path),
        ), report
