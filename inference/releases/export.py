"""Write a release, and the visual encoder, into Triton's model repository."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from safetensors import SafetensorError

from feature_repo.files import scratch_folder, sync, sync_tree, write_atomically
from inference.errors import ArtifactError
from inference.releases.probes import PROBE_FILE, itemsage_probe, visual_probe
from inference.releases.release import FORMAT, ReleaseConfig, check_vocabulary
from inference.releases.repository import (
    ITEMSAGE,
    TEMPLATES,
    VISUAL_ENCODER,
    Release,
    live_version,
    releases,
    releasing,
    serve,
)
from inference.tokenizer import Tokenizer

if TYPE_CHECKING:  # the functions import torch: commands that only offer an export need none
    from inference.model import ItemSage

_OWN_FILES = frozenset(["model.py", "itemsage.py", "model.safetensors", "config.json", "tokenizer.json", PROBE_FILE])


def _now() -> datetime:
    return datetime.now(UTC)


def export_release(
    repo: Path,
    model: ItemSage,
    tokenizer: Tokenizer,
    *,
    metadata: Mapping[str, Any] | None = None,
    extra_files: Mapping[str, Path] | None = None,
    clock: Callable[[], datetime] = _now,
) -> Release:
    """Write the next release. When Triton next loads the model, it serves the release beside the live one.

    Args:
        repo: Model repository; created if missing.
        model: The trained model, on any device.
        tokenizer: The tokenizer that the model was trained with.
        metadata: Any data that JSON can hold.
        extra_files: Further files of the release, by their names in the release.
        clock: Returns the time of creation.

    Raises:
        ArtifactError: If model and tokenizer disagree, an extra file is missing or its name is taken, the files cannot
            be written, or another release is under way.
    """
    from safetensors.torch import save_file

    import inference.model
    from inference.visual import VISUAL_VERSION

    check_vocabulary(model.config, tokenizer, "the model")
    extra_files = extra_files or {}
    _check_extra_files(extra_files)
    config = ReleaseConfig(FORMAT, clock(), VISUAL_VERSION, asdict(model.config), dict(metadata or {}))
    with releasing(repo), _writing(repo / ITEMSAGE) as partial:
        shutil.copyfile(TEMPLATES / ITEMSAGE / "model.py", partial / "model.py")
        shutil.copyfile(inference.model.__file__, partial / "itemsage.py")
        weights = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, partial / "model.safetensors")
        (partial / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        tokenizer.save(partial / "tokenizer.json")
        save_file(itemsage_probe(model), partial / PROBE_FILE)
        for name, source in extra_files.items():
            shutil.copyfile(source, partial / name)
        release = _publish(repo, partial)
        live = live_version(repo)
        others = [r.version for r in releases(repo) if r != release]
        serve(repo, {release.version, live} if live else {release.version, *others[-1:]})
    return release


def export_visual_encoder(repo: Path) -> Path:
    """Write the frozen visual encoder, unless the repository already has this version of it; return its folder.

    Raises:
        ArtifactError: If the files cannot be written.
    """
    from safetensors.torch import save_file

    import inference.visual
    from inference.visual import VISUAL_VERSION, VisualEncoder

    folder = repo / VISUAL_ENCODER / "1"
    if _visual_version(folder) == VISUAL_VERSION:
        return folder
    model = VisualEncoder.pretrained()
    with _writing(repo / VISUAL_ENCODER) as partial:
        shutil.copyfile(TEMPLATES / VISUAL_ENCODER / "model.py", partial / "model.py")
        shutil.copyfile(inference.visual.__file__, partial / "visual.py")
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, partial / "model.safetensors")
        save_file(visual_probe(model), partial / PROBE_FILE)
        (partial / "config.json").write_bytes(msgspec.json.encode({"visual_version": VISUAL_VERSION}))
        template = (TEMPLATES / VISUAL_ENCODER / "config.pbtxt").read_text()
        write_atomically(repo / VISUAL_ENCODER / "config.pbtxt", template, durable=True)
        if folder.exists():
            shutil.rmtree(folder)
        sync_tree(partial)
        partial.rename(folder)
        sync(folder.parent)
    return folder


def _check_extra_files(extra_files: Mapping[str, Path]) -> None:
    for name, source in extra_files.items():
        if name in _OWN_FILES or Path(name).name != name:
            raise ArtifactError(f"{name!r} cannot name an extra file of a release: choose another plain file name")
        if not source.is_file():
            raise ArtifactError(f"the release needs {source} (as {name}), which does not exist")


def _visual_version(folder: Path) -> str | None:
    try:
        version = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, str])["visual_version"]
    except (OSError, msgspec.DecodeError, KeyError):
        return None
    return version


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """Yield a scratch folder in `folder`; raise `ArtifactError` if something cannot be written."""
    try:
        with scratch_folder(folder) as partial:
            yield partial
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ArtifactError(f"the model repository {folder} cannot be written: {reason}") from None


def _publish(repo: Path, partial: Path) -> Release:
    """Rename a complete folder to the next free version; another export may take that number first."""
    sync_tree(partial)
    while True:
        existing = releases(repo)
        version = int(existing[-1].version) + 1 if existing else 1
        target = repo / ITEMSAGE / str(version)
        try:
            partial.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            sync(target.parent)
            return Release(str(version), target)
