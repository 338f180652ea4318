"""From published experiments and a unit id to assignments: sections 3 to 11 of docs/reference/assignment-spec.md. Pure.

`prepare` does once what does not depend on the unit (the hash of the salt, the ranges, the compiled condition), so that
`PreparedExperiment.assign` costs a digest or two and a comparison. The hash and the clock are parameters: a test states
the bucket and does not have to search for an id that has it.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any, Protocol

import msgspec

from experiments import kernel
from experiments.assignment import Assignment, Reason
from experiments.attributes import recorded
from experiments.config import ExperimentConfig, PublishedExperiment
from experiments.errors import ConfigError
from experiments.kernel import BUCKETS, MAX_UNIT_BYTES, digest_after, gate_bucket
from experiments.lifecycle import SERVED
from experiments.targeting import Condition
from experiments.times import now_us

Clock = Callable[[], int]
"""Returns the current time in microseconds UTC."""

Attributes = Mapping[str, Any]
"""A unit's attributes by name."""

# Reading an enum's member takes three lookups; reading a module's constant takes one.
_ASSIGNED, _PAUSED, _STOPPED, _OVERRIDE = Reason.ASSIGNED, Reason.PAUSED, Reason.STOPPED, Reason.OVERRIDE
_IN_HOLDOUT, _OUTSIDE_LAYER_RANGE = Reason.IN_HOLDOUT, Reason.OUTSIDE_LAYER_RANGE
_PREREQUISITE_NOT_MET, _OUTSIDE_COVERAGE = Reason.PREREQUISITE_NOT_MET, Reason.OUTSIDE_COVERAGE


class Step(msgspec.Struct, frozen=True):
    """One step of an explanation.

    Attributes:
        name: The rule.
        found: What the rule found for this unit.
        passed: Whether the evaluation continued.
    """

    name: str
    found: str
    passed: bool


class Assign(Protocol):
    """A function that evaluates one unit."""

    def __call__(self, unit: object, attributes: Attributes | None = None, encoded: bytes | None = None) -> Assignment:
        """Return the unit's assignment. Never raises: the assignment of an invalid unit has the reason.

        Args:
            unit: The unit id; text.
            attributes: The unit's attributes, for targeting and for recording.
            encoded: Result of `kernel.unit_bytes(unit)` where the caller has it already.
        """
        ...


