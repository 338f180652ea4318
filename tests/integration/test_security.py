"""Kafka with users, rights and TLS, and Triton with TLS: right settings work, wrong ones get a specific error.

All tests share one real broker with four listeners and one real Triton.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from kafka.admin import ACLOperation, ResourceType

from inference.errors import ServingError
from inference.triton.client import TritonClient
from sagelift.errors import SettingsError
from sagelift.services import CATALOG_GROUP, EVENTS_GROUP, Services
from sagelift.settings import Settings, load_settings
from sagelift.stack.errors import UnreachableError
from sagelift.stack.ports import LOOPBACK
from sagelift.stack.stack import LocalStack, StackOptions
from sagelift.stack.triton import TritonServer
from sagelift.workers import catalog_worker, events_worker
from streaming.dead_letters.reader import DeadLetterReader
from streaming.dead_letters.replay import replaying
from streaming.dead_letters.replay_plan import plan
from streaming.dead_letters.writer import DeadLetterWriter, FailedRecord
from streaming.errors import BrokerError, TopicError
from streaming.kafka.connection import Connection, TopicPartition, explained
from streaming.kafka.lag import LagMeter
from streaming.kafka.topic_admin import ensure_topics
from streaming.kafka.topics import CATALOG_UPDATES, EVENTS, TOPICS, dead_letter_topic
from streaming.vectors.publisher import OutgoingVector, embedding_publisher
from tests.integration.secure_broker import PASSWORD, WRONG, Authority, SecureBroker, documented_rights
from tests.streaming.builders import Record
from tests.waiting import wait_until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

# --- Certificates and the broker --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates") / "ours", "our authority")
    # The broker's certificate is for `localhost` only, so 127.0.0.1 is a wrong name; Triton's is the reverse.
    authority.sign("broker", "DNS:localhost")
    authority.sign("triton", f"DNS:triton,IP:{LOOPBACK}")
    authority.sign("worker", "DNS:worker")
    authority.lock("worker")
    (authority / "broker.both.pem").write_text(
        (authority / "broker.key").read_text() + (authority / "broker.pem").read_text()
    )
    return authority


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority that nobody trusts."""
    authority = Authority(tmp_path_factory.mktemp("certificates") / "others", "another authority")
    authority.sign("worker", "DNS:worker")
    return authority


RIGHTS = documented_rights()
WORKERS = ("catalogue consumer", "event sink", "feed publisher", "dead-letter operator")
USERS = {who: who.replace(" ", "-") for who in RIGHTS if who != "every worker"}


@pytest.fixture(scope="module")
def broker(cache: Path, ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureBroker]:
    """A broker with topics, and with users that have the rights of docs/operators/security.md, or fewer."""
    with SecureBroker(tmp_path_factory.mktemp("kafka"), cache, ours) as broker:
        ensure_topics(Connection(broker.bootstrap))
        everywhere = RIGHTS["every worker"]
        rights = {user: [*RIGHTS[who], *(everywhere if who in WORKERS else ())] for who, user in USERS.items()}
        sink = rights[USERS["event sink"]]
        less = {
            "nobody": [],
            "no-group": [right for right in sink if right[0] is not ResourceType.GROUP],
            "no-read": [right for right in sink if right[1:] != (EVENTS, ACLOperation.READ)],
        }
        broker.let_in({**rights, **less})
        yield broker


@pytest.fixture
def kafka_settings(broker: SecureBroker, ours: Authority) -> dict[str, Any]:
    """Correct settings of the user `nobody`."""
    return {
        "bootstrap_servers": broker.sasl_ssl,
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "username": "nobody",
        "password": PASSWORD,
        "ssl_ca_file": ours / "ca.pem",
    }


def connection(kafka: dict[str, Any]) -> Connection:
    return Services(load_settings(kafka=kafka)).kafka


def as_user(kafka: dict[str, Any], who: str) -> dict[str, Any]:
    return {**kafka, "username": USERS[who]}


@contextmanager
def refused(match: str, kind: type[Exception] = BrokerError) -> Iterator[None]:
    """Expect an error with this message and without secrets."""
    with pytest.raises(kind, match=match) as raised:
        yield
    assert PASSWORD not in str(raised.value)
    assert WRONG not in str(raised.value)


