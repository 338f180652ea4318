"""Assignment: one unit, twenty experiments, a column of ten million ids, against GrowthBook's SDK and bare SHA-256.

GrowthBook's `run()` is given its experiment ready made and its attributes by the cheapest way it has (the mapping is
changed in place), no URL, no sticky buckets. Every decision is of another unit than the one before. One process, CPU
time; where exposures are logged, that of the caller's thread, for both only put them into a queue
(`assign_logged_sent` adds our sender's share). The column is timed by the wall, since it may use every core;
`assign_bulk_one_core` says what a single one gives, in CPU time.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from benchmarks import ofrep
from benchmarks.harness import Row, compared, figure, in_turn
from experiments.bulk_assignment import assign_column
from experiments.config import Arm, ExperimentConfig, PublishedExperiment
from experiments.evaluator import PreparedExperiment, assign_all, prepare
from experiments.exposures import ExposureLogger

RUNS = 15
UNITS = [f"user-{i}" for i in range(10_000)]
COLUMN = 10_000_000
COLUMN_RUNS = 3
SHORT_COLUMN = 2_000_000
TWENTY = 20
CONDITION = 'country in ["DE", "AT"] && age >= 18'
ATTRIBUTES = {"country": "DE", "age": 30}


def rows(say: Callable[[str], None]) -> list[Row]:
    """`assign_*`, and `ofrep_*` of the benchmark ofrep."""
    return [*_one_by_one(say), *_logged(say), *_column(say), *ofrep.rows(say)]


def _ours(number: int = 0, targeting: str = "") -> PreparedExperiment:
    arms = (Arm("control", 5_000), Arm("treatment", 5_000))
    config = ExperimentConfig(
        key=f"exp-{number}", salt=f"exp-{number}", coverage=10_000, arms=arms, control="control", targeting=targeting
    )
    return prepare(PublishedExperiment(config, 1))


def _theirs(number: int = 0, **more: Any) -> Any:
    from growthbook import Experiment

    key = f"exp-{number}"
    return Experiment(
        key=key, variations=["control", "treatment"], weights=[0.5, 0.5], coverage=1.0, seed=key, hashVersion=2, **more
    )


def _rate(seconds: list[float], count: int) -> list[float]:
    return [count / each for each in seconds]


def _one_by_one(say: Callable[[str], None]) -> list[Row]:
    from growthbook import GrowthBook

    say(f"{len(UNITS)} units a run, {RUNS} runs")
    ours, twenty = _ours(), [_ours(i) for i in range(TWENTY)]
    targeted, few = _ours(targeting=CONDITION), UNITS[: len(UNITS) // TWENTY]
    attributes: dict[str, Any] = {"id": ""}
    sdk, theirs, their_twenty = GrowthBook(attributes=attributes), _theirs(), [_theirs(i) for i in range(TWENTY)]
    their_targeted = _theirs(condition={"country": {"$in": ["DE", "AT"]}, "age": {"$gte": 18}})

    def decide() -> None:
        decide_one = ours.assign
        for unit in UNITS:
            decide_one(unit)

    def run() -> None:
        for unit in UNITS:
            attributes["id"] = unit
            sdk.run(theirs)

    def sha256() -> None:
        digest = hashlib.sha256
        for unit in UNITS:
            digest(unit.encode()).digest()

    def decide_twenty() -> None:
        for unit in few:
            assign_all(twenty, unit)

    def run_twenty() -> None:
        for unit in few:
            attributes["id"] = unit
            for experiment in their_twenty:
                sdk.run(experiment)

    def decide_targeted() -> None:
        for unit in UNITS:
            targeted.assign(unit, ATTRIBUTES)

    def run_targeted() -> None:
        attributes.update(ATTRIBUTES)
        for unit in UNITS:
            attributes["id"] = unit
            sdk.run(their_targeted)

    _same_arms(ours, say)
    clock = time.process_time
    one = in_turn({"ours": decide, "theirs": run, "sha256": sha256}, runs=RUNS, clock=clock)
    all_twenty = in_turn({"ours": decide_twenty, "theirs": run_twenty}, runs=RUNS, clock=clock)
    with_condition = in_turn({"ours": decide_targeted, "theirs": run_targeted}, runs=RUNS, clock=clock)
    rates = {name: _rate(seconds, len(UNITS)) for name, seconds in one.items()}
    twenty_rates = {name: _rate(seconds, len(few)) for name, seconds in all_twenty.items()}
    condition_rates = {name: _rate(seconds, len(UNITS)) for name, seconds in with_condition.items()}
    who = "GrowthBook run()"
    return [
        compared("assign_one", "decisions/s", rates["ours"], who, rates["theirs"], at_least=8.0),
        compared("assign_one_floor", "decisions/s", rates["ours"], "bare SHA-256", rates["sha256"]),
        compared("assign_twenty", "units/s", twenty_rates["ours"], who, twenty_rates["theirs"], at_least=8.0),
        compared("assign_targeted", "decisions/s", condition_rates["ours"], who, condition_rates["theirs"]),
    ]


def _same_arms(ours: PreparedExperiment, say: Callable[[str], None]) -> None:
    """A fast assignment that is uneven would be no assignment: stop here if it is."""
    arms = [ours.assign(unit).arm for unit in UNITS]
    share = arms.count("treatment") / len(arms)
    say(f"share of treatment: {share:.3f}")
    if abs(share - 0.5) > 0.03:
        raise AssertionError(f"{share:.3f} of the units are in an arm of weight 0.5")


def _logged(say: Callable[[str], None]) -> list[Row]:
    from growthbook import GrowthBook

    say("with exposures")
    ours, theirs = _ours(), _theirs()
    sent: dict[str, list[float]] = {"caller": [], "all": []}

    def decide_and_log() -> None:
        logger = ExposureLogger(lambda row: None, queue_limit=2 * len(UNITS))
        decide, log = ours.assign, logger.log
        whole, own = time.process_time(), time.thread_time()
        for unit in UNITS:
            log(decide(unit))
        sent["caller"].append(time.thread_time() - own)
        if left := logger.close():
            raise AssertionError(f"{left} exposures were not sent")
        sent["all"].append(time.process_time() - whole)

    theirs_taken: list[float] = []

    def run_and_track() -> None:
        queue: deque[tuple[str, str, int, int]] = deque()

        def track(experiment: Any, result: Any, **_: Any) -> None:
            queue.append((experiment.key, result.hashValue, result.variationId, time.time_ns()))

        attributes = {"id": ""}
        sdk = GrowthBook(attributes=attributes, on_experiment_viewed=track)
        own = time.thread_time()
        for unit in UNITS:
            attributes["id"] = unit
            sdk.run(theirs)
        theirs_taken.append(time.thread_time() - own)
        if len(queue) != len(UNITS):
            raise AssertionError(f"{len(queue)} exposures were tracked, not {len(UNITS)}")

    in_turn({"ours": decide_and_log, "theirs": run_and_track}, runs=RUNS)
    caller, whole, their_rate = (_rate(each[1:], len(UNITS)) for each in (sent["caller"], sent["all"], theirs_taken))
    who = "GrowthBook run()"
    return [
        compared("assign_logged", "exposures/s", caller, who, their_rate, at_least=5.0),
        compared("assign_logged_sent", "exposures/s", whole, who, their_rate),
    ]


def _column(say: Callable[[str], None]) -> list[Row]:
    say(f"{COLUMN} ids, {COLUMN_RUNS} runs")
    ids = [f"user-{i}" for i in range(COLUMN)]
    column = pa.array(ids)
    experiment = _ours()
    assign_column(experiment, column[:1_000_000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assign_column(experiment, column)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024

    def bare(ids: list[str]) -> None:
        digest = hashlib.sha256
        for unit in ids:
            digest(unit.encode()).digest()

    taken = in_turn(
        {"ours": lambda: assign_column(experiment, column), "bare": lambda: bare(ids)}, runs=COLUMN_RUNS, warmup=0
    )
    short, short_ids = column[:SHORT_COLUMN], ids[:SHORT_COLUMN]
    one_core = in_turn(
        {"ours": lambda: assign_column(experiment, short, threads=1), "bare": lambda: bare(short_ids)},
        runs=COLUMN_RUNS,
        clock=time.process_time,
    )
    return [
        compared("assign_bulk", "s", taken["ours"], "bare SHA-256, one core", taken["bare"], at_most=1.15),
        compared("assign_bulk_one_core", "s", one_core["ours"], "bare SHA-256, one core", one_core["bare"]),
        # Ten times the ids of the run before: what grew is the answer (20 MB), not the work.
        figure("assign_bulk_memory", "MiB", grown, at_most=60.0),
    ]