class PreparedExperiment:
    """An experiment that is ready for the hot path; made by `prepare`. Immutable; threads may share it.

    Attributes:
        config: The config.
        key: Key of the experiment.
        version: The version of the config.
        state: The experiment's state.
        assign: Evaluates one unit.
        arms: Keys of the arms.
        arm_ends: End of each arm's range of split buckets.
        overrides: Overrides by unit, including expired ones.
        prerequisites: Prepared prerequisites, None where one is not served.
        condition: The compiled targeting condition; None without targeting.
        prefix: Bytes that precede the unit's bytes in the hash.
        hash_function: The hash of the kernel.
    """

    def __init__(
        self,
        published: PublishedExperiment,
        hash_function: kernel.HashFunction,
        clock: Clock,
        others: Mapping[str, "PreparedExperiment"],
    ) -> None:
        config = published.config
        self.config = config
        self.key = config.key
        self.version = published.version
        self.state = published.state
        self.hash_function = hash_function
        self._clock = clock
        self.overrides = {override.unit: override for override in published.overrides}
        # H1, L1: the draws that experiments share, whatever the kernel of their own.
        self._holdouts = [(hash_function(kernel.prefix(holdout.salt)), holdout) for holdout in config.holdouts]
        self._layer = None if config.layer is None else (hash_function(kernel.prefix(config.layer.salt)), config.layer)
        self.prerequisites = [(others.get(needed.experiment), needed) for needed in config.prerequisites]
        self.condition = Condition(config.targeting) if config.targeting else None
        self.prefix = kernel.prefix(config.salt, config.hash_version)
        self.arms = tuple(arm.key for arm in config.arms)
        self.arm_ends, self._first_gates = _ranges(config, config.coverage)
        self._ramp = [(step.at_us, _ranges(config, step.coverage)[1]) for step in config.ramp]
        self.assign: Assign = self._assign_function()

    def _assign_function(self) -> Assign:
        """Return sections 1 to 10 as one function.

        The function reads local names only, and contains the kernel's arithmetic: attribute lookups and calls would
        cost as much as the digest.
        """
        if self.state == "stopped":  # E2
            return lambda unit, attributes=None, encoded=None: self._not_enrolled(unit, _STOPPED)
        key, control, version, arms = self.config.key, self.config.control, self.version, self.arms
        arm_of, prefix, start = _arm_of_bucket(self.arm_ends), self.prefix, self.hash_function(self.prefix)
        gates, ramp = self._first_gates, self.gates if self._ramp else None
        rules = self._first_rule if self._has_rules() else None
        unit_bytes, two_integers = kernel.unit_bytes, kernel.TWO_INTEGERS
        running, gb2, record = self.state == "running", self.config.hash_version == "gb2", self.config.record

        def assign(unit: object, attributes: Attributes | None = None, encoded: bytes | None = None) -> Assignment:
            if encoded is not None:
                name: str = unit  # type: ignore[assignment]
            # U1-U5; the usual case first
            elif type(unit) is str and unit.isascii() and 0 < len(unit) <= MAX_UNIT_BYTES and "\0" not in unit:
                name, encoded = unit, unit.encode()
            else:
                valid = unit_bytes(unit)
                if isinstance(valid, Reason):
                    return self._not_enrolled(unit, valid)
                name, encoded = valid.decode(), valid  # for a subclass of str, log the text that was hashed
            if rules is not None and (ended := rules(name, encoded, attributes)) is not None:  # O1, H1, L2, P1, T1-T4
                return ended
            if gb2:  # K6-K8
                gate, split = kernel.gb2_draw(prefix + encoded)
            else:
                hashed = start.copy()  # K1-K3
                hashed.update(encoded)
                high, low = two_integers(hashed.digest())
                gate = (high >> 4) % BUCKETS  # K4
                split = ((high & 15) << 56 | low >> 8) % BUCKETS  # K5
            arm = arm_of[split]  # A2
            if gate >= (gates if ramp is None else ramp())[arm]:  # G1, R1
                return Assignment(key, name, control, False, _OUTSIDE_COVERAGE, version, gate)
            if running:  # E1
                to_record = recorded(record, attributes) if record else None
                return Assignment(key, name, arms[arm], True, _ASSIGNED, version, gate, split, to_record)
            return Assignment(key, name, arms[arm], False, _PAUSED, version, gate, split)  # E3

        return assign

    def _has_rules(self) -> bool:
        return bool(self.overrides or self._holdouts or self._layer or self.prerequisites or self.condition is not None)

    def _first_rule(self, unit: str, encoded: bytes, attributes: Attributes | None) -> Assignment | None:
        """Return the assignment of the first rule before the gate that ends the evaluation, in the order of E4."""
        if (forced := self.forced_arm(unit)) is not None:  # O1
            return Assignment(self.config.key, unit, forced, False, _OVERRIDE, self.version)
        for start, holdout in self._holdouts:  # H1
            if gate_bucket(digest_after(start, encoded)) < holdout.size:
                return self._not_enrolled(unit, _IN_HOLDOUT)
        if self._layer is not None:  # L2
            start, layer = self._layer
            if not layer.start <= gate_bucket(digest_after(start, encoded)) < layer.end:
                return self._not_enrolled(unit, _OUTSIDE_LAYER_RANGE)
        for other, needed in self.prerequisites:  # P1
            if other is None or not _is_in(other.assign(unit, attributes, encoded), needed.arms):
                return self._not_enrolled(unit, _PREREQUISITE_NOT_MET)
        if self.condition is not None and (reason := self.condition.judge(attributes)) is not None:  # T1-T4
            return self._not_enrolled(unit, reason)
        return None

    def _not_enrolled(self, unit: object, reason: Reason) -> Assignment:
        name = unit if isinstance(unit, str) else None
        return Assignment(self.config.key, name, self.config.control, False, reason, self.version)

    def forced_arm(self, unit: str) -> str | None:
        """Return the arm that an override in force gives the unit (rule O1); None without one."""
        override = self.overrides.get(unit)
        return override.arm if override is not None and self._clock() < override.expires_at else None

    def gates(self) -> tuple[int, ...]:
        """Return for each arm the gate bucket below which its units are enrolled now (rules G1 and R1)."""
        gates, now = self._first_gates, self._clock() if self._ramp else 0
        for at, following in self._ramp:
            if at > now:
                break
            gates = following
        return gates

    def explain(self, unit: object, attributes: Attributes | None = None) -> tuple[Assignment, tuple[Step, ...]]:
        """Return the unit's assignment, and the steps that led to it for a person to read."""
        steps: list[Step] = []
        for step in self._steps(unit, attributes):
            steps.append(step)
            if not step.passed:
                break
        return self.assign(unit, attributes), tuple(steps)

    def _steps(self, unit: object, attributes: Attributes | None) -> Iterator[Step]:
        """Yield every rule in order, whether or not earlier rules passed; `explain` stops at the first that did not."""
        yield Step("state", self.state, self.state != "stopped")
        encoded = kernel.unit_bytes(unit)
        if isinstance(encoded, Reason):
            yield Step("unit", encoded.value, False)
            return
        yield Step("unit", f"{len(encoded)} bytes", True)
        name = encoded.decode()
        if name in self.overrides:
            forced = self.forced_arm(name)
            yield Step("override", "expired" if forced is None else f"{forced} is forced", forced is None)
        for start, holdout in self._holdouts:
            bucket = gate_bucket(digest_after(start, encoded))
            result = f"{holdout.key}: bucket {bucket}, held out below {holdout.size}"
            yield Step("holdout", result, bucket >= holdout.size)
        if self._layer is not None:
            start, layer = self._layer
            bucket = gate_bucket(digest_after(start, encoded))
            result = f"{layer.key}: bucket {bucket}, range [{layer.start}, {layer.end})"
            yield Step("layer", result, layer.start <= bucket < layer.end)
        for other, needed in self.prerequisites:
            assignment = None if other is None else other.assign(name, attributes)
            state = "not served" if assignment is None else f"{assignment.arm} ({assignment.reason})"
            result = f"{needed.experiment}: {state}, needs {' or '.join(needed.arms)}"
            yield Step("prerequisite", result, assignment is not None and _is_in(assignment, needed.arms))
        if self.condition is not None:
            reason = self.condition.judge(attributes)
            result = f"{self.condition.source}: {'true' if reason is None else reason.value}"
            yield Step("targeting", result, reason is None)
        yield from self._draw_steps(encoded)

    def _draw_steps(self, encoded: bytes) -> Iterator[Step]:
        gb2 = self.config.hash_version == "gb2"
        draw = kernel.gb2_draw if gb2 else kernel.sha256_draw(self.hash_function)
        gate, split = draw(self.prefix + encoded)
        index = bisect_right(self.arm_ends, split)
        limit = self.gates()[index]
        yield Step("gate", f"bucket {gate}, enrolled below {limit}", gate < limit)
        start = self.arm_ends[index - 1] if index else 0
        yield Step("split", f"bucket {split}, {self.arms[index]} owns [{start}, {self.arm_ends[index]})", True)