# --- Signing on -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_user_signs_on_by_scram_over_tls(kafka_settings: dict[str, Any], mechanism: str) -> None:
    connection({**kafka_settings, "sasl_mechanism": mechanism}).check()


def test_an_api_key_signs_on_by_plain_over_tls(kafka_settings: dict[str, Any]) -> None:
    connection({**kafka_settings, "sasl_mechanism": "PLAIN", "username": "api-key"}).check()


def test_sasl_works_without_tls(broker: SecureBroker, kafka_settings: dict[str, Any]) -> None:
    del kafka_settings["ssl_ca_file"]
    open_ = {"bootstrap_servers": broker.sasl_plaintext, "security_protocol": "SASL_PLAINTEXT"}
    connection({**kafka_settings, **open_}).check()


def test_a_certificate_signs_on_by_mutual_tls(broker: SecureBroker, ours: Authority) -> None:
    """The key may be encrypted; kafka-python's own clients connect with the same settings."""
    certified = connection(mutual(broker, ours))
    certified.check()
    with closing(certified.admin()) as admin:
        assert admin.describe_cluster()["brokers"]


def mutual(broker: SecureBroker, ours: Authority) -> dict[str, Any]:
    return {
        "bootstrap_servers": broker.mutual_tls,
        "security_protocol": "SSL",
        "ssl_ca_file": ours / "ca.pem",
        "ssl_cert_file": ours / "worker.pem",
        "ssl_key_file": ours / "worker.locked.key",
        "ssl_key_password": PASSWORD,
    }


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
def test_a_wrong_password_is_named_as_the_cause(kafka_settings: dict[str, Any], mechanism: str) -> None:
    """kafka-python alone loses the broker's answer and retries."""
    with refused(f"refuses user 'nobody' with {mechanism}.*KAFKA__PASSWORD"):
        connection({**kafka_settings, "sasl_mechanism": mechanism, "password": WRONG}).producer()


@pytest.mark.parametrize("make", [Connection.admin, Connection.producer, Connection.consumer])
def test_every_kind_of_client_names_the_cause(
    kafka_settings: dict[str, Any], make: Callable[[Connection], Any]
) -> None:
    with refused("refuses user 'stranger'"):
        make(connection({**kafka_settings, "username": "stranger"}))


def test_a_certificate_of_another_authority_is_refused(kafka_settings: dict[str, Any], others: Authority) -> None:
    with refused(r"certificate of localhost:\d+ is not trusted: unable to get local issuer.*KAFKA__SSL_CA_FILE"):
        connection({**kafka_settings, "ssl_ca_file": others / "ca.pem"}).admin()


def test_the_systems_authorities_apply_by_default(kafka_settings: dict[str, Any]) -> None:
    del kafka_settings["ssl_ca_file"]
    with refused(r"certificate of localhost:\d+ is not trusted.*KAFKA__SSL_CA_FILE"):
        connection(kafka_settings).admin()


def test_a_broker_whose_certificate_has_another_name_is_refused(kafka_settings: dict[str, Any]) -> None:
    by_number = kafka_settings["bootstrap_servers"].replace("localhost", LOOPBACK)
    with refused(rf"certificate of {LOOPBACK}:\d+ is not trusted: IP address mismatch.*use a broker name"):
        connection({**kafka_settings, "bootstrap_servers": by_number}).admin()
    connection({**kafka_settings, "bootstrap_servers": by_number, "ssl_check_hostname": False}).check()


def test_one_usable_broker_of_the_list_is_enough(kafka_settings: dict[str, Any]) -> None:
    right = kafka_settings["bootstrap_servers"]
    wrong_name = right.replace("localhost", LOOPBACK)
    connection({**kafka_settings, "bootstrap_servers": f"localhost:1,{wrong_name},{right}"}).check()


def test_files_that_changed_since_the_settings_were_read_are_named(
    broker: SecureBroker, ours: Authority, tmp_path: Path
) -> None:
    for name in ("ca.pem", "worker.pem", "worker.locked.key"):
        shutil.copy(ours / name, tmp_path)
    files = {"ssl_ca_file": "ca.pem", "ssl_cert_file": "worker.pem", "ssl_key_file": "worker.locked.key"}
    certified = connection({**mutual(broker, ours), **{key: tmp_path / name for key, name in files.items()}})
    (tmp_path / "ca.pem").unlink()
    with refused(r"ca\.pem.* cannot be used: no such file"):
        certified.check()


