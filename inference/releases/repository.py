"""Triton's model repository: its layout on disk, the live release, and which releases Triton serves.

    <repo>/itemsage/config.pbtxt            what Triton serves: the live release and the newest one
    <repo>/itemsage/LIVE                    the version that answers the shop's requests
    <repo>/itemsage/<n>/model.py            Triton's backend              itemsage.py     the network
                        model.safetensors   its weights                   config.json     sizes, origin, metadata
                        tokenizer.json      the vocabularies              probe.safetensors  known answers
                        ...                 other files of the release (the search encoder)
    <repo>/visual_encoder/                  the frozen image encoder, with the same layout, always version 1

A release is written aside and renamed, so that a reader sees all of it or nothing. No file is a pickle.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from feature_repo.files import write_atomically
from inference.errors import ArtifactError
from inference.locks import exclusive_lock

ITEMSAGE = "itemsage"
VISUAL_ENCODER = "visual_encoder"
TEMPLATES = Path(__file__).parent.parent / "triton_models"
"""Triton's backends and configurations, which an export copies."""

_VERSION_POLICY = re.compile(r"^version_policy:.*$", re.MULTILINE)


class Release(NamedTuple):
    """A release on disk."""

    version: str  # Triton's version number
    path: Path


def releases(repo: Path) -> list[Release]:
    """Return all releases, the oldest first."""
    folders = [p for p in (repo / ITEMSAGE).glob("[1-9]*") if p.name.isdecimal() and p.is_dir()]
    return [Release(p.name, p) for p in sorted(folders, key=lambda p: int(p.name))]


def find_release(repo: Path, version: str) -> Release:
    """Return the release of this version.

    Raises:
        ArtifactError: If the release does not exist; the message names those that exist.
    """
    by_version = {release.version: release for release in releases(repo)}
    if version not in by_version:
        raise ArtifactError(f"there is no release {version!r} in {repo}: it has {', '.join(by_version) or 'none'}")
    return by_version[version]


@contextmanager
def releasing(repo: Path) -> Iterator[None]:
    """Keep other processes from exporting a release or making one live until the block, or this process, ends.

    Each release rewrites which versions Triton serves, and its version must stay served until it is live. Hence only
    one release at a time.

    Raises:
        ArtifactError: If another process is releasing.
    """
    folder = repo / ITEMSAGE
    unusable = f"the model repository {folder} cannot be used"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{unusable}: {error.strerror}") from None
    busy = f"another release is under way in {repo}: wait until it is live, or stop it"
    with exclusive_lock(folder, unusable=unusable, busy=busy):
        yield


def live_version(repo: Path) -> str | None:
    """Return the version of the live release, which answers the shop's requests; None before the first."""
    try:
        return (repo / ITEMSAGE / "LIVE").read_text().strip() or None
    except FileNotFoundError:
        return None


def set_live(repo: Path, version: str) -> None:
    """Make a release the live one. Every reader sees the change at once.

    Triton must already serve the release: call `serve` and load the model first.

    Raises:
        ArtifactError: If the release does not exist, or Triton is not configured to serve it.
    """
    find_release(repo, version)
    if version not in (served := served_versions(repo)):
        raise ArtifactError(
            f"release {version} is not served ({', '.join(served)} are): serve it beside the live one and load it first"
        )
    write_atomically(repo / ITEMSAGE / "LIVE", version + "\n", durable=True)


def serve(repo: Path, versions: Collection[str]) -> None:
    """Configure which releases Triton serves. It takes effect when Triton next loads the model.

    All other lines of config.pbtxt stay as the operator left them. Triton's own policy "the latest two" is no
    alternative: after a rollback it would drop the live release when another one is exported.

    Raises:
        ArtifactError: If a release does not exist, or config.pbtxt has no version policy.
    """
    numbers = sorted(int(find_release(repo, version).version) for version in versions)
    path = repo / ITEMSAGE / "config.pbtxt"
    text = (path if path.exists() else TEMPLATES / ITEMSAGE / "config.pbtxt").read_text()
    policy = f"version_policy: {{ specific {{ versions: {numbers} }} }}"
    text, replaced = _VERSION_POLICY.subn(policy, text)
    if not replaced:
        raise ArtifactError(f"{path} has no line that begins with version_policy: put one back")
    write_atomically(path, text, durable=True)


def served_versions(repo: Path) -> list[str]:
    """Return the releases that Triton is configured to serve."""
    try:
        policy = _VERSION_POLICY.search((repo / ITEMSAGE / "config.pbtxt").read_text())
    except FileNotFoundError:
        return []
    listed = re.search(r"versions: \[(.*)\]", policy[0]) if policy else None
    return re.findall(r"\d+", listed[1]) if listed else []
