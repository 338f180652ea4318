"""Releases on disk: complete or not there, readable back to the same numbers, and refused when they do not fit."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import inference.releases.export
from inference.errors import ArtifactError
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.release import load_release
from inference.releases.repository import live_version, releases, serve, served_versions, set_live
from inference.tokenizer import Tokenizer
from inference.visual import VISUAL_VERSION, VisualEncoder

INPUTS = ("images", "image_counts", "token_ids", "field_lengths")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.fit([{"title": "red shoe", "brand": "ACME"}, {"title": "blue lamp"}])


def small_model(tokenizer: Tokenizer) -> ItemSage:
    return ItemSage(
        ItemSageConfig(tokenizer.size, table_rows=101, width=32, heads=4, feedforward=64, head_hidden=64)
    ).eval()


def test_a_release_reads_back_as_the_same_model_tokenizer_and_metadata(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = small_model(tokenizer)
    created = datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC)
    release = export_release(tmp_path, model, tokenizer, metadata={"recall": 0.5}, clock=lambda: created)
    loaded, loaded_tokenizer, config = load_release(release.path)
    assert loaded_tokenizer.ids("red shoe") == tokenizer.ids("red shoe") != []
    assert (config.created, config.metadata, config.visual_version) == (created, {"recall": 0.5}, VISUAL_VERSION)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], weight, rtol=0, atol=0)


def test_the_known_answers_are_those_of_the_model_and_cover_its_range(tmp_path: Path, tokenizer: Tokenizer) -> None:
    model = small_model(tokenizer)
    probe = load_file(export_release(tmp_path, model, tokenizer).path / "probe.safetensors")
    with torch.inference_mode():
        expected = model(*(probe[name] for name in INPUTS))
    torch.testing.assert_close(probe["item_embedding"], expected)
    assert {0, 20} <= set(probe["image_counts"].tolist())
    assert {0, tokenizer.size - 1} <= set(probe["token_ids"].flatten().tolist())
    assert probe["images"].dtype == torch.float16


def test_a_model_on_half_precision_weights_is_exported_as_float32(tmp_path: Path, tokenizer: Tokenizer) -> None:
    release = export_release(tmp_path, small_model(tokenizer).to(torch.bfloat16), tokenizer)
    assert {w.dtype for w in load_file(release.path / "model.safetensors").values()} == {torch.float32}


def test_releases_are_numbered_upwards_and_hold_what_triton_needs(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert releases(tmp_path) == []
    search = tmp_path / "encoder.bin"
    search.write_bytes(b"opaque")
    for _ in range(11):
        last = export_release(tmp_path, small_model(tokenizer), tokenizer, extra_files={"search.safetensors": search})
    assert [r.version for r in releases(tmp_path)] == [str(n) for n in range(1, 12)], "10 comes after 9"
    assert last == releases(tmp_path)[-1]
    assert (last.path / "search.safetensors").read_bytes() == b"opaque"
    assert {p.name for p in last.path.iterdir()} >= {"model.py", "itemsage.py", "config.json", "tokenizer.json"}
    assert {p.name for p in last.path.parent.iterdir() if p.is_file()} == {"config.pbtxt"}, "nothing left aside"


def test_the_live_release_and_the_new_one_are_served_even_after_a_rollback(
    tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def export() -> str:
        return export_release(tmp_path, small_model(tokenizer), tokenizer).version

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


def test_an_operators_changes_to_the_configuration_survive_an_export(tmp_path: Path, tokenizer: Tokenizer) -> None:
    export_release(tmp_path, small_model(tokenizer), tokenizer)
    config = tmp_path / "itemsage" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 2 kind: KIND_AUTO", "count: 4 kind: KIND_CPU"))
    export_release(tmp_path, small_model(tokenizer), tokenizer)
    assert "count: 4 kind: KIND_CPU" in config.read_text()
    assert served_versions(tmp_path) == ["1", "2"]


def test_a_number_taken_by_another_export_in_the_meantime_is_skipped(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_release(tmp_path, small_model(tokenizer), tokenizer)
    seen = iter([[], releases(tmp_path)])  # the first listing was just before the other export finished
    monkeypatch.setattr(inference.releases.export, "releases", lambda repo: next(seen, None) or releases(repo))
    assert export_release(tmp_path, small_model(tokenizer), tokenizer).version == "2"


def test_model_and_tokenizer_of_different_trainings_are_not_exported(tmp_path: Path, tokenizer: Tokenizer) -> None:
    other = Tokenizer.fit([{"title": "another corpus altogether"}])
    with pytest.raises(ArtifactError, match=f"{other.size} ids but the model has {tokenizer.size}"):
        export_release(tmp_path, small_model(tokenizer), other)
    assert releases(tmp_path) == []


@pytest.mark.parametrize("name", ["model.safetensors", "../escape", "sub/file"])
def test_an_extra_file_cannot_displace_or_escape(tmp_path: Path, tokenizer: Tokenizer, name: str) -> None:
    with pytest.raises(ArtifactError, match="extra file"):
        export_release(tmp_path, small_model(tokenizer), tokenizer, extra_files={name: tmp_path / "x"})


def test_an_export_that_fails_half_way_leaves_nothing(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Tokenizer, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Tokenizer, "save", full)
    with pytest.raises(ArtifactError, match=r"cannot be written: No space left on device"):
        export_release(tmp_path, small_model(tokenizer), tokenizer)
    assert list((tmp_path / "itemsage").iterdir()) == []


def damage_missing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def damage_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_shapes(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["cls"] = weights["cls"][:-1].clone()
    save_file(weights, folder / "model.safetensors")


def damage_absent_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["cls"]
    save_file(weights, folder / "model.safetensors")


def damage_vocabulary(folder: Path) -> None:
    Tokenizer.fit([{"title": "another corpus altogether"}]).save(folder / "tokenizer.json")


def damage_format(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"format": "somebody-elses-9"}))


def damage_config_cut(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(path.read_text()[:-20])


def damage_config_sizes(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"]["heads"] = 5
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_missing, "model.safetensors cannot be read"),
        (damage_truncated, "is truncated"),
        (damage_shapes, r"cls is \(31,\), must be \(32,\)"),
        (damage_absent_weight, r"cls is None, must be \(32,\)"),
        (damage_vocabulary, "come from different trainings"),
        (damage_format, "format 'somebody-elses-9', must be"),
        (damage_config_cut, "config.json is not a release's configuration or is truncated"),
        (damage_config_sizes, "multiple of heads"),
    ],
)
def test_a_damaged_release_is_refused_and_the_damage_named(
    tmp_path: Path, tokenizer: Tokenizer, damage: object, message: str
) -> None:
    path = export_release(tmp_path, small_model(tokenizer), tokenizer).path
    damage(path)  # type: ignore[operator]
    with pytest.raises(ArtifactError, match=message):
        load_release(path)


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
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
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
    export_release(tmp_path, small_model(tokenizer), tokenizer)
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