@pytest.mark.parametrize(
    ("port", "protocol", "message"),
    [
        (
            "sasl_ssl",
            "PLAINTEXT",
            "ends the connection at once: .* is PLAINTEXT; this port may require SSL or SASL_SSL",
        ),
        ("sasl_ssl", "SSL", "requires authentication: .* is SSL; set it to SASL_SSL"),
        ("sasl_plaintext", "PLAINTEXT", "requires authentication: .* is PLAINTEXT; set it to SASL_PLAINTEXT"),
        ("bootstrap", "SASL_SSL", "does not accept TLS with our settings .* is SASL_SSL"),
        ("bootstrap", "SASL_PLAINTEXT", "does not support SASL: .* is SASL_PLAINTEXT"),
        ("mutual_tls", "SSL", "does not accept our certificate|may require a certificate"),
    ],
)
def test_a_listener_of_another_protocol_is_distinguished_from_no_listener(
    broker: SecureBroker, kafka_settings: dict[str, Any], port: str, protocol: str, message: str
) -> None:
    """kafka-python alone reports "Unable to bootstrap" for all of them, after its timeout."""
    kafka = {**kafka_settings, "bootstrap_servers": getattr(broker, port), "security_protocol": protocol}
    if not protocol.startswith("SASL"):
        for name in ("sasl_mechanism", "username", "password"):
            del kafka[name]
    if not protocol.endswith("SSL"):
        del kafka["ssl_ca_file"]
    with refused(message):
        connection(kafka).producer()


def test_a_broker_that_does_not_trust_our_certificate_is_named(
    broker: SecureBroker, ours: Authority, others: Authority
) -> None:
    pair = {"ssl_cert_file": others / "worker.pem", "ssl_key_file": others / "worker.key", "ssl_key_password": ""}
    with refused("does not accept our certificate|may require a certificate"):
        connection({**mutual(broker, ours), **pair}).admin()


# --- Rights ---------------------------------------------------------------------------------------------------------


def test_the_documented_rights_name_every_topic() -> None:
    assert {name for _, name, _ in RIGHTS["every worker"]} == {topic.name for topic in TOPICS}


@pytest.mark.parametrize(
    ("who", "worker", "topic", "group"),
    [
        ("catalogue consumer", catalog_worker, CATALOG_UPDATES, CATALOG_GROUP),
        ("event sink", events_worker, EVENTS, EVENTS_GROUP),
    ],
)
def test_the_documented_rights_suffice_for_a_worker(
    broker: SecureBroker,
    kafka_settings: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    who: str,
    worker: Callable[[Settings, threading.Event], None],
    topic: str,
    group: str,
) -> None:
    """The worker checks the topics, joins its group, reads, writes a dead letter and commits."""
    monkeypatch.setattr(Services, "prepare_visual_encoder", lambda _: None)
    kafka = as_user(kafka_settings, who)
    settings = load_settings(state_dir=tmp_path, kafka=kafka, triton={"url": "localhost:1"})
    with closing(Connection(broker.bootstrap).producer()) as producer:
        producer.send(topic, b"no message of ours").get(10)
    stop, failed = threading.Event(), []

    def run() -> None:
        try:
            worker(settings, stop)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        with LagMeter(connection(as_user(kafka_settings, "lag meter")), group, topic) as meter:
            wait_until(lambda: failed or not meter.lag(), "the worker does not commit", timeout_s=40)
    finally:
        stop.set()
        thread.join(20)
    assert failed == []
    with closing(Connection(broker.bootstrap).consumer()) as consumer:
        assert sum(consumer.end_offsets([TopicPartition(dead_letter_topic(topic), 0)]).values()) == 1


def test_the_documented_rights_suffice_to_publish(kafka_settings: dict[str, Any]) -> None:
    for who, topics in (
        ("catalogue consumer", ("product.embeddings", "product.offers")),
        ("feed publisher", (CATALOG_UPDATES,)),
        ("shop", (EVENTS,)),
    ):
        kafka = connection(as_user(kafka_settings, who))
        if who in WORKERS:
            ensure_topics(kafka)
        with closing(kafka.producer()) as producer:
            for topic in topics:
                producer.send(topic, key=b"1/x", value=b"{}").get(10)


