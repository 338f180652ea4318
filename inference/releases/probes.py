"""Known-answer probes: inputs together with the float32 answers of the reference model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import load_file

from inference.inputs import MAX_IMAGES, TEXT_FIELDS, VECTOR_DIM
from inference.releases.tensors import read_tensors

if TYPE_CHECKING:  # the functions import torch: the client loads a probe without it
    from torch import Tensor

    from inference.model import ItemSage
    from inference.visual import VisualEncoder

PROBE_FILE = "probe.safetensors"


def load_probe(folder: Path) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
    """Read the probe of a release or of the visual encoder.

    Raises:
        ArtifactError: If the file is missing or truncated.
    """
    return read_tensors(folder / PROBE_FILE, load_file)


def itemsage_probe(model: ItemSage) -> dict[str, Tensor]:
    """Return inputs of ItemSage, from an empty product to a full one, and the model's answers `[8, 256]`."""
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


def visual_probe(model: VisualEncoder) -> dict[str, Tensor]:
    """Return smooth random images and the visual encoder's answers `[4, 256]`.

    Plain noise would not do: all noise images look the same to the encoder.
    """
    import torch

    from inference.visual import IMAGE_SIZE

    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 7, 7, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (IMAGE_SIZE, IMAGE_SIZE), mode="bicubic").clamp(0, 255)
    pixels = smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous()
    with torch.inference_mode():
        return {"pixels": pixels, "image_embedding": model(pixels)}
