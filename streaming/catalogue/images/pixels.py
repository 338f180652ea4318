"""From the bytes of an image to pixels of one size. The dimensions are checked before any pixels are decoded."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from streaming.errors import ImageError

SIDE = 224
"""Width and height of the decoded images."""
Pixels = np.ndarray[Any, np.dtype[np.uint8]]

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
_WHITE = (255, 255, 255)


def decode_image(raw: bytes, *, max_pixels: int) -> Pixels:
    """Decode a JPEG, PNG, WebP or the first frame of a GIF as `[224, 224, 3]` uint8, RGB.

    The image is turned upright by its EXIF orientation, with transparency over white, scaled to fit and padded with
    white to a square. A centre crop would cut the foot off a lamp, and product photos have a white background.

    Args:
        raw: Content of the image file.
        max_pixels: Largest product of width and height.

    Raises:
        ImageError: Not an image, damaged, or with more than `max_pixels` pixels.
    """
    if not raw:
        raise ImageError("is empty")
    try:
        with Image.open(io.BytesIO(raw), formats=_FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise ImageError(f"has {image.width} x {image.height} pixels, at most {max_pixels} are allowed")
            image.draft("RGB", (2 * SIDE, 2 * SIDE))  # a large JPEG is decoded at a half, a quarter or an eighth
            return _to_square(image)
    except ImageError:
        raise
    except UnidentifiedImageError:
        raise ImageError("is not a JPEG, PNG, WebP or GIF image") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"has too many pixels: {error}") from None
    # Pillow's decoders raise nearly any exception on hostile bytes; none of them may stop the stream.
    except Exception as error:
        raise ImageError(f"is damaged: {error}") from error


def _to_square(image: Image.Image) -> Pixels:
    if image.mode.startswith("I"):  # 16 bits a channel; convert() would clip instead of scale
        image = Image.fromarray((np.asarray(image).clip(0, 65_535) >> 8).astype(np.uint8))
    transparent = image.has_transparency_data
    picture = _upright(image).convert("RGBA" if transparent else "RGB")
    scale = SIDE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Pillow's bilinear filter widens with the scale when it shrinks an image, so it smooths (antialias).
    picture = picture.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    square = Image.new("RGB", (SIDE, SIDE), _WHITE)
    corner = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    square.paste(picture, corner, picture if transparent else None)
    return np.array(square)


def _upright(image: Image.Image) -> Image.Image:
    image.load()
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # broken EXIF data must not make the picture unusable
        return image
