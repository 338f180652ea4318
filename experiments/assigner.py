"""What a service holds: published experiments in memory, assignments without a network, exposures where they are used.

assigner = Assigner(store.load, logger, cache=Path("experiments.json"))
assigner.start()             # loads now and from then on; a store that is away delays it by no more than the timeout
assignment = assigner.assign(user_id, "home-ranking", {"country": "DE"})
...                          # only when the page really depends on it:
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
from experiments.errors import ExperimentsError
from experiments.evaluator import PreparedExperiment, assign_all, now_us, prepare_all
from experiments.exposures import ExposureLogger
from experiments.refresh import Refresher, read_configs, save_configs


class AssignerState(msgspec.Struct, frozen=True):
    """Where the configs in memory came from and how fresh they are.

    `age_s` is the time since the store last gave them, None before it ever did; `stale` is for health checks.
    """

    experiments: int
    source: Literal["nothing", "store", "disk"]
    age_s: float | None
    stale: bool
    last_error: str | None


class Assigner:
    """Evaluates experiments in memory. Shared between threads: a refresh replaces all configs at once.

    load: returns the published experiments, such as `ExperimentStore.load`.
    logger: where exposures go; without one `expose` does nothing.
    cache: file of the last good configs, from which `start` serves while the store is away.
    interval_s: seconds between two loads after `start`; `wake` asks for one at once.
    stale_after_s: age beyond which the configs count as stale. They are served all the same: a service that cannot
        reach the store goes on with the last good ones.
    clock: microseconds UTC, for ramps and overrides. monotonic: seconds, never going back.
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
        """Begins to load in the background, and waits for the first load no longer than the timeout.

        Whether there is something to serve: from the store, else from the cache. Never raises.
        """
        if self._refresher is None:
            self._read_cache()
            self._refresher = Refresher(self.refresh, self._interval_s)
        self._refresher.loaded.wait(timeout_s)
        return self._source != "nothing"

    def close(self, timeout_s: float = 5.0) -> None:
        """Ends the background loading; assignments go on with what is in memory. Does not close the logger."""
        if self._refresher is not None:
            self._refresher.close(timeout_s)
            self._refresher = None

    def wake(self) -> None:
        """Asks the background for a load now and returns at once: for whoever is told that something was published."""
        if self._refresher is not None:
            self._refresher.wake()

    def refresh(self) -> bool:
        """Loads the published experiments. Never raises: on failure the last good ones stay, and `state` says why."""
        with self._refreshing:
            try:
                published = list(self._load())
                if published != self._published or self._source != "store":
                    self._experiments = prepare_all(published, clock=self._clock)
            except Exception as error:  # a database that is away has many names
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
        except OSError as error:  # a full disk must not stop a refresh, but be seen
            self._last_error = f"{type(error).__name__}: {error}"

    @property
    def state(self) -> AssignerState:
        """Where the configs came from, how old they are, and what went wrong last."""
        age = None if self._loaded_at is None else self._monotonic() - self._loaded_at
        stale = age is None or age > self._stale_after_s
        return AssignerState(len(self._experiments), self._source, age, stale, self._last_error)

    def assign(self, unit: object, experiment: str, attributes: Mapping[str, Any] | None = None) -> Assignment:
        """The unit's assignment. Never raises and never waits; an experiment that is not known has no arm."""
        prepared = self._experiments.get(experiment)
        if prepared is None:
            name = unit if isinstance(unit, str) else None
            return Assignment(experiment, name, None, False, Reason.UNKNOWN_EXPERIMENT, 0)
        return prepared.assign(unit, attributes)

    def assign_all(self, unit: object, attributes: Mapping[str, Any] | None = None) -> dict[str, Assignment]:
        """The unit's assignment in every experiment, by key. Never raises and never waits."""
        return assign_all(self._experiments.values(), unit, attributes)

    def prepared(self, experiment: str) -> PreparedExperiment | None:
        """An experiment as it is served, to explain an assignment."""
        return self._experiments.get(experiment)

    def expose(self, assignment: Assignment) -> bool:
        """Logs that the assignment was used. Whether a row was queued: not for those that are not enrolled, nor twice."""
        return self._logger is not None and self._logger.log(assignment)
