"""Triton's model repository: releases of ItemSage, each one folder that holds everything that belongs together.

    <repo>/itemsage/config.pbtxt            what Triton serves: the live release and the newest one
    <repo>/itemsage/LIVE                    the version that answers for the shop
    <repo>/itemsage/<n>/model.py            Triton's backend              itemsage.py     the network
                        model.safetensors   its weights                   config.json     sizes, origin, metadata
                        tokenizer.json      the vocabularies              probe.safetensors  known answers
                        ...                 whatever else the release needs (the search encoder)
    <repo>/visual_encoder/                  the frozen image encoder, the same way, always version 1

A release is written aside and renamed: a reader sees all of it or nothing. No file is a pickle.
"""

from __future__ import annotations

import copy
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from safetensors import SafetensorError

from inference.errors import ArtifactError
from inference.files import alone_in, sync
from inference.inputs import MAX_IMAGES, TEXT_FIELDS, VECTOR_DIM
from inference.tokenizer import Tokenizer

if TYPE_CHECKING:  # torch is imported where it is needed: the client reads LIVE without it
    from torch import Tensor

    from inference.model import ItemSage, ItemSageConfig
    from inference.visual import VisualEncoder

ITEMSAGE = "itemsage"
VISUAL_ENCODER = "visual_encoder"
_FORMAT = "sagelift-itemsage-1"
_TEMPLATES = Path(__file__).parent / "triton_models"
_VERSION_POLICY = re.compile(r"^version_policy:.*$", re.MULTILINE)
_OWN_FILES = frozenset(
    ["model.py", "itemsage.py", "model.safetensors", "config.json", "tokenizer.json", "probe.safetensors"]
)


class Release(NamedTuple):
    """A release on disk: Triton's version number and the folder."""

    version: str
    path: Path


