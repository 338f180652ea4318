"""The local stack with the real Apache Kafka and Triton: it survives failures and leaves nothing behind."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from sagelift.stack import kafka_jars, status, triton_wheel
from sagelift.stack.errors import (
    AlreadyRunningError,
    MissingComponentError,
    ModelError,
    PortError,
    StackError,
    UnreachableError,
)
from sagelift.stack.kafka import KafkaBroker
from sagelift.stack.ports import is_free
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
from sagelift.stack.status import read_status, stop
from sagelift.stack.supervised import RestartPolicy
from sagelift.stack.triton import TritonServer
from tests.waiting import wait_until

pytestmark = [
    pytest.mark.integration,
    # kafka-python reads its schemas with a function that Python 3.11 deprecates.
    pytest.mark.filterwarnings("ignore:(read|open)_text is deprecated:DeprecationWarning"),
]

CACHE = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()

CONFIG = """
name: "identity" backend: "python" max_batch_size: 8
input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]
output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]
instance_group [ { count: 1 kind: KIND_CPU } ]
"""
MODEL = """
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(request, "x") for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor.from_dlpack("y", x)]) for x in inputs]
"""
# A worker with a child that ignores SIGTERM and has left its process group: the hardest case to clean up.
STUBBORN = [
    "import signal, subprocess, sys, time",
    "child = 'import os, signal, time; os.setpgid(0, 0); signal.signal(15, signal.SIG_IGN); time.sleep(3600)'",
    "subprocess.Popen([sys.executable, '-c', child])",
    "time.sleep(3600)",
]
WORKER = WorkerSpec("stubborn", [sys.executable, "-c", "\n".join(STUBBORN)])
# `sagelift up` in another process: sys.argv is state folder, cache folder.
SUPERVISOR = f"""
import sys
from pathlib import Path
from sagelift.stack.foreground import run
from sagelift.stack.stack import LocalStack, WorkerSpec
stack = LocalStack(Path(sys.argv[1]), Path(sys.argv[2]), say=print)
worker = WorkerSpec("stubborn", [sys.executable, "-c", {chr(10).join(STUBBORN)!r}])
sys.exit(run(stack, workers=lambda _: [worker]))
"""


@pytest.fixture(scope="module")
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, said: list[str]) -> Iterator[LocalStack]:
    state_dir = tmp_path_factory.mktemp("stack")
    write_model(state_dir / "models")
    with LocalStack(state_dir, CACHE, say=said.append) as stack:
        yield stack


def test_a_running_stack_serves_messages_and_models_and_reports_itself(stack: LocalStack) -> None:
    """Messages pass, the model answers, and other processes can read the state from the folder."""
    produce(stack.kafka_bootstrap, "hello", [b"1", b"2"])
    assert consume(stack.kafka_bootstrap, "hello", 2) == [b"1", b"2"]
    assert infer(stack.triton_grpc) == [0.0, 1.0, 2.0, 3.0]

    seen = read_status(stack.state_dir)

    assert seen.healthy
    assert seen.pid == os.getpid()
    assert (seen.kafka_bootstrap, seen.triton_grpc) == (stack.kafka_bootstrap, stack.triton_grpc)
    assert seen.triton_metrics == stack.triton_metrics
    assert {c.name: c.state for c in seen.components} == {"Kafka": "ready", "Triton": "ready"}
    assert all(psutil.pid_exists(c.pid) for c in seen.components if c.pid)


def test_a_second_supervisor_on_the_same_folder_is_refused(stack: LocalStack) -> None:
    """The error names the process that uses the folder, and that one continues."""
    with pytest.raises(AlreadyRunningError, match=rf"already running .*process {os.getpid()}"):
        LocalStack(stack.state_dir, CACHE).start()
    assert read_status(stack.state_dir).healthy


def test_a_killed_broker_restarts_on_its_port_with_its_messages(stack: LocalStack, said: list[str]) -> None:
    assert stack.kafka is not None
    bootstrap, restarts = stack.kafka_bootstrap, component(stack, "Kafka").restarts
    sent = [b"%d" % i for i in range(500)]
    produce(bootstrap, "kept", sent)

    os.kill(stack.kafka.pid or 0, signal.SIGKILL)

    wait_until(
        lambda: component(stack, "Kafka").restarts > restarts and read_status(stack.state_dir).healthy, timeout_s=40
    )
    assert stack.kafka_bootstrap == bootstrap
    assert consume(bootstrap, "kept", 500) == sent
    assert component(stack, "Kafka").last_error == "ended with exit code 137"
    assert any(line.startswith("Kafka ended with exit code 137; restarting") for line in said)


@pytest.mark.parametrize("victim", ["server", "stub"])
def test_a_killed_triton_or_model_process_is_replaced(stack: LocalStack, victim: str) -> None:
    """A dead stub leaves Triton live and the model "ready" although every request fails."""
    assert stack.triton is not None
    address, restarts = stack.triton_grpc, component(stack, "Triton").restarts
    server = psutil.Process(stack.triton.pid)
    (stub,) = server.children()

    (server if victim == "server" else stub).kill()

    wait_until(
        lambda: component(stack, "Triton").restarts > restarts and read_status(stack.state_dir).healthy, timeout_s=40
    )
    assert stack.triton_grpc == address
    assert infer(address) == [0.0, 1.0, 2.0, 3.0]


def test_a_triton_that_hangs_is_replaced(stack: LocalStack) -> None:
    """The process is suspended, not dead: only the probe finds it."""
    assert stack.triton is not None
    restarts = component(stack, "Triton").restarts
    psutil.Process(stack.triton.pid).suspend()
    wait_until(
        lambda: component(stack, "Triton").restarts > restarts and read_status(stack.state_dir).healthy, timeout_s=40
    )
    assert infer(stack.triton_grpc) == [0.0, 1.0, 2.0, 3.0]


def test_a_broken_model_is_refused_with_tritons_reason_and_others_continue(stack: LocalStack) -> None:
    broken = stack.model_repository / "broken"
    (broken / "1").mkdir(parents=True)
    (broken / "config.pbtxt").write_text(CONFIG.replace("identity", "broken"))
    (broken / "1" / "model.py").write_text("import no_such_module\n")
    try:
        with pytest.raises(ModelError, match=r"'broken'.*No module named 'no_such_module'"):
            stack.load_model("broken")
    finally:
        shutil.rmtree(broken)
    assert infer(stack.triton_grpc) == [0.0, 1.0, 2.0, 3.0]


def test_services_given_by_address_are_used_and_not_started(stack: LocalStack, tmp_path: Path) -> None:
    options = StackOptions(kafka_bootstrap=stack.kafka_bootstrap, triton_url=stack.triton_grpc)
    with LocalStack(tmp_path, CACHE, options) as second:
        assert second.kafka is None
        assert second.triton is None
        assert second.kafka_bootstrap == stack.kafka_bootstrap
        assert {c.name: c.state for c in second.status().components} == {"Kafka": "external", "Triton": "external"}
        assert read_status(tmp_path).healthy


def test_a_worker_that_keeps_failing_is_given_up_with_a_message(stack: LocalStack, tmp_path: Path) -> None:
    said: list[str] = []
    options = StackOptions(
        kafka_bootstrap=stack.kafka_bootstrap,
        triton_url=stack.triton_grpc,
        restart_policy=RestartPolicy(first_pause_s=0.01, max_failures=3),
    )
    with LocalStack(tmp_path, CACHE, options, say=said.append) as second:
        second.add_worker(WorkerSpec("hopeless", [sys.executable, "-c", "raise SystemExit(3)"]))
        wait_until(lambda: component(second, "hopeless").state == "failed", timeout_s=40)
        assert component(second, "hopeless").restarts == 2
        assert not read_status(tmp_path).healthy
    assert any("hopeless ended with exit code 3; gave up after 3 failures" in line for line in said)


@pytest.mark.parametrize("option", ["kafka_bootstrap", "triton_url"])
def test_an_external_service_that_does_not_answer_is_named(option: str, tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match=r"answers at 127\.0\.0\.1:9:"):
        LocalStack(tmp_path, CACHE, StackOptions(**{option: "127.0.0.1:9"})).start()
    assert read_status(tmp_path) == status.StackStatus()


@pytest.mark.parametrize("option", ["kafka_port", "triton_port"])
def test_a_busy_port_is_named_with_its_owner_and_no_process_stays(option: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with pytest.raises(PortError, match=rf"Port {port}, .*\(process {os.getpid()}\)"):
            LocalStack(tmp_path, CACHE, StackOptions(**{option: port})).start()
    assert guarded_processes(tmp_path) == []
    assert read_status(tmp_path) == status.StackStatus()


def test_ctrl_c_ends_the_supervisor_with_130_and_leaves_nothing(tmp_path: Path) -> None:
    with supervisor(tmp_path) as process:
        left = Left(process, tmp_path)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        left.assert_nothing()
    assert read_status(tmp_path) == status.StackStatus()


def test_kill_9_of_the_supervisor_leaves_no_process_and_the_next_one_starts(tmp_path: Path) -> None:
    """No process (not even the grandchild that ignores SIGTERM), /dev/shm segment or port stays; messages do."""
    with supervisor(tmp_path) as process:
        left = Left(process, tmp_path)
        produce(read_status(tmp_path).kafka_bootstrap or "", "kept", [b"message"])
        process.kill()
        process.wait()
        assert read_status(tmp_path).stale
        left.assert_nothing()

    with supervisor(tmp_path) as process:
        bootstrap = read_status(tmp_path).kafka_bootstrap or ""
        assert consume(bootstrap, "kept", 1) == [b"message"]
        process.kill()
        process.wait()
    # Start again at once, while the guardians of the killed one still work; then stop like `sagelift down`.
    with supervisor(tmp_path) as process:
        again = Left(process, tmp_path)
        assert stop(tmp_path, timeout=30) is True
        assert process.wait(10) == 0
        again.assert_nothing()
    assert stop(tmp_path) is False


def test_an_incomplete_jar_is_named_and_replaced(tmp_path: Path) -> None:
    kafka_jars.fetch_kafka(CACHE, lambda _: None)
    whole = kafka_jars.kafka_folder(CACHE)
    folder = kafka_jars.kafka_folder(tmp_path)
    shutil.copytree(whole, folder)
    jar = folder / "kafka-clients-4.3.1.jar"
    os.truncate(jar, jar.stat().st_size // 2)
    said: list[str] = []

    with pytest.raises(MissingComponentError, match=r"kafka-clients-4\.3\.1\.jar"):
        KafkaBroker(tmp_path / "kafka", tmp_path).start()
    kafka_jars.fetch_kafka(tmp_path, said.append)

    assert "kafka-clients-4.3.1.jar" in said[0]
    assert jar.read_bytes() == (whole / jar.name).read_bytes()
    assert kafka_jars.kafka_classpath(tmp_path).count(".jar") == 46


def test_without_network_the_first_start_names_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the folder and no address of a registry; no partial file stays."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    for fetch in (kafka_jars.fetch_kafka, triton_wheel.fetch_triton):
        with pytest.raises(StackError, match="the package registry cannot be reached") as raised:
            fetch(tmp_path, lambda _: None)
        assert "://" not in str(raised.value)
        assert str(tmp_path) in str(raised.value)
    assert [p for p in tmp_path.rglob("*") if p.is_file() and p.suffix in (".jar", ".whl")] == []


# --- Helpers --------------------------------------------------------------------------------------------------------


class Left:
    """The processes, segments and ports of a running supervisor, to check later that none is left."""

    def __init__(self, supervisor: "subprocess.Popen[str]", state_dir: Path) -> None:
        seen = read_status(state_dir)
        self.processes = psutil.Process(supervisor.pid).children(recursive=True)
        self.prefix = TritonServer(state_dir / "triton", CACHE, state_dir / "models").shm_prefix
        addresses = (seen.kafka_bootstrap, seen.triton_grpc, seen.triton_metrics)
        self.ports = [int(address.rpartition(":")[2]) for address in addresses if address]
        names = sorted(p.name() for p in self.processes)
        assert "java" in names
        assert "tritonserver" in names
        assert len(self.ports) == 3
        assert self.segments() != []
        assert not any(is_free(port) for port in self.ports)

    def segments(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"{self.prefix}*"))

    def assert_nothing(self) -> None:
        """Wait for the guardians, which clean up after a killed supervisor."""
        wait_until(lambda: not any(map(alive, self.processes)), timeout_s=40)
        assert self.segments() == []
        assert [port for port in self.ports if not is_free(port)] == []


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


class supervisor:
    """`sagelift up` as a process; the block starts when it is ready, and the process is killed at the end."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir

    def __enter__(self) -> "subprocess.Popen[str]":
        write_model(self.state_dir / "models")
        log = (self.state_dir / "supervisor.log").open("a")
        command = [sys.executable, "-c", SUPERVISOR, str(self.state_dir), str(CACHE)]
        with log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True)
        wait_until(self._ready, timeout_s=60)
        return self.process

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def _ready(self) -> bool:
        if self.process.poll() is not None:
            pytest.fail((self.state_dir / "supervisor.log").read_text())
        seen = read_status(self.state_dir)
        return seen.pid == self.process.pid and len(seen.components) == 3 and seen.healthy