def _is_in(assignment: Assignment, arms: tuple[str, ...]) -> bool:
    """Return whether a unit meets a prerequisite (P1): enrolled in an arm, or kept while paused; not forced."""
    return assignment.arm in arms and assignment.reason in (_ASSIGNED, _PAUSED)


def assign_all(
    experiments: Iterable[PreparedExperiment], unit: object, attributes: Attributes | None = None
) -> dict[str, Assignment]:
    """Return one unit's assignment in each experiment, by key. Never raises."""
    encoded = kernel.unit_bytes(unit)  # once for all experiments
    if isinstance(encoded, Reason):
        return {experiment.key: experiment.assign(unit, attributes) for experiment in experiments}
    text = unit if type(unit) is str else encoded.decode()
    return {experiment.key: experiment.assign(text, attributes, encoded) for experiment in experiments}


def prepare(
    published: PublishedExperiment,
    hash_function: kernel.HashFunction = kernel.SHA256,
    *,
    clock: Clock = now_us,
    others: Mapping[str, PreparedExperiment] | None = None,
) -> PreparedExperiment:
    """Prepare a published experiment for the hot path.

    Args:
        published: The experiment.
        hash_function: The hash of the kernel.
        clock: Returns the current time in microseconds UTC; only ramps and overrides need it.
        others: Prepared experiments by key, for the prerequisites. A missing prerequisite is not met.

    Raises:
        ConfigError: The experiment's state is not served.
    """
    if published.state not in SERVED:
        raise ConfigError(
            f"experiment {published.config.key!r} is {published.state}; only a running, paused or stopped one assigns."
        )
    return PreparedExperiment(published, hash_function, clock, others or {})


