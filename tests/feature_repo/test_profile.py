from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from feast.repo_operations import get_repo_files

import feature_repo
from feature_repo.errors import StoreStateError
from feature_repo.profile import write_repository

PACKAGE = Path(feature_repo.__file__).parent


def test_profile_is_filled_in_with_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    home = write_repository(Path("state"))
    settings = yaml.safe_load((home / "feature_store.yaml").read_text())
    assert home == tmp_path / "state" / "feast"
    assert settings["online_store"]["path"] == str(home / "online.db")
    assert settings["registry"]["path"] == f"sqlite:///{home}/registry.db"
    assert "$" not in (home / "feature_store.yaml").read_text()


def test_writing_again_leaves_files_untouched(tmp_path: Path) -> None:
    home = write_repository(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in home.iterdir()}
    write_repository(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in home.iterdir()} == before


@pytest.mark.parametrize("name", ["a$HOME", "what?", "a*b", "a[1]", 'a"b', "a%20b"])
def test_folders_that_feast_would_misread_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreStateError, match="choose another folder"):
        write_repository(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StoreStateError, match=re.escape(str(tmp_path / "state"))):
        write_repository(tmp_path / "state")


def test_another_online_store_is_taken_from_its_own_file(tmp_path: Path) -> None:
    home = write_repository(tmp_path)
    (home / "online_store.yaml").write_text("type: some.Store\nconninfo: ${SECRET}\n")
    before = yaml.safe_load((home / "feature_store.yaml").read_text())
    write_repository(tmp_path)
    after = yaml.safe_load((home / "feature_store.yaml").read_text())
    assert after == before | {"online_store": {"type": "some.Store", "conninfo": "${SECRET}"}}
    (home / "online_store.yaml").unlink()
    write_repository(tmp_path)
    assert yaml.safe_load((home / "feature_store.yaml").read_text()) == before


@pytest.mark.parametrize("text", ["", "- a", "path: x", "a: [", "\udcff"])
def test_a_file_that_describes_no_online_store_is_named(tmp_path: Path, text: str) -> None:
    home = write_repository(tmp_path)
    before = (home / "feature_store.yaml").read_text()
    (home / "online_store.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StoreStateError, match=r"online_store\.yaml"):
        write_repository(tmp_path)
    assert (home / "feature_store.yaml").read_text() == before


def test_feast_apply_imports_repo_py_alone_from_the_package() -> None:
    ignored = [line for line in (PACKAGE / ".feastignore").read_text().splitlines() if line[:1] not in ("", "#")]
    assert get_repo_files(PACKAGE) == [PACKAGE / "repo.py"]
    assert [line for line in ignored if not (PACKAGE / line).exists()] == []
