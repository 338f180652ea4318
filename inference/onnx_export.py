"""A release as ONNX: a model repository for a Triton whose ONNX Runtime backend serves it, without Python or torch.

    <folder>/itemsage/config.pbtxt, LIVE
    <folder>/itemsage/<n>/model.onnx        and of the release all that our client reads: tokenizer.json, config.json,
                                            probe.safetensors, the search encoder
    <folder>/visual_encoder/config.pbtxt, 1/model.onnx, probe.safetensors, config.json

Tensors have the names, types and shapes of the Python backend's, so the same client asks either. Batch, image slots
and tokens are free. The sum over a bag of tokens is one matrix product with the bags' members (an EmbeddingBag would
become a loop): its memory grows with products times tokens, about a kilobyte each.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from inference.errors import ArtifactError
from inference.files import sync
from inference.model import ItemSage
from inference.repository import ITEMSAGE, VISUAL_ENCODER, export_visual_encoder, find_release, load_release
from inference.visual import VisualEncoder

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

# ONNX Runtime reads it since 1.14 (2023), so every container of these years does.
OPSET = 18
_CONFIGS = Path(__file__).parent / "triton_models" / "onnx"
_PYTHON_BACKEND = frozenset(["model.py", "itemsage.py", "visual.py", "model.safetensors", "__pycache__"])
_ITEMSAGE_INPUTS = ("images", "image_counts", "token_ids", "field_lengths")
_ITEMSAGE_COSINE, _VISUAL_COSINE = 0.9999, 0.995  # the visual probe's answers may be bfloat16's


class ItemSageGraph(nn.Module):
    """ItemSage with operators that ONNX has, on the tensors that Triton is sent."""

    def __init__(self, model: ItemSage) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_counts: Tensor, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """As `ItemSage.forward`, but `image_counts` is `[B, 1]` and `images` may be float16."""
        model = self.model
        lengths = field_lengths.to(torch.int64)
        fields = self._fields(token_ids.to(torch.int64).clamp_min(0), lengths)  # padding is -1, and in no bag
        sequence = torch.cat(
            [
                model.cls.expand(images.shape[0], 1, -1),
                model.image_projection(images.float()),
                model.text_projection(fields),
            ],
            dim=1,
        )
        present = torch.cat(
            [
                torch.ones_like(image_counts, dtype=torch.bool),
                torch.arange(images.shape[1]) < image_counts,
                lengths > 0,
            ],
            dim=1,
        )
        return F.normalize(model.head(model.encoded(sequence, present)), dim=1)

    def _fields(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """`HashEmbedding.fields` for rectangular ids `[B, T]`: `[B, 12, T]` says which token is in which bag."""
        text = self.model.text
        ends = lengths.cumsum(1)[:, :, None]
        place = torch.arange(ids.shape[1])
        members = (place >= ends - lengths[:, :, None]) & (place < ends)
        importance = text.importance[ids]
        first, second = (
            importance[:, :, row, None] * text.table[ids % modulus] for row, modulus in enumerate(text.moduli)
        )
        tokens = first + second
        bags = torch.bmm(members.to(tokens.dtype), tokens)
        return F.layer_norm(bags, bags.shape[-1:])


class VisualGraph(nn.Module):
    """The visual encoder in float32, whatever the machine that exports it has."""

    def __init__(self, encoder: VisualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """As `VisualEncoder.forward`."""
        x = pixels.permute(0, 3, 1, 2).float()
        return self.encoder.vector(self.encoder.features.extract_features((x - 127.0) / 128.0), x)


def export_onnx(repo: Path, version: str, folder: Path) -> Path:
    """Write a release of `repo`, and the visual encoder, as ONNX into a new model repository; returns its folder.

    Every model answers its known-answer probe in ONNX Runtime before the folder is there.

    Raises:
        ArtifactError: there is no such release, the folder exists, the disk refuses, ONNX is not installed, or what was
            exported answers otherwise.
    """
    release = find_release(repo, version)
    if folder.exists():
        raise ArtifactError(f"{folder} exists: name a new folder, or remove it")
    with _written_aside(folder) as aside:
        model, _, _ = load_release(release.path)
        _export_itemsage(model, release.path, aside / ITEMSAGE, version)
        _write_text(aside / ITEMSAGE / "LIVE", version + "\n")
        with tempfile.TemporaryDirectory() as scratch:  # the repository's own may be another machine's
            source = export_visual_encoder(Path(scratch))
            _export_visual(source, aside / VISUAL_ENCODER)
    return folder


def _export_itemsage(model: ItemSage, source: Path, target: Path, version: str) -> None:
    probe = load_file(source / "probe.safetensors")
    inputs = _itemsage_inputs(probe)
    batch = torch.export.Dim("batch")
    shapes = {
        "images": {0: batch, 1: torch.export.Dim("image_slots")},
        "image_counts": {0: batch},
        "token_ids": {0: batch, 1: torch.export.Dim("tokens")},
        "field_lengths": {0: batch},
    }
    program = _exported(ItemSageGraph(model), inputs, shapes, "item_embedding")
    _write_model(program, source, target, version, ITEMSAGE)
    _check(target / version / "model.onnx", inputs, probe["item_embedding"], _ITEMSAGE_COSINE)


def _export_visual(source: Path, target: Path) -> None:
    probe = load_file(source / "probe.safetensors")
    inputs = {"pixels": probe["pixels"]}
    encoder = VisualEncoder.pretrained().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    program = _exported(VisualGraph(encoder), inputs, shapes, "image_embedding")
    _write_model(program, source, target, "1", VISUAL_ENCODER)
    _check(target / "1" / "model.onnx", inputs, probe["image_embedding"], _VISUAL_COSINE)


def _itemsage_inputs(probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A probe's inputs as Triton is sent them."""
    return {name: probe[name][:, None] if name == "image_counts" else probe[name] for name in _ITEMSAGE_INPUTS}