def prepare_all(
    published: Iterable[PublishedExperiment],
    hash_function: kernel.HashFunction = kernel.SHA256,
    *,
    clock: Clock = now_us,
) -> dict[str, PreparedExperiment]:
    """Prepare experiments that may be prerequisites of one another.

    Args:
        published: The experiments.
        hash_function: The hash of the kernel.
        clock: Returns the current time in microseconds UTC.

    Returns:
        The prepared experiments by key.

    Raises:
        ConfigError: A state is not served, or prerequisites form a cycle.
    """
    waiting = {each.config.key: each for each in published}
    prepared: dict[str, PreparedExperiment] = {}
    while waiting:
        ready = [
            key
            for key, each in waiting.items()
            if not any(needed.experiment in waiting for needed in each.config.prerequisites)
        ]
        if not ready:
            raise ConfigError(f"the prerequisites of {', '.join(sorted(waiting))} form a cycle; leave one of them out.")
        for key in ready:
            prepared[key] = prepare(waiting.pop(key), hash_function, clock=clock, others=prepared)
    return prepared


@lru_cache(maxsize=256)
def _arm_of_bucket(ends: tuple[int, ...]) -> tuple[int, ...]:
    """Return the position of the arm of each bucket (rule A2).

    A lookup costs a third of a bisection. Experiments with the same weights share the table.
    """
    return tuple(arm for arm, (start, end) in enumerate(pairwise((0, *ends))) for _ in range(start, end))


def _ranges(config: ExperimentConfig, coverage: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the end of each arm's range, and the gate bucket below which its units are enrolled."""
    if config.hash_version == "gb2":
        return _gb2_ranges(config, coverage)
    ends = tuple(accumulate(arm.weight for arm in config.arms))
    return ends, (coverage,) * len(ends)


def _gb2_ranges(config: ExperimentConfig, coverage: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ranges of the kernel `gb2` (rule A4): the first `coverage` of each arm's range is enrolled.

    The sums are in floating point and in GrowthBook's order, so that no unit at an edge moves.
    """
    start, ends, gates = 0.0, [], []
    for arm in config.arms:
        share = arm.weight / BUCKETS
        gates.append(_first_bucket_from(start + coverage / BUCKETS * share))
        start += share
        ends.append(_first_bucket_from(start))
    return tuple(ends), tuple(gates)


def _first_bucket_from(edge: float) -> int:
    return next((n for n in range(max(0, int(edge * BUCKETS) - 1), BUCKETS) if n / BUCKETS >= edge), BUCKETS)
