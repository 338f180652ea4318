"""Settings: environment before file before defaults; a wrong one is named; secrets stay secret."""

from pathlib import Path

import pytest

from sagelift.errors import SettingsError
from sagelift.settings import load_settings, rows


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
    """Else whoever writes to the topic chooses what the consumer opens."""
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


def test_every_setting_says_what_it_means() -> None:
    assert all(row.description for row in rows())
