"""Settings: environment before file before defaults; a wrong one is named; secrets stay secret."""

from pathlib import Path

import pytest

from sagelift.errors import SettingsError
from sagelift.settings import load_settings
from sagelift.settings_reference import rows, to_markdown


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SAGELIFT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_environment_goes_before_file_and_file_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sagelift.toml").write_text("[kafka]\nport = 9001\nreplication = 3\n")
    monkeypatch.setenv("SAGELIFT_KAFKA__PORT", "9002")
    settings = load_settings()
    assert (settings.kafka.port, settings.kafka.replication, settings.triton.port) == (9002, 3, 0)


@pytest.mark.parametrize(
    ("name", "value", "path"),
    [
        ("SAGELIFT_KAFKA__PORT", "99999", "kafka.port"),
        ("SAGELIFT_TRITON__DEADLINE_S", "-1", "triton.deadline_s"),
        ("SAGELIFT_IMAGES__ALLOW_PRIVATE", "perhaps", "images.allow_private"),
    ],
)
def test_a_wrong_setting_is_named_with_its_rule(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, path: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=path.replace(".", r"\.")):
        load_settings()


def test_an_unknown_setting_in_the_file_is_refused() -> None:
    Path("sagelift.toml").write_text("[kafka]\nbootstrap = 'x'\n")
    with pytest.raises(SettingsError, match=r"kafka\.bootstrap"):
        load_settings()


def test_a_file_that_is_no_toml_is_named() -> None:
    Path("sagelift.toml").write_text("kafka = = 1\n")
    with pytest.raises(SettingsError, match=r"sagelift\.toml"):
        load_settings()


def test_a_named_file_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_FILE", "elsewhere.toml")
    with pytest.raises(SettingsError, match=r"elsewhere\.toml"):
        load_settings()


def test_the_database_url_never_shows_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__DATABASE_URL", "postgresql://u:hunter2@db/x")
    settings = load_settings()
    assert settings.database_url == "postgresql://u:hunter2@db/x"
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in settings.model_dump_json()


def test_a_wrong_secret_is_not_repeated_in_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sagelift.toml").write_text("[experiments]\ndatabase_url = ['hunter2']\n")
    with pytest.raises(SettingsError) as raised:
        load_settings()
    assert "hunter2" not in str(raised.value)


def test_a_broker_that_others_reach_cannot_name_files_outside_the_folders_of_images(tmp_path: Path) -> None:
    """Otherwise any writer of the topic could choose the files that the consumer opens."""
    state = tmp_path / "state"
    external = load_settings(state_dir=state, kafka={"bootstrap_servers": "kafka:9092"})
    assert external.image_folders == [state]
    named = load_settings(state_dir=state, images={"folders": [tmp_path / "feed"]})
    assert named.image_folders == [tmp_path / "feed", state]
    assert load_settings(state_dir=state).image_folders == [Path("/")], "the local stack's own broker"


def test_folders_of_images_come_from_a_list_or_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("sagelift.toml").write_text('[images]\nfolders = ["/a", "/b"]\n')
    assert load_settings().images.folders == [Path("/a"), Path("/b")]
    monkeypatch.setenv("SAGELIFT_IMAGES__FOLDERS", "/c:/d")
    assert load_settings().images.folders == [Path("/c"), Path("/d")]


SIGN_ON = {"sasl_mechanism": "PLAIN", "username": "key", "password": "hunter2"}
CLUSTER = {"bootstrap_servers": "kafka:9092"}
SASL = {**CLUSTER, **SIGN_ON, "security_protocol": "SASL_SSL"}
TRITON = {"url": "triton:8001", "tls": True}
REGISTRY = {"url": "https://a.example,https://b.example", "username": "ada", "password": "hunter2"}


