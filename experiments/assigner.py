"""The assigner of a service: published experiments in memory, assignments without a network call, logged exposures.

assigner = Assigner(store.load, logger, cache=Path("experiments.json"))
assigner.start()             # loads now and in the background; waits at most for its timeout
assignment = assigner.assign(user_id, "home-ranking", {"country": "DE"})
...                          # only where the page depends on the arm:
assigner.expose(assignment)
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from experiments.assignment import Assignment, Reason
from experiments.config import PublishedExperiment
from experiments.config_cache import read_configs, save_configs
from experiments.errors import ExperimentsError
from experiments.evaluator import PreparedExperiment, assign_all, prepare_all
from experiments.exposures import ExposureLogger
from experiments.refresh import Refresher
from experiments.times import now_us


class AssignerState(msgspec.Struct, frozen=True):
    """Where the configs in memory come from, and how old they are.

    Attributes:
        experiments: Number of experiments in memory.
        source: Where they come from.
        age_s: Seconds since the store returned them; None before the first load.
        stale: Whether they are too old; for health checks.
        last_error: The last error of a load; None after a successful one.
    """

    experiments: int
    source: Literal["nothing", "store", "disk"]
    age_s: float | None
    stale: bool
    last_error: str | None


class Assigner:
    """Evaluates experiments in memory. Threads may share it: a refresh replaces all configs at once.

    Args:
        load: Returns the published experiments, such as `ExperimentStore.load`.
        logger: Logs exposures; without one `expose` does nothing.
        cache: File of the last good configs; `start` reads it when the store is not available.
        interval_s: Seconds between two loads in the background; `wake` asks for a load at once.
        stale_after_s: Age in seconds above which the configs are stale. Stale configs are still served.
        clock: Returns the current time in microseconds UTC, for ramps and overrides.
        monotonic: Returns seconds that never go back.
    """

    def __init__(
        self,
        load: Callable[[], Iterable[PublishedExperiment]],
        logger: ExposureLogger | None = None,
        *,
        cache: Path | None = None,
        interval_s: float = 10.0,
        stale_after_s: float = 60.0,
        clock: Callable[[], int] = now_us,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._logger = logger
        self._cache = cache
        self._interval_s = interval_s
        self._stale_after_s = stale_after_s
        self._clock = clock
        self._monotonic = monotonic
        self._experiments: dict[str, PreparedExperiment] = {}
        self._published: Sequence[PublishedExperiment] | None = None
        self._source: Literal["nothing", "store", "disk"] = "nothing"
        self._loaded_at: float | None = None
        self._last_error: str | None = None
        self._refreshing = threading.Lock()  # one load at a time; `assign` never takes it
        self._refresher: Refresher | None = None

    def start(self, timeout_s: float = 5.0) -> bool:
        """Start to load in the background, and wait for the first load. Never raises.

        Args:
            timeout_s: Maximum time to wait in seconds.

        Returns:
            Whether there are configs to serve, from the store or from the cache.
        """
        if self._refresher is None:
            self._read_cache()
            self._refresher = Refresher(self.refresh, self._interval_s)
        self._refresher.loaded.wait(timeout_s)
        return self._source != "nothing"

    def close(self, timeout_s: float = 5.0) -> None:
        """End the background loading. Assignments continue with the configs in memory. The logger stays open.

        Args:
            timeout_s: Maximum time to wait for the thread in seconds.
        """
        if self._refresher is not None:
            self._refresher.close(timeout_s)
            self._refresher = None

    def wake(self) -> None:
        """Ask the background thread for a load now, and return at once: for a `ChangeListener`."""
        if self._refresher is not None:
            self._refresher.wake()

    def refresh(self) -> bool:
        """Load the published experiments; return whether it worked.

        Never raises: after a failure the last good configs stay, and `state` has the error.
        """
        with self._refreshing:
            try:
                published = list(self._load())
                if published != self._published or self._source != "store":
                    self._experiments = prepare_all(published, clock=self._clock)
            except Exception as error:  # database drivers raise many types
                self._last_error = f"{type(error).__name__}: {error}"
                return False
            self._source, self._loaded_at, self._last_error = "store", self._monotonic(), None
            self._published = published
            self._write_cache(published)
            return True

    def _read_cache(self) -> None:
        if self._cache is None or self._source != "nothing":
            return
        try:
            published, saved_at = read_configs(self._cache)
            self._experiments = prepare_all(published, clock=self._clock)
        except FileNotFoundError:
            return  # the first start
        except (OSError, ExperimentsError) as error:
            self._last_error = f"{type(error).__name__}: {error}"
            return
        self._source = "disk"
        self._loaded_at = self._monotonic() - max(0, self._clock() - saved_at) / 1e6

    def _write_cache(self, published: Sequence[PublishedExperiment]) -> None:
        if self._cache is None:
            return
        try:
            save_configs(self._cache, published, self._clock())
        except OSError as error:  # a full disk must not stop a refresh; `state` shows it
            self._last_error = f"{type(error).__name__}: {error}"

    @property
    def state(self) -> AssignerState:
        """The source and age of the configs, and the last error."""
        age = None if self._loaded_at is None else self._monotonic() - self._loaded_at
        stale = age is None or age > self._stale_after_s
        return AssignerState(len(self._experiments), self._source, age, stale, self._last_error)

    def assign(self, unit: object, experiment: str, attributes: Mapping[str, Any] | None = None) -> Assignment:
        """Return a unit's assignment. Never raises and never waits.

        Args:
            unit: The unit id; text.
            experiment: Key of the experiment. An unknown experiment has no arm.
            attributes: The unit's attributes, for targeting and for recording.
        """
        prepared = self._experiments.get(experiment)
        if prepared is None:
            name = unit if isinstance(unit, str) else None
            return Assignment(experiment, name, None, False, Reason.UNKNOWN_EXPERIMENT, 0)
        return prepared.assign(unit, attributes)

    def assign_all(self, unit: object, attributes: Mapping[str, Any] | None = None) -> dict[str, Assignment]:
        """Return a unit's assignment in every experiment, by key. Never raises and never waits."""
        return assign_all(self._experiments.values(), unit, attributes)

    def prepared(self, experiment: str) -> PreparedExperiment | None:
        """Return an experiment as it is served, to explain an assignment; None when it is unknown."""
        return self._experiments.get(experiment)

    def expose(self, assignment: Assignment) -> bool:
        """Log that an assignment was used.

        Returns:
            Whether an exposure was queued; see `ExposureLogger.log`.
        """
        return self._logger is not None and self._logger.log(assignment)
