from __future__ import annotations

import os
from pathlib import Path

import pytest

from feature_repo.files import atomic_file, atomic_folder, scratch_folder, sync_tree, write_atomically


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files and folders whose content was made durable, in order."""
    names = []

    def fsync(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(os, "fsync", fsync)
    return names


@pytest.mark.parametrize("content", ["Größe", "Größe".encode()])
def test_a_file_is_replaced_and_nothing_else_stays(tmp_path: Path, content: str | bytes) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    write_atomically(path, content)
    assert path.read_text(encoding="utf-8") == "Größe"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_file(path) as partial:
            partial.write_text("ne")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_partial_file_is_hidden_beside_its_target_and_not_readable_as_one(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a.json") as partial:
        partial.write_text("{}")
        assert partial.parent == tmp_path
        assert partial.name.startswith(".")
        assert not list(tmp_path.glob("*.json"))


def test_two_writers_of_one_file_do_not_share_a_partial_file(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "a") as first, atomic_file(tmp_path / "a") as second:
        first.write_text("first")
        second.write_text("second")
    assert (tmp_path / "a").read_text() == "first"


def test_a_durable_file_is_synced_before_its_name(tmp_path: Path, synced: list[str]) -> None:
    write_atomically(tmp_path / "a", "text", durable=True)
    assert [name.endswith(".partial") for name in synced] == [True, False]
    assert synced[1] == tmp_path.name


def test_without_durable_nothing_is_synced(tmp_path: Path, synced: list[str]) -> None:
    write_atomically(tmp_path / "a", "text")
    with atomic_folder(tmp_path / "b"):
        pass
    assert synced == []


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o755), (0o027, 0o750)])
def test_a_folder_appears_whole_with_the_permissions_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    target = tmp_path / "new" / "model"
    before = os.umask(umask)
    try:
        with atomic_folder(target) as partial:
            (partial / "weights").write_text("w")
            assert not target.exists()
    finally:
        os.umask(before)
    assert (target / "weights").read_text() == "w"
    assert target.stat().st_mode & 0o777 == mode
    assert list(target.parent.iterdir()) == [target]


def test_a_folder_that_was_not_finished_is_removed(tmp_path: Path) -> None:
    def write() -> None:
        with atomic_folder(tmp_path / "model") as partial:
            (partial / "weights").write_text("w")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_never_replaces_one_with_content(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "weights").write_text("old")
    with pytest.raises(OSError, match="not empty"), atomic_folder(target) as partial:
        (partial / "weights").write_text("new")
    assert (target / "weights").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_durable_folder_is_synced_with_all_it_holds_before_its_name(tmp_path: Path, synced: list[str]) -> None:
    with atomic_folder(tmp_path / "model", durable=True) as partial:
        (partial / "1").mkdir()
        (partial / "1" / "weights").write_text("w")
        name = partial.name
    assert sorted(synced[:3]) == sorted(["1", "weights", name])
    assert synced[3:] == [tmp_path.name]


def test_a_scratch_folder_may_be_moved(tmp_path: Path) -> None:
    with scratch_folder(tmp_path) as scratch:
        (scratch / "a").write_text("a")
        sync_tree(scratch)
        scratch.rename(tmp_path / "1")
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
