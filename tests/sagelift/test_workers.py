"""What the local stack and its consumers are told follows from the settings."""

from pathlib import Path

import pytest

from sagelift.settings import load_settings
from sagelift.stack.stack import LocalStack, StackOptions
from sagelift.workers import stack_options, worker_specs


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