def test_the_documented_rights_suffice_for_a_search_service(kafka_settings: dict[str, Any]) -> None:
    from streaming.kafka.topic_admin import log_id, tombstones_kept_ms

    kafka = connection(as_user(kafka_settings, "search service"))
    topics = ("product.embeddings", "product.offers")
    assert tombstones_kept_ms(kafka, topics) > 0
    with closing(kafka.consumer()) as consumer:
        for topic in topics:
            assert log_id(kafka, topic)
            partitions = [TopicPartition(topic, p) for p in sorted(consumer.partitions_for_topic(topic))]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            assert sum(consumer.end_offsets(partitions).values()) >= 0
            consumer.poll(200)


def test_the_documented_rights_suffice_to_list_and_to_replay_dead_letters(
    broker: SecureBroker, kafka_settings: dict[str, Any]
) -> None:
    with closing(Connection(broker.bootstrap).producer()) as producer:
        record = Record(EVENTS, 0, 0, key=b"replayed-here", value=b"{}")
        DeadLetterWriter(producer, "g").send_all([FailedRecord(record, "decode", "ContractError", "of no use")])
    kafka = connection(as_user(kafka_settings, "dead-letter operator"))
    with DeadLetterReader(kafka) as reader:
        letters = list(reader.letters(lambda letter: letter.key == b"replayed-here"))
        with replaying(kafka, reader, rate=100) as replayer:
            assert replayer.run(plan(letters, reader.original, replayer.log)).replayed == 1


def test_a_topic_that_may_not_be_created_is_named(kafka_settings: dict[str, Any]) -> None:
    with refused(r"topic catalog\.updates cannot be created.*TopicAuthorizationFailed|may not", TopicError):
        ensure_topics(connection(kafka_settings))


def test_a_topic_that_may_not_be_written_to_is_named(kafka_settings: dict[str, Any]) -> None:
    kafka = connection(as_user(kafka_settings, "shop"))
    with closing(kafka.producer()) as producer:
        with refused(r"refuse|were not accepted: .*TopicAuthorizationFailed"):
            embedding_publisher(producer, kafka.codec)([OutgoingVector("1", "lamp", 1, None)])
        with pytest.raises(Exception, match="TopicAuthorizationFailed") as raised:
            producer.send(CATALOG_UPDATES, b"{}").get(10)
    assert explained(raised.value) == (
        "this Kafka user may not use the topic catalog.updates (TopicAuthorizationFailedError); "
        "docs/operators/security.md lists the rights it needs"
    )


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("no-group", f"GroupAuthorizationFailed.*{EVENTS_GROUP}|group {EVENTS_GROUP}"),
        ("no-read", r"topic events \(TopicAuth"),
    ],
)
def test_a_worker_without_the_right_to_its_group_or_topic_ends_and_names_it(
    kafka_settings: dict[str, Any], tmp_path: Path, user: str, message: str
) -> None:
    """A missing right is a permanent error and is not retried."""
    settings = load_settings(state_dir=tmp_path, kafka={**kafka_settings, "username": user})
    with refused(f"{EVENTS}: .*({message})"):
        events_worker(settings, threading.Event())


# --- Triton ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure_triton(cache: Path, ours: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """A Triton with mutual TLS and without models."""
    arguments = [
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={ours / 'triton.pem'}",
        f"--grpc-server-key={ours / 'triton.key'}",
        f"--grpc-root-cert={ours / 'ca.pem'}",
    ]
    files = [(ours / name).read_bytes() for name in ("ca.pem", "worker.key", "worker.pem")]
    folder = tmp_path_factory.mktemp("triton")
    credentials = grpc.ssl_channel_credentials(*files)
    with TritonServer(folder, cache, folder / "models", arguments=arguments, credentials=credentials) as server:
        yield server


@pytest.fixture
def triton_settings(secure_triton: TritonServer, ours: Authority) -> dict[str, Any]:
    return {
        "url": secure_triton.grpc,
        "tls": True,
        "tls_ca_file": ours / "ca.pem",
        "tls_cert_file": ours / "worker.pem",
        "tls_key_file": ours / "worker.key",
    }


def client(triton: dict[str, Any]) -> TritonClient:
    return Services(load_settings(triton=triton)).triton


