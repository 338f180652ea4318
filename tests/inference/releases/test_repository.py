"""The model repository: the live release, and the releases that Triton serves."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference.errors import ArtifactError
from inference.releases.export import export_release
from inference.releases.repository import find_release, live_version, releasing, serve, served_versions, set_live
from tests.inference.releases.fakes import TOKENIZER, small_model


def test_the_live_release_and_the_new_one_are_served_even_after_a_rollback(tmp_path: Path) -> None:
    def export() -> str:
        return export_release(tmp_path, small_model(TOKENIZER), TOKENIZER).version

    assert live_version(tmp_path) is None
    export()
    assert served_versions(tmp_path) == ["1"]
    set_live(tmp_path, "1")
    export()
    set_live(tmp_path, "2")
    assert served_versions(tmp_path) == ["1", "2"], "the old one stays for a rollback"
    set_live(tmp_path, "1")
    assert live_version(tmp_path) == "1"
    export()
    assert served_versions(tmp_path) == ["1", "3"], "Triton's own 'latest two' would drop the live release here"
    with pytest.raises(ArtifactError, match="release 2 is not served"):
        set_live(tmp_path, "2")
    serve(tmp_path, ["1", "2"])
    set_live(tmp_path, "2")
    assert live_version(tmp_path) == "2"
    with pytest.raises(ArtifactError, match="no release '9'"):
        set_live(tmp_path, "9")
    assert live_version(tmp_path) == "2"


def test_only_one_process_releases_at_a_time(tmp_path: Path) -> None:
    with releasing(tmp_path), pytest.raises(ArtifactError, match="another release is under way"), releasing(tmp_path):
        pass
    with releasing(tmp_path):
        pass


def test_a_repository_that_cannot_be_used_and_a_missing_policy_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ArtifactError, match=r"file/itemsage cannot be used: Not a directory"),
        releasing(tmp_path / "file"),
    ):
        pass
    release = export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    assert find_release(tmp_path, "1") == release
    (tmp_path / "itemsage" / "config.pbtxt").write_text("name: 'itemsage'\n")
    with pytest.raises(ArtifactError, match="has no line that begins with version_policy"):
        serve(tmp_path, ["1"])
