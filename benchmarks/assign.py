"""Assignment of units to arms, one by one and as a column, against GrowthBook's SDK and bare SHA-256.

Measures evaluations per second for one unit and one experiment, for one unit and twenty experiments, with a targeting
condition and with exposures, against GrowthBook's `run()`; the goal is at least 8 times its rate (5 with exposures).
Measures the seconds for a column of ten million ids against bare SHA-256 of each id; the goal is at most 1.15 times.

GrowthBook gets its fastest form: a prepared experiment, attributes changed in place, no URL, no sticky buckets. Each
evaluation is of another unit than the last. All figures are CPU time of one process, except `assign_bulk`, which is
elapsed time because it may use all cores; `assign_bulk_one_core` is its CPU time on one core. With exposures, the time
is that of the calling thread, because both sides only queue them; `assign_logged_sent` adds the time of our sender.
"""

from __future__ import annotations

import hashlib
import resource
import time
from collections import deque
from typing import Any

import pyarrow as pa

from benchmarks import ofrep
from benchmarks.harness import Row, Say, compared, figure, in_turn
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


def rows(say: Say) -> list[Row]:
    """Measure `assign_*`, and `ofrep_*` of the benchmark `ofrep`."""
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


def _one_by_one(say: Say) -> list[Row]:
    from growthbook import GrowthBook

    say(f"{len(UNITS)} units a run, {RUNS} runs")
    ours, twenty = _ours(), [_ours(i) for i in range(TWENTY)]
    targeted, few = _ours(targeting=CONDITION), UNITS[: len(UNITS) // TWENTY]
    attributes: dict[str, Any] = {"id": ""}
    sdk, theirs, their_twenty = GrowthBook(attributes=attributes), _theirs(), [_theirs(i) for i in range(TWENTY)]
    their_targeted = _theirs(condition={"country": {"$in": ["DE", "AT"]}, "age": {"$gte": 18}})

    def assign() -> None:
        assign_one = ours.assign
        for unit in UNITS:
            assign_one(unit)

    def run() -> None:
        for unit in UNITS:
            attributes["id"] = unit
            sdk.run(theirs)

    def sha256() -> None:
        digest = hashlib.sha256
        for unit in UNITS:
            digest(unit.encode()).digest()

    def assign_twenty() -> None:
        for unit in few:
            assign_all(twenty, unit)

    def run_twenty() -> None:
        for unit in few:
            attributes["id"] = unit
            for experiment in their_twenty:
                sdk.run(experiment)

    def assign_targeted() -> None:
        for unit in UNITS:
            targeted.assign(unit, ATTRIBUTES)

    def run_targeted() -> None:
        attributes.update(ATTRIBUTES)
        for unit in UNITS:
            attributes["id"] = unit
            sdk.run(their_targeted)

    _same_arms(ours, say)
    clock = time.process_time
    one = in_turn({"ours": assign, "theirs": run, "sha256": sha256}, runs=RUNS, clock=clock)
    all_twenty = in_turn({"ours": assign_twenty, "theirs": run_twenty}, runs=RUNS, clock=clock)
    with_condition = in_turn({"ours": assign_targeted, "theirs": run_targeted}, runs=RUNS, clock=clock)
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


def _same_arms(ours: PreparedExperiment, say: Say) -> None:
    """Check that the arms are even, because an uneven assignment would be wrong however fast it is."""
    arms = [ours.assign(unit).arm for unit in UNITS]
    share = arms.count("treatment") / len(arms)
    say(f"share of treatment: {share:.3f}")
    if abs(share - 0.5) > 0.03:
        raise AssertionError(f"{share:.3f} of the units are in an arm of weight 0.5")


def _logged(say: Say) -> list[Row]:
    from growthbook import GrowthBook

    say("with exposures")
    ours, theirs = _ours(), _theirs()
    sent: dict[str, list[float]] = {"caller": [], "all": []}

    def assign_and_log() -> None:
        logger = ExposureLogger(lambda row: None, queue_limit=2 * len(UNITS))
        assign, log = ours.assign, logger.log
        whole, own = time.process_time(), time.thread_time()
        for unit in UNITS:
            log(assign(unit))
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

    in_turn({"ours": assign_and_log, "theirs": run_and_track}, runs=RUNS)
    caller, whole, their_rate = (_rate(each[1:], len(UNITS)) for each in (sent["caller"], sent["all"], theirs_taken))
    who = "GrowthBook run()"
    return [
        compared("assign_logged", "exposures/s", caller, who, their_rate, at_least=5.0),
        compared("assign_logged_sent", "exposures/s", whole, who, their_rate),
    ]


def _column(say: Say) -> list[Row]:
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
        # Ten times the ids of the run before: the growth is the answer (20 MB), not working memory.
        figure("assign_bulk_memory", "MiB", grown, at_most=60.0),
    ]