def test_triton_is_called_by_mutual_tls(triton_settings: dict[str, Any]) -> None:
    with client(triton_settings) as triton:
        assert triton.server_ready()
        with pytest.raises(ServingError, match="no_such_model"):  # an answer of Triton, not of the connection
            triton.load("no_such_model")


def test_the_certificate_of_triton_may_have_another_name_than_its_host(triton_settings: dict[str, Any]) -> None:
    triton_settings["url"] = triton_settings["url"].replace(LOOPBACK, "localhost")
    with refused("not trusted: Hostname mismatch.*'localhost'.*TRITON__TLS_SERVER_NAME", ServingError):
        client(triton_settings)
    with client({**triton_settings, "tls_server_name": "triton"}) as triton:
        assert triton.server_ready()


def test_a_triton_that_is_not_trusted_is_named(triton_settings: dict[str, Any], others: Authority) -> None:
    with refused("certificate of Triton at .* is not trusted.*TRITON__TLS_CA_FILE", ServingError):
        client({**triton_settings, "tls_ca_file": others / "ca.pem"})


@pytest.mark.parametrize("certificate", ["none", "others"])
def test_a_triton_that_requires_a_certificate_is_distinguished_from_no_server(
    triton_settings: dict[str, Any], others: Authority, certificate: str
) -> None:
    pair = (None, None) if certificate == "none" else (others / "worker.pem", others / "worker.key")
    with refused("TRITON__TLS_CERT_FILE", ServingError):
        client({**triton_settings, "tls_cert_file": pair[0], "tls_key_file": pair[1]})


def test_ports_with_and_without_tls_are_distinguished(secure_triton: TritonServer, ours: Authority) -> None:
    with refused("may speak TLS", ServingError):
        client({"url": secure_triton.grpc})
    with refused("does not speak TLS", ServingError):  # the metrics are plain HTTP
        client({"url": secure_triton.metrics, "tls": True, "tls_ca_file": ours / "ca.pem"})


def test_a_triton_that_does_not_answer_is_not_ready() -> None:
    with client({"url": f"{LOOPBACK}:1"}) as triton:
        assert not triton.server_ready()


# --- The stack ------------------------------------------------------------------------------------------------------


def test_the_local_stack_uses_secured_servers(
    kafka_settings: dict[str, Any], triton_settings: dict[str, Any], cache: Path, tmp_path: Path
) -> None:
    """The stack probes them in their own protocols and passes on the cause of a failure, without secrets."""

    def options(kafka: dict[str, Any], triton: dict[str, Any]) -> StackOptions:
        return StackOptions(
            kafka_bootstrap=kafka["bootstrap_servers"],
            kafka_answers=lambda _: connection(kafka).check() is None,
            triton_url=triton["url"],
            triton_answers=lambda _: client(triton).server_ready(),
        )

    with LocalStack(tmp_path / "right", cache, options(kafka_settings, triton_settings)) as stack:
        assert {component.state for component in stack.status().components} == {"external"}
        assert PASSWORD not in (stack.state_dir / "stack.json").read_text()
    with refused("Kafka at .* cannot be used: .* refuses user 'nobody'", UnreachableError):
        LocalStack(tmp_path / "wrong", cache, options({**kafka_settings, "password": WRONG}, triton_settings)).start()
    without = {"url": triton_settings["url"]}
    with refused("Triton at .* cannot be used: .* may speak TLS", UnreachableError):
        LocalStack(tmp_path / "plain", cache, options(kafka_settings, without)).start()


# --- Settings -------------------------------------------------------------------------------------------------------


def test_a_key_that_the_password_does_not_decrypt_is_refused_at_load(broker: SecureBroker, ours: Authority) -> None:
    with refused("worker.pem.* encrypted and ssl_key_password does not open it", SettingsError):
        load_settings(kafka={**mutual(broker, ours), "ssl_key_password": WRONG})


def test_a_key_of_another_certificate_is_refused_at_load(
    broker: SecureBroker, ours: Authority, others: Authority
) -> None:
    with refused("not the key of ssl_cert_file", SettingsError):
        load_settings(kafka={**mutual(broker, ours), "ssl_key_file": others / "worker.key"})
    with refused("gRPC cannot open", SettingsError):
        load_settings(
            triton={
                "url": "triton:8001",
                "tls": True,
                "tls_cert_file": ours / "worker.pem",
                "tls_key_file": ours / "worker.locked.key",
            }
        )