@pytest.mark.parametrize(
    ("section", "settings", "said"),
    [
        ("kafka", {**SASL, "security_protocol": "TLS"}, r"kafka\.security_protocol: .*'SASL_SSL' \(is 'TLS'\)"),
        ("kafka", {**SASL, "sasl_mechanism": "GSSAPI"}, r"kafka\.sasl_mechanism: .*'SCRAM-SHA-512' \(is 'GSSAPI'\)"),
        (
            "kafka",
            {**SASL, "bootstrap_servers": ""},
            "is SASL_SSL, but bootstrap_servers is empty: .*name your brokers",
        ),
        ("kafka", {**SASL, "username": "", "password": ""}, "is SASL_SSL, which needs username and password: set them"),
        ("kafka", {**SASL, "sasl_mechanism": ""}, "is SASL_SSL, which needs sasl_mechanism: set them"),
        (
            "kafka",
            {**CLUSTER, "password": "hunter2"},
            "password would have no effect, because security_protocol is PLAINTEXT",
        ),
        (
            "kafka",
            {**SASL, "security_protocol": "SSL"},
            "would have no effect, because security_protocol is SSL; .* SASL_SSL",
        ),
        ("kafka", {**CLUSTER, "ssl_ca_file": "ca.pem"}, "ssl_ca_file would have no effect, .*set it to SSL"),
        (
            "kafka",
            {**SASL, "security_protocol": "SASL_PLAINTEXT", "ssl_ca_file": "ca.pem"},
            "is SASL_PLAINTEXT; set it to SASL_SSL",
        ),
        ("kafka", {**SASL, "ssl_ca_file": "ca.pem"}, "ssl_ca_file is ca.pem, which cannot be read .*correct the path"),
        (
            "kafka",
            {**SASL, "ssl_ca_file": "sagelift.toml"},
            "ssl_ca_file is sagelift.toml, which contains no PEM certificate",
        ),
        ("kafka", {**SASL, "ssl_key_file": "a.key"}, "ssl_key_file is set without ssl_cert_file"),
        ("kafka", {**SASL, "ssl_key_password": "hunter2"}, "ssl_key_password is set without ssl_cert_file"),
        ("kafka", {**SASL, "ssl_cert_file": "sagelift.toml"}, "ssl_cert_file is sagelift.toml .*not PEM"),
        (
            "triton",
            {"url": "triton:8001", "tls_ca_file": "ca.pem"},
            "tls_ca_file would have no effect, because tls is false",
        ),
        ("triton", {"tls": True}, "tls is true, but url is empty: .*name your server"),
        ("triton", {**TRITON, "tls_ca_file": "ca.pem"}, "tls_ca_file is ca.pem, which cannot be read"),
        ("triton", {**TRITON, "tls_cert_file": "sagelift.toml"}, "tls_key_file is empty|not PEM"),
        ("triton", {**TRITON, "tls_key_file": "a.key"}, "tls_key_file is set without tls_cert_file"),
        (
            "schema_registry",
            {"password": "hunter2"},
            "password would have no effect, because url is empty; name the registry",
        ),
        ("schema_registry", {"url": "registry:8081"}, "url must begin with http:// or https://"),
        (
            "schema_registry",
            {"url": "https://ada:hunter2@registry"},
            "contain no user; set username and password instead",
        ),
        ("schema_registry", {**REGISTRY, "username": ""}, "password is set without username"),
        ("schema_registry", {**REGISTRY, "ca_file": "sagelift.toml"}, "ca_file is sagelift.toml, which contains no"),
        (
            "schema_registry",
            {**REGISTRY, "format": "protobuf"},
            r"schema_registry\.format: .*'plain' \(is 'protobuf'\)",
        ),
    ],
)
def test_security_settings_that_do_not_go_together_are_refused(
    section: str, settings: dict[str, object], said: str
) -> None:
    """By value, rule and remedy, and never with a secret."""
    Path("sagelift.toml").write_text("# no certificate\n")
    with pytest.raises(SettingsError, match=said) as raised:
        load_settings(**{section: settings})
    assert "hunter2" not in str(raised.value)


def test_secrets_of_kafka_and_the_registry_are_never_shown() -> None:
    settings = load_settings(kafka=SASL, schema_registry=REGISTRY)
    assert settings.kafka.client["sasl_plain_password"] == "hunter2"
    for shown in (
        repr(settings),
        str(settings),
        settings.model_dump_json(),
        repr(settings.kafka.password),
        to_markdown(),
    ):
        assert "hunter2" not in shown


def test_only_the_settings_of_the_protocol_reach_the_client() -> None:
    assert load_settings(kafka=CLUSTER).kafka.client == {}
    assert load_settings(kafka=SASL).kafka.client == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "PLAIN",
        "sasl_plain_username": "key",
        "sasl_plain_password": "hunter2",
        "ssl_check_hostname": True,
    }


def test_a_child_process_gets_the_same_settings_by_its_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever their source was; paths become absolute, for the child may stand elsewhere."""
    Path("sagelift.toml").write_text('state_dir = "state"\n[images]\nfolders = ["a", "b"]\nallow_private = true\n')
    monkeypatch.setenv("SAGELIFT_TRITON__DEADLINE_S", "3")
    ours = load_settings(kafka=SASL, experiments={"database_url": "postgresql://u:hunter2@db/x"})
    state = ours.state
    for name, value in ours.environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    theirs = load_settings()
    assert theirs.state == state == tmp_path / "state"
    assert theirs.images.folders == [tmp_path / "a", tmp_path / "b"]
    assert theirs.images.allow_private
    assert theirs.triton.deadline_s == 3
    assert theirs.kafka == ours.kafka
    assert theirs.database_url == ours.database_url


def test_a_child_process_gets_our_defaults_and_not_those_of_its_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As the demo, which must not write into the database of the shop whose environment it is started in."""
    ours = load_settings()
    Path("sagelift.toml").write_text('[kafka]\nbootstrap_servers = "shop:9093"\nsecurity_protocol = "SSL"\n')
    monkeypatch.setenv("SAGELIFT_EXPERIMENTS__DATABASE_URL", "postgresql://u@shop/x")
    for name, value in ours.environment().items():
        monkeypatch.setenv(name, value)
    theirs = load_settings()
    assert theirs.kafka == ours.kafka
    assert theirs.database_url == ours.database_url


def test_an_empty_variable_is_no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAGELIFT_TRITON__MODEL_REPOSITORY", "")
    monkeypatch.setenv("SAGELIFT_KAFKA__SSL_CA_FILE", "")
    settings = load_settings()
    assert settings.triton.model_repository is None
    assert settings.kafka.ssl_ca_file is None


def test_every_setting_says_what_it_means() -> None:
    assert all(row.description for row in rows())