def _exported(graph: nn.Module, inputs: Mapping[str, Tensor], shapes: dict[str, Any], output: str) -> ONNXProgram:
    try:
        import onnxscript  # noqa: F401  (torch's exporter asks for it)
    except ModuleNotFoundError:
        raise ArtifactError("the export needs ONNX: pip install 'sagelift[onnx]'") from None
    told = logging.getLogger("torch.onnx")
    before = told.level
    told.setLevel(logging.ERROR)  # says of each operator of torchvision that it is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter about itself
            program = torch.onnx.export(
                graph.eval().requires_grad_(False),
                tuple(inputs.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(inputs),
                output_names=[output],
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
    finally:
        told.setLevel(before)
    assert program is not None, "with dynamo a program is what comes back"
    return program


def _write_model(program: ONNXProgram, source: Path, target: Path, version: str, name: str) -> None:
    """`model.onnx`, and beside it what else belongs to the release."""
    folder = target / version
    folder.mkdir(parents=True)
    program.save(folder / "model.onnx")
    for path in source.iterdir():
        if path.name not in _PYTHON_BACKEND:
            shutil.copyfile(path, folder / path.name)
    config = (_CONFIGS / f"{name}.pbtxt").read_text(encoding="utf-8").replace("[VERSION]", f"[{version}]")
    _write_text(target / "config.pbtxt", config)


def _check(path: Path, inputs: Mapping[str, Tensor], expected: Tensor, least: float) -> None:
    """Ask ONNX Runtime what the release knows the answers to; of one row too, for shapes must be free."""
    import onnxruntime  # type: ignore[import-untyped]

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows in (slice(None), slice(-1, None)):
        (answer,) = session.run(None, {name: value[rows].numpy() for name, value in inputs.items()})
        worst = float((answer * expected[rows].numpy()).sum(1).min())
        if not worst >= least:  # also when it is NaN
            raise ArtifactError(
                f"{path.parent.parent.name} as ONNX answers its known-answer probe with cosine {worst:.5f}, must be >= "
                f"{least}: report this, with the versions of torch and onnxscript"
            )


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


@contextmanager
def _written_aside(folder: Path) -> Iterator[Path]:
    """A folder beside the wanted one, which becomes it when all is well."""
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=".writing-", dir=folder.parent))
        aside.chmod(0o755)  # Triton may run as another user
        yield aside
        for path in [*aside.rglob("*"), aside]:
            sync(path)
        aside.rename(folder)
        sync(folder.parent)
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)
