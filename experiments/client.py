"""What a service holds: published experiments in memory, decisions without a network, exposures where they are used.

assigner = Assigner(store.load, logger)
assigner.refresh()
decision = assigner.assign(user_id, "home-ranking")
...                          # only when the page really depends on it:
assigner.expose(decision)
"""

import time
from collections.abc import Callable, Iterable

import msgspec

from experiments.config import PublishedExperiment
from experiments.decision import Decision, Reason
from experiments.evaluator import PreparedExperiment, prepare
from experiments.exposures import ExposureLogger


class AssignerStatus(msgspec.Struct, frozen=True):
    """How fresh the configs in memory are. `age_s` is None before the first load; `stale` is for health checks."""

    experiments: int
    age_s: float | None
    stale: bool
    last_error: str | None


class Assigner:
    """Evaluates experiments in memory. Shared between threads: a refresh replaces all configs at once.

    load: returns the published experiments, such as `ExperimentStore.load`.
    logger: where exposures go; without one `expose` does nothing.
    stale_after_s: age beyond which the configs count as stale. They are served all the same: a service that cannot
        reach the store goes on with the last good ones.
    monotonic: seconds, never going back.
    """

    def __init__(
        self,
        load: Callable[[], Iterable[PublishedExperiment]],
        logger: ExposureLogger | None = None,
        *,
        stale_after_s: float = 60.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._logger = logger
        self._stale_after_s = stale_after_s
        self._monotonic = monotonic
        self._experiments: dict[str, PreparedExperiment] = {}
        self._loaded_at: float | None = None
        self._last_error: str | None = None

    def refresh(self) -> bool:
        """Loads the published experiments. Never raises: on failure the last good ones stay, and `status` says why."""
        try:
            prepared = {published.config.key: prepare(published) for published in self._load()}
        except Exception as error:  # a database that is away has many names
            self._last_error = f"{type(error).__name__}: {error}"
            return False
        self._experiments = prepared
        self._loaded_at = self._monotonic()
        self._last_error = None
        return True

    def status(self) -> AssignerStatus:
        age = None if self._loaded_at is None else self._monotonic() - self._loaded_at
        stale = age is None or age > self._stale_after_s
        return AssignerStatus(len(self._experiments), age, stale, self._last_error)

    def assign(self, unit: object, experiment: str) -> Decision:
        """The unit's decision. Never raises and never waits; an experiment that is not known has no arm."""
        prepared = self._experiments.get(experiment)
        if prepared is None:
            name = unit if isinstance(unit, str) else None
            return Decision(experiment, name, None, False, Reason.UNKNOWN_EXPERIMENT, 0)
        return prepared.decide(unit)

    def expose(self, decision: Decision) -> bool:
        """Logs that the decision was used. Whether a row was queued: not for those that are not enrolled, nor twice."""
        return self._logger is not None and self._logger.log(decision)
