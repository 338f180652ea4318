"""Exports: a release is complete or not there, and durable before it can be seen."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import inference.releases.export
from inference.errors import ArtifactError
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.repository import releases, served_versions, set_live
from inference.tokenizer import Tokenizer
from inference.visual import VISUAL_VERSION, VisualEncoder
from tests.inference.releases.fakes import TOKENIZER, small_model


def test_a_model_on_half_precision_weights_is_exported_as_float32(tmp_path: Path) -> None:
    release = export_release(tmp_path, small_model(TOKENIZER).to(torch.bfloat16), TOKENIZER)
    assert {w.dtype for w in load_file(release.path / "model.safetensors").values()} == {torch.float32}


def test_releases_have_ascending_numbers_and_all_files_that_triton_needs(tmp_path: Path) -> None:
    assert releases(tmp_path) == []
    search = tmp_path / "encoder.bin"
    search.write_bytes(b"opaque")
    for _ in range(11):
        last = export_release(tmp_path, small_model(TOKENIZER), TOKENIZER, extra_files={"search.safetensors": search})
    assert [r.version for r in releases(tmp_path)] == [str(n) for n in range(1, 12)], "10 comes after 9"
    assert last == releases(tmp_path)[-1]
    assert (last.path / "search.safetensors").read_bytes() == b"opaque"
    assert {p.name for p in last.path.iterdir()} >= {"model.py", "itemsage.py", "config.json", "tokenizer.json"}
    assert {p.name for p in last.path.parent.iterdir() if p.is_file()} == {"config.pbtxt"}, "nothing left aside"


def test_an_operators_changes_to_the_configuration_survive_an_export(tmp_path: Path) -> None:
    export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    config = tmp_path / "itemsage" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 2 kind: KIND_AUTO", "count: 4 kind: KIND_CPU"))
    export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    assert "count: 4 kind: KIND_CPU" in config.read_text()
    assert served_versions(tmp_path) == ["1", "2"]


def test_a_number_taken_by_another_export_in_the_meantime_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    seen = iter([[], releases(tmp_path)])  # the first listing was just before the other export finished
    monkeypatch.setattr(inference.releases.export, "releases", lambda repo: next(seen, None) or releases(repo))
    assert export_release(tmp_path, small_model(TOKENIZER), TOKENIZER).version == "2"


def test_model_and_tokenizer_of_different_trainings_are_not_exported(tmp_path: Path) -> None:
    other = Tokenizer.fit([{"title": "another corpus altogether"}])
    with pytest.raises(ArtifactError, match=f"{other.size} ids but the model has {TOKENIZER.size}"):
        export_release(tmp_path, small_model(TOKENIZER), other)
    assert releases(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "../escape", "sub/file"])
def test_an_extra_file_cannot_displace_or_escape(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="extra file"):
        export_release(tmp_path, small_model(TOKENIZER), TOKENIZER, extra_files={name: tmp_path / "x"})


def test_an_export_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Tokenizer, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "save", full)
    with pytest.raises(ArtifactError, match=r"cannot be written: No space left on device"):
        export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    assert list((tmp_path / "itemsage").iterdir()) == []


def test_the_visual_encoder_is_written_once_per_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = export_visual_encoder(tmp_path)
    assert folder == tmp_path / "visual_encoder" / "1"
    assert (folder.parent / "config.pbtxt").is_file()
    before = (folder / "model.safetensors").stat().st_ino
    with monkeypatch.context() as patch:
        patch.setattr(VisualEncoder, "pretrained", lambda: pytest.fail("computed again although it exists"))
        export_visual_encoder(tmp_path)
    (folder / "config.json").write_text('{"visual_version": "older"}')
    export_visual_encoder(tmp_path)
    assert (folder / "model.safetensors").stat().st_ino != before
    assert json.loads((folder / "config.json").read_text()) == {"visual_version": VISUAL_VERSION}
    assert {p.name for p in folder.parent.iterdir()} == {"1", "config.pbtxt"}


def test_live_and_a_release_are_on_the_disk_before_they_can_be_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a loss of power leaves a name without its content: an empty LIVE, a release without weights."""
    events: list[tuple[str, str]] = []

    def fsync(descriptor: int) -> None:
        events.append(("fsync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))

    for name in ("rename", "replace"):
        real = getattr(Path, name)

        def renamed(self: Path, target: Path, real: Any = real) -> Path:
            if not target.parent.name.startswith("."):  # a partial folder, which nobody sees yet
                events.append(("rename", str(target)))
                events.extend(("content", str(p)) for p in sorted(self.rglob("*")) or [self])
            return real(self, target)  # type: ignore[no-any-return]

        monkeypatch.setattr(Path, name, renamed)
    monkeypatch.setattr(os, "fsync", fsync)
    export_release(tmp_path, small_model(TOKENIZER), TOKENIZER)
    set_live(tmp_path, "1")
    synced: set[str] = set()
    for i, (kind, path) in enumerate(events):
        if kind == "fsync":
            synced.add(path)
        elif kind == "content":
            assert path in synced
        else:
            assert ("fsync", str(Path(path).parent)) in events[i:], "the new name must also survive a loss of power"
    renames = [Path(path).name for kind, path in events if kind == "rename"]
    assert renames == ["1", "config.pbtxt", "LIVE"]
