"""Write a release as ONNX: a model repository for a Triton whose ONNX Runtime backend needs neither Python nor torch.

    <folder>/itemsage/config.pbtxt, LIVE
    <folder>/itemsage/<n>/model.onnx        and the release's files that our client reads: tokenizer.json, config.json,
                                            probe.safetensors, the search encoder
    <folder>/visual_encoder/config.pbtxt, 1/model.onnx, probe.safetensors, config.json

Tensors have the names, types and shapes of the Python backend, so the same client works with both. The numbers of
products, image slots and tokens are free. The sum over a bag of tokens is one matrix product with the bags' membership
matrix, because an EmbeddingBag would become a loop. Its memory grows with products times tokens, about a kilobyte each.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from feature_repo.files import atomic_folder
from inference.errors import ArtifactError
from inference.model import ItemSage
from inference.releases.export import export_visual_encoder
from inference.releases.probes import PROBE_FILE
from inference.releases.release import load_release
from inference.releases.repository import ITEMSAGE, TEMPLATES, VISUAL_ENCODER, find_release
from inference.releases.tensors import read_tensors
from inference.visual import VisualEncoder

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

OPSET = 18  # ONNX Runtime reads it since 1.14 (2023)
_PYTHON_BACKEND = frozenset(["model.py", "itemsage.py", "visual.py", "model.safetensors", "__pycache__"])
_ITEMSAGE_INPUTS = ("images", "image_counts", "token_ids", "field_lengths")


class Tolerance(NamedTuple):
    """Smallest cosines between ONNX Runtime's answers and the known answers."""

    itemsage: float = 0.9999
    visual: float = 0.995  # the visual probe's answers may come from bfloat16


class ItemSageGraph(nn.Module):
    """ItemSage with operators that ONNX has, on the tensors that Triton receives."""

    def __init__(self, model: ItemSage) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor, image_counts: Tensor, token_ids: Tensor, field_lengths: Tensor) -> Tensor:
        """Embed a batch; as `ItemSage.forward`, but `image_counts` is `[B, 1]` and `images` may be float16."""
        model = self.model
        lengths = field_lengths.to(torch.int64)
        fields = self._fields(token_ids.to(torch.int64).clamp_min(0), lengths)  # padding is -1 and belongs to no bag
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
        """Return `HashEmbedding.fields` of rectangular ids `[B, T]`."""
        text = self.model.text
        ends = lengths.cumsum(1)[:, :, None]
        place = torch.arange(ids.shape[1])
        # [B, 12, T]: whether a token belongs to the bag of a field
        members = (place >= ends - lengths[:, :, None]) & (place < ends)
        importance = text.importance[ids]
        first, second = (
            importance[:, :, row, None] * text.table[ids % modulus] for row, modulus in enumerate(text.moduli)
        )
        tokens = first + second
        bags = torch.bmm(members.to(tokens.dtype), tokens)
        return F.layer_norm(bags, bags.shape[-1:])


class VisualGraph(nn.Module):
    """The visual encoder in float32, also if the exporting machine has bfloat16."""

    def __init__(self, encoder: VisualEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode a batch; see `VisualEncoder.forward`."""
        x = pixels.permute(0, 3, 1, 2).float()
        return self.encoder.vector(self.encoder.features.extract_features((x - 127.0) / 128.0), x)


def export_onnx(repo: Path, version: str, folder: Path, *, tolerance: Tolerance | None = None) -> Path:
    """Write a release and the visual encoder as ONNX into a new model repository; return its folder.

    The folder appears only after each model has answered its known-answer probe in ONNX Runtime.

    Args:
        repo: Model repository of the release.
        version: Version of the release.
        folder: The new folder.
        tolerance: How far the answers may be from the known answers; None for the default.

    Raises:
        ArtifactError: If the release does not exist, the folder exists or cannot be written, ONNX is not installed, or
            an exported model gives other answers.
    """
    tolerance = tolerance or Tolerance()
    release = find_release(repo, version)
    if folder.exists():
        raise ArtifactError(f"{folder} exists: name a new folder, or remove it")
    with _writing(folder) as partial:
        model, _, _ = load_release(release.path)
        _export_itemsage(model, release.path, partial / ITEMSAGE, version, tolerance.itemsage)
        _write_text(partial / ITEMSAGE / "LIVE", version + "\n")
        with tempfile.TemporaryDirectory() as scratch:  # the repository's own encoder may come from another machine
            source = export_visual_encoder(Path(scratch))
            _export_visual(source, partial / VISUAL_ENCODER, tolerance.visual)
    return folder


def _export_itemsage(model: ItemSage, source: Path, target: Path, version: str, least: float) -> None:
    probe = read_tensors(source / PROBE_FILE, load_file)
    inputs = _itemsage_inputs(probe)
    batch = torch.export.Dim("batch")
    shapes = {
        "images": {0: batch, 1: torch.export.Dim("image_slots")},
        "image_counts": {0: batch},
        "token_ids": {0: batch, 1: torch.export.Dim("tokens")},
        "field_lengths": {0: batch},
    }
    program = _export(ItemSageGraph(model), inputs, shapes, "item_embedding")
    _write_model(program, source, target, version, ITEMSAGE)
    _check(target / version / "model.onnx", inputs, probe["item_embedding"], least)


def _export_visual(source: Path, target: Path, least: float) -> None:
    probe = read_tensors(source / PROBE_FILE, load_file)
    inputs = {"pixels": probe["pixels"]}
    encoder = VisualEncoder.pretrained().to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    shapes = {"pixels": {0: torch.export.Dim("batch")}}
    program = _export(VisualGraph(encoder), inputs, shapes, "image_embedding")
    _write_model(program, source, target, "1", VISUAL_ENCODER)
    _check(target / "1" / "model.onnx", inputs, probe["image_embedding"], least)


def _itemsage_inputs(probe: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a probe's inputs in the shapes that Triton receives."""
    return {name: probe[name][:, None] if name == "image_counts" else probe[name] for name in _ITEMSAGE_INPUTS}


def _export(graph: nn.Module, inputs: Mapping[str, Tensor], shapes: dict[str, Any], output: str) -> ONNXProgram:
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ModuleNotFoundError:
        raise ArtifactError("the export needs ONNX: pip install 'sagelift[onnx]'") from None
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns that each operator of torchvision is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter warns about its own code
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
        logger.setLevel(level)
    assert program is not None, "with dynamo=True the exporter returns a program"
    return program


def _write_model(program: ONNXProgram, source: Path, target: Path, version: str, name: str) -> None:
    """Write `model.onnx`, the other files of the release and config.pbtxt."""
    folder = target / version
    folder.mkdir(parents=True)
    program.save(folder / "model.onnx")
    for path in source.iterdir():
        if path.name not in _PYTHON_BACKEND:
            shutil.copyfile(path, folder / path.name)
    config = (TEMPLATES / "onnx" / f"{name}.pbtxt").read_text(encoding="utf-8").replace("[VERSION]", f"[{version}]")
    _write_text(target / "config.pbtxt", config)


def _check(path: Path, inputs: Mapping[str, Tensor], expected: Tensor, least: float) -> None:
    """Check that ONNX Runtime gives the known answers, for all rows and for one: shapes must be free."""
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
def _writing(folder: Path) -> Iterator[Path]:
    """Yield a partial folder that becomes `folder`; raise `ArtifactError` if something cannot be written."""
    try:
        with atomic_folder(folder, durable=True) as partial:
            yield partial
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be written: {error.strerror or error}") from None