class ReleaseConfig(msgspec.Struct, frozen=True):
    """`config.json` of a release. `created` is UTC, `model` the fields of ItemSageConfig, `metadata` the trainer's."""

    format: str
    created: datetime
    visual_version: str
    model: dict[str, int]
    metadata: dict[str, Any]


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
    """Write the next release and have Triton serve it, at its next load, beside the live one.

    Args:
        repo: model repository; created when missing.
        model: the trained model, on any device.
        tokenizer: the one that it was trained with.
        metadata: anything JSON can hold.
        extra_files: further files of the release, by the name they get in it.
        clock: the time of creation.

    Raises:
        ArtifactError: model and tokenizer disagree, an extra file is missing or clashes, the disk refuses, another
            release is under way.
    """
    from safetensors.torch import save_file

    import inference.model
    from inference.visual import VISUAL_VERSION

    _check_vocabulary(model.config, tokenizer, "the model")
    extra_files = extra_files or {}
    for name, source in extra_files.items():
        if name in _OWN_FILES or Path(name).name != name:
            raise ArtifactError(f"{name!r} cannot name an extra file of a release: choose another plain file name")
        if not source.is_file():
            raise ArtifactError(f"the release needs {source} (as {name}), which is not there")
    config = ReleaseConfig(_FORMAT, clock(), VISUAL_VERSION, asdict(model.config), dict(metadata or {}))
    with releasing(repo), _writing(repo / ITEMSAGE) as aside:
        shutil.copyfile(_TEMPLATES / ITEMSAGE / "model.py", aside / "model.py")
        shutil.copyfile(inference.model.__file__, aside / "itemsage.py")
        weights = {k: v.detach().float().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(weights, aside / "model.safetensors")
        (aside / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
        tokenizer.save(aside / "tokenizer.json")
        save_file(_itemsage_probe(model), aside / "probe.safetensors")
        for name, source in extra_files.items():
            shutil.copyfile(source, aside / name)
        release = _publish(repo, aside)
        live = live_version(repo)
        others = [r.version for r in releases(repo) if r != release]
        serve(repo, {release.version, live} if live else {release.version, *others[-1:]})
    return release


def export_visual_encoder(repo: Path) -> Path:
    """Write the frozen visual encoder, unless this version of it is already there; returns its folder.

    Raises:
        ArtifactError: the disk refuses.
    """
    from safetensors.torch import save_file

    import inference.visual
    from inference.visual import VISUAL_VERSION, VisualEncoder

    folder = repo / VISUAL_ENCODER / "1"
    if _visual_version(folder) == VISUAL_VERSION:
        return folder
    model = VisualEncoder.pretrained()
    with _writing(repo / VISUAL_ENCODER) as aside:
        shutil.copyfile(_TEMPLATES / VISUAL_ENCODER / "model.py", aside / "model.py")
        shutil.copyfile(inference.visual.__file__, aside / "visual.py")
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, aside / "model.safetensors")
        save_file(_visual_probe(model), aside / "probe.safetensors")
        (aside / "config.json").write_bytes(msgspec.json.encode({"visual_version": VISUAL_VERSION}))
        _write(repo / VISUAL_ENCODER / "config.pbtxt", (_TEMPLATES / VISUAL_ENCODER / "config.pbtxt").read_text())
        if folder.exists():
            shutil.rmtree(folder)
        _sync_all(aside)
        aside.rename(folder)
        sync(folder.parent)
    return folder


def releases(repo: Path) -> list[Release]:
    """All releases, the oldest first."""
    found = [p for p in (repo / ITEMSAGE).glob("[1-9]*") if p.name.isdecimal() and p.is_dir()]
    return [Release(p.name, p) for p in sorted(found, key=lambda p: int(p.name))]


def find_release(repo: Path, version: str) -> Release:
    """The release of this version.

    Raises:
        ArtifactError: there is none; names those that there are.
    """
    known = {release.version: release for release in releases(repo)}
    if version not in known:
        raise ArtifactError(f"there is no release {version!r} in {repo}: it has {', '.join(known) or 'none'}")
    return known[version]


@contextmanager
def releasing(repo: Path) -> Iterator[None]:
    """Keeps every other process from exporting a release or making one live; ends with the process at the latest.

    One release at a time: each rewrites which versions Triton serves, and must find its own served until it is live.

    Raises:
        ArtifactError: another release is under way.
    """
    folder = repo / ITEMSAGE
    unusable = f"the model repository {folder} cannot be used"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ArtifactError(f"{unusable}: {error.strerror}") from None
    busy = f"another release is under way in {repo}: wait until it is live, or end it"
    with alone_in(folder, unusable=unusable, busy=busy):
        yield


def live_version(repo: Path) -> str | None:
    """The release that answers for the shop, or None before the first."""
    try:
        return (repo / ITEMSAGE / "LIVE").read_text().strip() or None
    except FileNotFoundError:
        return None


def set_live(repo: Path, version: str) -> None:
    """Make a release the live one, at once for every reader; it must already be served (`serve`, then load it).

    Raises:
        ArtifactError: there is no such release, or Triton is not told to serve it.
    """
    find_release(repo, version)
    if version not in (served := served_versions(repo)):
        raise ArtifactError(
            f"release {version} is not served ({', '.join(served)} are): serve it beside the live one and load it first"
        )
    _write(repo / ITEMSAGE / "LIVE", version + "\n")


def serve(repo: Path, versions: Collection[str]) -> None:
    """Tell Triton which releases to serve; takes effect at its next load of the model.

    Everything else in config.pbtxt stays as the operator left it. (Triton's own policy "the latest two" would, after
    a rollback, drop the live release as soon as another is exported.)

    Raises:
        ArtifactError: there is no such release.
    """
    wanted = sorted(int(find_release(repo, version).version) for version in versions)
    path = repo / ITEMSAGE / "config.pbtxt"
    text = (path if path.exists() else _TEMPLATES / ITEMSAGE / "config.pbtxt").read_text()
    policy = f"version_policy: {{ specific {{ versions: {wanted} }} }}"
    text, found = _VERSION_POLICY.subn(policy, text)
    if not found:
        raise ArtifactError(f"{path} has no line that begins with version_policy: put one back")
    _write(path, text)


def served_versions(repo: Path) -> list[str]:
    """The releases that Triton is told to serve (`serve`)."""
    try:
        policy = _VERSION_POLICY.search((repo / ITEMSAGE / "config.pbtxt").read_text())
    except FileNotFoundError:
        return []
    listed = re.search(r"versions: \[(.*)\]", policy[0]) if policy else None
    return re.findall(r"\d+", listed[1]) if listed else []


def load_release(path: Path) -> tuple[ItemSage, Tokenizer, ReleaseConfig]:
    """Read a release back: the model (float32, CPU, evaluation mode), its tokenizer and its configuration.

    Raises:
        ArtifactError: a file is missing or truncated, or the files do not belong together.
    """
    import torch

    from inference.model import ItemSage, ItemSageConfig

    config = _load_config(path / "config.json")
    try:
        sizes = ItemSageConfig(**config.model)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"{path / 'config.json'} describes no ItemSage: {error}") from None
    tokenizer = Tokenizer.load(path / "tokenizer.json")
    _check_vocabulary(sizes, tokenizer, str(path / "config.json"))
    weights = _load_weights(path / "model.safetensors")
    with torch.random.fork_rng(devices=[]):  # the first weights are random, and of no interest
        model = ItemSage(sizes)
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    actual = {name: tuple(value.shape) for name, value in weights.items()}
    for name in sorted(expected.keys() | actual.keys()):
        if expected.get(name) != actual.get(name):
            raise ArtifactError(
                f"{path / 'model.safetensors'} does not fit its config.json: {name} is {actual.get(name)}, "
                f"must be {expected.get(name)}; export the model again"
            )
    model.load_state_dict(weights)
    return model.eval().requires_grad_(False), tokenizer, config


