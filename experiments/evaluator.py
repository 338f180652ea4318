"""From a published config and a unit id to a decision. Pure; reads like sections 3 to 7 of
docs/assignment-spec.md.

`prepare` does once what does not depend on the unit (encoded salts, cumulative ranges), so that `decide` is
one or two digests, a comparison and a bisection. The hash is injected: a test states the bucket instead of
searching an id for it.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from experiments import kernel
from experiments.config import ExperimentConfig, PublishedExperiment, State
from experiments.decision import Decision, Reason
from experiments.errors import ConfigError

_NOT_SERVED: tuple[State, ...] = ("draft", "decided")


class Step(msgspec.Struct, frozen=True):
    """One line of an explanation: what was looked at, what was found, and whether the unit goes on."""

    name: str
    found: str
    passed: bool


class PreparedExperiment(msgspec.Struct, frozen=True):
    """An experiment ready for the hot path; made by `prepare`."""

    config: ExperimentConfig
    version: int
    state: State
    hash_function: kernel.HashFunction
    prefix: bytes
    layer_prefix: bytes
    arm_keys: tuple[str, ...]
    arm_ends: tuple[int, ...]  # A1: arm i owns the split buckets [ends[i-1], ends[i]), ends[-1] == 10,000

    def decide(self, unit: object) -> Decision:
        """The unit's assignment. Never raises: what cannot be enrolled says why."""
        config = self.config
        if self.state == "stopped":  # E2
            return self._control(unit, Reason.STOPPED)
        encoded = kernel.unit_bytes(unit)  # U1-U5
        if isinstance(encoded, Reason):
            return self._control(unit, encoded)
        if config.layer is not None:  # L2
            layer_digest = self.hash_function(self.layer_prefix + encoded).digest()
            if not config.layer.start <= kernel.gate_bucket(layer_digest) < config.layer.end:
                return self._control(unit, Reason.OUTSIDE_LAYER_RANGE)
        digest = self.hash_function(self.prefix + encoded).digest()
        gate = kernel.gate_bucket(digest)
        if gate >= config.coverage:  # G1
            return self._control(unit, Reason.OUTSIDE_COVERAGE, gate)
        split = kernel.split_bucket(digest)
        arm = self.arm_keys[bisect_right(self.arm_ends, split)]  # A2
        enrolled = self.state == "running"  # E1, E3
        reason = Reason.ASSIGNED if enrolled else Reason.PAUSED
        # A subclass of str (NumPy's, an enum's) is logged as the text that was hashed.
        name = unit if type(unit) is str else encoded.decode("utf-8")
        return Decision(config.key, name, arm, enrolled, reason, self.version, gate, split)

    def _control(self, unit: object, reason: Reason, gate: int | None = None) -> Decision:
        name = unit if isinstance(unit, str) else None
        return Decision(self.config.key, name, self.config.control, False, reason, self.version, gate)

    def explain(self, unit: object) -> tuple[Decision, tuple[Step, ...]]:
        """The decision, and each step on the way to it for a person to read."""
        decision = self.decide(unit)
        return decision, tuple(self._steps(unit, decision))

    def _steps(self, unit: object, decision: Decision) -> list[Step]:
        config, reason = self.config, decision.reason
        steps = [Step("state", self.state, reason is not Reason.STOPPED)]
        if reason is Reason.STOPPED:
            return steps
        encoded = kernel.unit_bytes(unit)
        if isinstance(encoded, Reason):
            return [*steps, Step("unit", encoded.value, False)]
        steps.append(Step("unit", f"{len(encoded)} bytes", True))
        if (layer := config.layer) is not None:
            bucket = kernel.gate_bucket(self.hash_function(self.layer_prefix + encoded).digest())
            found = f"{layer.key}: bucket {bucket}, range [{layer.start}, {layer.end})"
            steps.append(Step("layer", found, reason is not Reason.OUTSIDE_LAYER_RANGE))
        if decision.gate_bucket is not None:
            found = f"bucket {decision.gate_bucket}, enrolled below {config.coverage}"
            steps.append(Step("gate", found, reason is not Reason.OUTSIDE_COVERAGE))
        if decision.split_bucket is not None:
            index = bisect_right(self.arm_ends, decision.split_bucket)
            start = self.arm_ends[index - 1] if index else 0
            found = f"bucket {decision.split_bucket}, {decision.arm} owns [{start}, {self.arm_ends[index]})"
            steps.append(Step("split", found, True))
        return steps

    def decide_column(self, units: Sequence[object] | NDArray[Any]) -> NDArray[np.int16]:
        """The position in `config.arms` that each id of a column is enrolled in, -1 for the ids that are
        not.
        """
        if self.state != "running":
            return np.full(len(units), -1, dtype=np.int16)
        config = self.config
        gate, split = kernel.bucket_column(config.salt, units, self.hash_function)
        enrolled = (gate >= 0) & (gate < config.coverage)
        if config.layer is not None:
            bucket = kernel.bucket_column(config.layer.salt, units, self.hash_function).gate
            enrolled &= (bucket >= config.layer.start) & (bucket < config.layer.end)
        arm = np.searchsorted(np.asarray(self.arm_ends, dtype=np.int16), split, side="right")
        return np.where(enrolled, arm, -1).astype(np.int16)


def prepare(published: PublishedExperiment, hash_function: kernel.HashFunction = hashlib.sha256) -> PreparedExperiment:
    """Makes a published experiment ready for `decide`. Raises ConfigError for a state that is not served."""
    config = published.config
    if published.state in _NOT_SERVED:
        raise ConfigError(
            f"experiment {config.key!r} is {published.state}; only a running, paused or stopped one decides."
        )
    return PreparedExperiment(
        config=config,
        version=published.version,
        state=published.state,
        hash_function=hash_function,
        prefix=kernel.prefix(config.salt),
        layer_prefix=kernel.prefix(config.layer.salt) if config.layer is not None else b"",
        arm_keys=tuple(arm.key for arm in config.arms),
        arm_ends=tuple(accumulate(arm.weight for arm in config.arms)),
    )
