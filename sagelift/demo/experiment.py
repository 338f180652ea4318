"""The demo's experiment: the same shoppers, half of them with ItemSage and half with the *Sum* baseline."""

from __future__ import annotations

from pathlib import Path

from experiments.assigner import Assigner
from experiments.config import AnalysisPlan, Arm, ExperimentConfig, MetricRole
from experiments.exposures import ExposureLogger
from inference.queries import SearchQueries
from inference.recommend import Recommender
from inference.retrieval import RetrievalIndex
from sagelift.demo.shop import ExperimentShop, RecommenderAnswers, simulated_clock
from sagelift.demo.waiting import wait_for_events
from sagelift.demo.world import World
from sagelift.errors import DemoError
from sagelift.progress import Stage
from sagelift.services import Services
from streaming.events.exposures import ExposureSender
from streaming.kafka.producers import EventPublisher

EXPERIMENT = "itemsage-vs-sum"
CONTROL, TREATMENT = "sum", "itemsage"
SECONDARY = ("gmv_gross_per_user", "orders_per_user", "buyers", "ctr", "aov")
_CLOSE_S = 30


def run_experiment(world: World, index: RetrievalIndex, release: Path, stage: Stage) -> None:
    """Start the experiment, let the shoppers visit, and wait until their events are stored.

    Args:
        world: The world with its shoppers.
        index: Index with the live embeddings.
        release: Folder of the live release, with its search encoder.
        stage: Shows the progress.

    Raises:
        DemoError: The experiment cannot be loaded, or exposures cannot be sent.
    """
    start_experiment(world.services, world.config.window_days)
    search = SearchQueries.load(release)
    arms = {
        CONTROL: RecommenderAnswers(Recommender(world.sum_index(), search, world.main_images)),
        TREATMENT: RecommenderAnswers(Recommender(index, search, world.main_images)),
    }
    clock, set_clock = simulated_clock(world.start)
    with EventPublisher(world.services.kafka) as publisher:
        logger = ExposureLogger(ExposureSender(publisher).send, clock=clock)
        assigner = Assigner(world.services.experiments.load, logger)
        if not assigner.refresh():
            raise DemoError(f"the experiment cannot be loaded: {assigner.state.last_error}")
        shop = ExperimentShop(assigner, EXPERIMENT, arms)
        world.visit(shop, world.config.days_of_experiment, stage, set_clock)
        if unsent := logger.close(_CLOSE_S):
            raise DemoError(f"{unsent} exposures could not be sent to Kafka")
    wait_for_events(world.services, stage)


def start_experiment(services: Services, window_days: float) -> None:
    """Publish the config of the experiment, with the plan of its analysis, and start it.

    Args:
        services: The services of the demo.
        window_days: Days after first exposure that count.
    """
    config = ExperimentConfig(
        key=EXPERIMENT,
        description="ItemSage embeddings against summed image vectors on all three surfaces",
        salt=f"{EXPERIMENT}-1",
        coverage=10_000,
        arms=(Arm(CONTROL, 5_000), Arm(TREATMENT, 5_000)),
        control=CONTROL,
        surfaces=("user", "image", "search"),
        metrics=(
            MetricRole("gmv_per_user", "goal"),
            MetricRole("clicks_per_user", "goal"),
            *(MetricRole(key, "secondary") for key in SECONDARY),
        ),
        # The events of simulated weeks arrive within minutes, so their delay means nothing.
        analysis=AnalysisPlan(window_days=window_days, backfilled=True),
    )
    store = services.experiments
    store.create_experiment(EXPERIMENT, actor="demo", reason="shows the effect of ItemSage")
    store.publish(config, actor="demo")
    store.transition(EXPERIMENT, "running", actor="demo", reason="the model is live")
