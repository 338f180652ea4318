"""Decoding of images: every format becomes one size, and hostile bytes are refused."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from streaming.catalogue.images.pixels import decode_image
from streaming.errors import ImageError
from tests.streaming.catalogue.images.web import PICTURE, RED, WHITE, picture


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_each_format_becomes_224_x_224_rgb(format: str) -> None:
    pixels = decode_image(picture(format=format), max_pixels=10**6)
    assert (pixels.shape, pixels.dtype) == ((224, 224, 3), np.uint8)
    assert np.abs(pixels[112, 112].astype(int) - RED).max() < 12


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (50, 40), (3000, 2000), (1, 1), (2000, 1)])
def test_the_whole_image_is_kept_and_padded_with_white(size: tuple[int, int]) -> None:
    pixels = decode_image(picture(size, "PNG"), max_pixels=10**7)
    red = (pixels[..., 0] > 200) & (pixels[..., 1] < 60)
    wide, high = max(1, round(224 * size[0] / max(size))), max(1, round(224 * size[1] / max(size)))
    assert (red.any(axis=0).sum(), red.any(axis=1).sum()) == (wide, high)
    assert (pixels[~red] == 255).all()


def test_a_photo_taken_sideways_is_turned_upright() -> None:
    image = Image.new("RGB", (200, 100), WHITE)
    image.paste(RED, (0, 0, 100, 100))  # red is left; orientation 6 means: turn clockwise, so red comes up
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "JPEG", exif=exif, quality=95)
    pixels = decode_image(file.getvalue(), max_pixels=10**6)
    assert pixels[50, 112, 1] < 60
    assert pixels[170, 112, 1] > 240


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (220, 30, 30, 0)), ("LA", (10, 0))])
def test_transparent_pixels_are_white(mode: str, color: tuple[int, ...]) -> None:
    assert (decode_image(picture(format="PNG", mode=mode, color=color), max_pixels=10**6) == 255).all()


def test_a_transparent_palette_is_white_too() -> None:
    file = io.BytesIO()
    Image.new("P", (20, 20), 0).save(file, "GIF", transparency=0)
    assert (decode_image(file.getvalue(), max_pixels=10**6) == 255).all()


@pytest.mark.parametrize(
    ("format", "mode", "color", "expected"),
    [("PNG", "I;16", 32_768, 128), ("PNG", "L", 77, 77), ("PNG", "1", 1, 255), ("JPEG", "CMYK", (0, 0, 0, 128), 127)],
)
def test_unusual_pixel_formats_keep_their_brightness(format: str, mode: str, color: object, expected: int) -> None:
    pixels = decode_image(picture((224, 224), format, mode, color), max_pixels=10**6)
    assert np.abs(pixels.astype(int) - expected).max() <= 3


def test_the_first_frame_of_an_animation_is_taken() -> None:
    frames = [Image.new("RGB", (20, 20), color) for color in (RED, (0, 0, 255))]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(file.getvalue(), max_pixels=10**6)[112, 112, 0] > 200


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_broken_exif_does_not_lose_the_picture() -> None:
    start = PICTURE[:2] + b"\xff\xe1\x00\x10Exif\x00\x00MM\x00\x2a\xff\xff\xff\xff" + PICTURE[2:]
    assert decode_image(start, max_pixels=10**6).shape == (224, 224, 3)


def test_a_truncated_jpeg_is_refused() -> None:
    large = io.BytesIO()
    Image.effect_noise((300, 300), 80).save(large, "JPEG")
    with pytest.raises(ImageError, match=r"is damaged: .*truncated"):
        decode_image(large.getvalue()[:5_000], max_pixels=10**6)


@pytest.mark.parametrize("raw", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x00" * 100, b"BM" + b"\x00" * 60])
def test_bytes_of_an_unknown_format_are_refused(raw: bytes) -> None:
    with pytest.raises(ImageError, match="is not a JPEG, PNG, WebP or GIF image"):
        decode_image(raw, max_pixels=10**6)


def test_no_bytes_are_refused() -> None:
    with pytest.raises(ImageError, match="is empty"):
        decode_image(b"", max_pixels=10**6)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7_000, 10_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header(side: int) -> None:
    """7,000: our own limit; 10,000: Pillow warns; 60,000: Pillow refuses. None makes the pixels (10 GB)."""
    with pytest.raises(ImageError, match="pixels"):
        decode_image(png_header(side, side), max_pixels=40_000_000)
