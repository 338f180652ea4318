"""The local stack and its consumers follow the settings."""

from pathlib import Path

import pytest

from sagelift.local_stack import stack_options, worker_specs
from sagelift.settings import Settings, load_settings
from sagelift.stack.stack import LocalStack, StackOptions, WorkerSpec
from streaming.errors import BrokerError


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import os

    for name in list(os.environ):
        if name.startswith("SAGELIFT_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def test_triton_and_the_consumers_use_the_configured_model_repository(tmp_path: Path) -> None:
    settings = load_settings(state_dir=tmp_path / "state", triton={"model_repository": tmp_path / "shared"})
    assert stack_options(settings).model_repository == tmp_path / "shared"
    options = StackOptions("kafka:9092", triton_url="triton:8001", model_repository=settings.model_repository)
    for spec in worker_specs(LocalStack(settings.state, tmp_path, options), settings):
        assert spec.env["SAGELIFT_TRITON__MODEL_REPOSITORY"] == str(tmp_path / "shared")


@pytest.mark.parametrize("bootstrap", ["", "kafka:9092"])
def test_a_consumer_reads_the_same_image_files_as_its_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bootstrap: str
) -> None:
    """Though the local stack's consumers are told an address, which alone would mean a broker of others."""
    settings = load_settings(state_dir=tmp_path, kafka={"bootstrap_servers": bootstrap})
    stack = LocalStack(settings.state, tmp_path, StackOptions("127.0.0.1:9", triton_url="127.0.0.1:8"))
    for spec in worker_specs(stack, settings):
        with monkeypatch.context() as context:
            for name, value in spec.env.items():
                context.setenv(name, value)
            seen = set(load_settings().image_folders)
        assert seen - {settings.state} == set(settings.image_folders) - {settings.state}


def specs(settings: Settings) -> list[WorkerSpec]:
    options = StackOptions("127.0.0.1:9", triton_url="127.0.0.1:8")
    return list(worker_specs(LocalStack(settings.state, settings.cache, options), settings))


def test_consumers_get_the_settings_of_every_source(tmp_path: Path) -> None:
    (tmp_path / "sagelift.toml").write_text('log_format = "text"\n[images]\ntimeout_s = 3\n[poison]\nshare = 0.2\n')
    for spec in specs(load_settings(state_dir=tmp_path)):
        assert spec.env["SAGELIFT_IMAGES__TIMEOUT_S"] == "3.0"
        assert spec.env["SAGELIFT_POISON__SHARE"] == "0.2"
        assert spec.env["SAGELIFT_LOG_FORMAT"] == "text"


def test_each_consumer_has_a_port_of_its_own(tmp_path: Path) -> None:
    def ports(port: int) -> list[str]:
        return [spec.env["SAGELIFT_METRICS__PORT"] for spec in specs(load_settings(metrics={"port": port}))]

    assert ports(9400) == ["9400", "9401"]
    assert ports(0) == ["0", "0"]


def test_a_consumer_with_poison_or_wrong_settings_is_not_restarted(tmp_path: Path) -> None:
    assert [set(spec.final) for spec in specs(load_settings(state_dir=tmp_path))] == [{2, 4}, {2, 4}]


def test_an_external_service_is_probed_with_its_security_settings(tmp_path: Path) -> None:
    """The stack's own probe speaks plain Kafka; the settings' client says what is really wrong."""
    options = stack_options(load_settings(kafka={"bootstrap_servers": "127.0.0.1:1"}, triton={"url": "127.0.0.1:1"}))
    with pytest.raises(BrokerError, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        options.kafka_answers("127.0.0.1:1")
    assert not options.triton_answers("127.0.0.1:1")