def release_metadata(path: Path) -> dict[str, Any]:
    """What the trainer said of a release, from its folder.

    Raises:
        ArtifactError: its configuration is missing or damaged.
    """
    return _load_config(path / "config.json").metadata


def _load_weights(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror or 'no such file'}") from None
    except SafetensorError:
        raise ArtifactError(f"{path} is no safetensors file or was cut off; export the model again") from None


def _load_config(path: Path) -> ReleaseConfig:
    try:
        raw = path.read_bytes()
        tag = msgspec.json.decode(raw, type=dict[str, Any]).get("format")
        if tag != _FORMAT:
            raise ArtifactError(f"{path} has format {tag!r}, must be {_FORMAT!r}; export the model again")
        return msgspec.json.decode(raw, type=ReleaseConfig)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ArtifactError(f"{path} is no release's configuration or was cut off ({error})") from None


def _check_vocabulary(config: ItemSageConfig, tokenizer: Tokenizer, owner: str) -> None:
    if tokenizer.size != config.vocabulary:
        raise ArtifactError(
            f"the tokenizer has {tokenizer.size} ids but {owner} has {config.vocabulary}: they are not of one training"
        )


def _visual_version(folder: Path) -> str | None:
    try:
        version = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict[str, str])["visual_version"]
    except (OSError, msgspec.DecodeError, KeyError):
        return None
    return version


@contextmanager
def _writing(folder: Path) -> Iterator[Path]:
    """A temporary folder in `folder` (hence on its disk), removed if it was not renamed away."""
    aside: Path | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder))
        aside.chmod(0o755)  # Triton may run as another user
        yield aside
    except OSError as error:
        raise ArtifactError(f"the model repository {folder} cannot be written: {error.strerror or error}") from None
    except SafetensorError as error:
        raise ArtifactError(f"the model repository {folder} cannot be written: {error}") from None
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)


def _publish(repo: Path, aside: Path) -> Release:
    """Rename a finished folder to the next free version; another export may take that number first."""
    _sync_all(aside)
    while True:
        existing = releases(repo)
        version = int(existing[-1].version) + 1 if existing else 1
        target = repo / ITEMSAGE / str(version)
        try:
            aside.rename(target)
        except OSError:
            if not target.exists():
                raise
        else:
            sync(target.parent)
            return Release(str(version), target)


def _write(path: Path, text: str) -> None:
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    sync(aside)
    aside.replace(path)
    sync(path.parent)


def _sync_all(folder: Path) -> None:
    for path in (*folder.iterdir(), folder):
        sync(path)


def _itemsage_probe(model: ItemSage) -> dict[str, Tensor]:
    """Inputs from empty to full, and the float32 answers of the reference model to them."""
    import torch

    vocabulary = model.config.vocabulary
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([0, 1, 2, 3, 5, 8, 12, MAX_IMAGES], dtype=torch.int32)
    lengths = torch.randint(0, 24, (len(counts), len(TEXT_FIELDS)), generator=generator, dtype=torch.int32)
    lengths[0] = 0
    lengths[1, 1:] = 0
    images = torch.nn.functional.normalize(torch.randn(len(counts), MAX_IMAGES, VECTOR_DIM, generator=generator), dim=2)
    images[torch.arange(MAX_IMAGES) >= counts[:, None]] = 0
    width = int(lengths.sum(1).max())
    ids = torch.randint(0, vocabulary, (len(counts), width), generator=generator, dtype=torch.int32)
    ids[-1, :2] = torch.tensor([0, vocabulary - 1])
    ids[torch.arange(width) >= lengths.sum(1, keepdim=True)] = -1
    images = images.half()
    reference = copy.deepcopy(model).float().cpu().eval()
    with torch.inference_mode():
        answers = reference(images, counts, ids, lengths)
    return {
        "images": images,
        "image_counts": counts,
        "token_ids": ids,
        "field_lengths": lengths,
        "item_embedding": answers,
    }


def _visual_probe(model: VisualEncoder) -> dict[str, Tensor]:
    """Smooth random images (noise alone would look the same to the encoder), and its answers to them."""
    import torch

    from inference.visual import IMAGE_SIZE

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 7, 7, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic").clamp(0, 255)
    pixels = smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    with torch.inference_mode():
        return {"pixels": pixels, "image_embedding": model(pixels)}