def guarded_processes(state_dir: Path) -> list[str]:
    """Return the command lines of all other processes that mention the folder."""
    lines = []
    for process in psutil.process_iter():
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if str(state_dir) in line and process.pid != os.getpid():
            lines.append(line)
    return lines


def component(stack: LocalStack, name: str) -> status.ComponentStatus:
    return next(c for c in read_status(stack.state_dir).components if c.name == name)


def write_model(repository: Path) -> None:
    version = repository / "identity" / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version.parent / "config.pbtxt").write_text(CONFIG)
    (version / "model.py").write_text(MODEL)


def infer(address: str) -> list[float]:
    from tritonclient import grpc

    with grpc.InferenceServerClient(address) as client:
        x = grpc.InferInput("x", [1, 4], "FP32")
        x.set_data_from_numpy(np.arange(4, dtype=np.float32)[None])
        answer = client.infer("identity", [x], client_timeout=10).as_numpy("y")
        return [float(value) for value in answer[0]]


def produce(bootstrap: str, topic: str, values: list[bytes]) -> None:
    from kafka import KafkaAdminClient, KafkaProducer
    from kafka.admin import NewTopic

    admin = KafkaAdminClient(bootstrap_servers=bootstrap)
    admin.create_topics([NewTopic(topic, 1, 1)])
    admin.close()
    producer = KafkaProducer(bootstrap_servers=bootstrap)
    futures = [producer.send(topic, value) for value in values]
    producer.flush(20)
    for future in futures:
        future.get(10)
    producer.close()


def consume(bootstrap: str, topic: str, count: int) -> list[bytes]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, 0)])
    values: list[bytes] = []
    deadline = time.monotonic() + 20
    while len(values) < count and time.monotonic() < deadline:
        for records in consumer.poll(500).values():
            values.extend(record.value for record in records)
    consumer.close()
    return values
