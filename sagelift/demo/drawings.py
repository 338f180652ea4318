"""Draw the products of the sample catalogue: outlines painted with colour, pattern and material."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from sagelift.demo.outlines import OUTLINES, Part

Color = tuple[int, int, int]
"""RGB, each from 0 to 255."""

_SIDE = 224
_DRAWN = 2 * _SIDE  # drawn at twice the size, because scaling down smooths the edges
_LIGHT = (244, 242, 236)
_DARK = (46, 42, 44)
_TRIMS = ((96, 66, 42), (60, 60, 66), (182, 184, 188), (206, 172, 96), (232, 228, 220))


def draw_views(random: Random, kind: str, color: Color, pattern: str, material: str, views: int) -> list[Image.Image]:
    """Draw pictures of one product, `[224, 224]` RGB: the first from the front, others also mirrored or nearer.

    Args:
        random: Source of randomness.
        kind: One of `OUTLINES`.
        color: Colour of the body.
        pattern: plain, striped, dotted or checked.
        material: wood, metal, glass, ceramic, leather, wool, fabric, cotton or nylon; any other shines evenly.
        views: Number of pictures.
    """
    parts = OUTLINES[kind](random)
    body = _jitter(random, color, 9)
    trim = random.choice(_TRIMS)
    fill = _pattern(random, pattern, body)
    return [
        _render(random, _place(random, parts, closer=view > 0), fill, body, trim, material) for view in range(views)
    ]


def _place(random: Random, parts: list[Part], *, closer: bool) -> list[Part]:
    """Turn, scale and move the parts a little; some later views are mirrored, squeezed or nearer."""
    angle = math.radians(random.uniform(-7, 7))
    scale = random.uniform(0.78, 0.92) * (random.choice((1.0, 1.0, 1.35)) if closer else 1.0)
    across = scale * (random.choice((1, -1)) * random.uniform(0.8, 1.0) if closer else 1.0)
    dx, dy = 0.5 + random.uniform(-0.03, 0.03), 0.5 + random.uniform(-0.03, 0.03)
    cos, sin = math.cos(angle) * _DRAWN, math.sin(angle) * _DRAWN
    return [
        (
            role,
            [
                (
                    dx * _DRAWN + across * (x - 0.5) * cos - scale * (y - 0.5) * sin,
                    dy * _DRAWN + across * (x - 0.5) * sin + scale * (y - 0.5) * cos,
                )
                for x, y in points
            ],
        )
        for role, points in parts
    ]


def _render(
    random: Random, parts: list[Part], fill: Image.Image, body: Color, trim: Color, material: str
) -> Image.Image:
    paints = {"body": body, "trim": trim, "shade": _mix(body, (20, 16, 20), 0.45), "light": _LIGHT, "dark": _DARK}
    roles = {role: index for index, role in enumerate(paints, start=1)}
    # One map holds the role of each pixel: a part hides what is behind it, and each role is painted once.
    where = Image.new("P", (_DRAWN, _DRAWN))
    where.putpalette([0, 0, 0, *(part for color in paints.values() for part in color)])
    draw = ImageDraw.Draw(where)
    for role, points in parts:
        draw.polygon(points, fill=roles[role], outline=roles["shade" if role == "body" else "dark"], width=3)
    product = where.convert("RGB")
    product.paste(fill, mask=_mask(where, lambda index: index == roles["body"]))
    x, y = random.randrange(_DRAWN), random.randrange(_DRAWN)
    product = ImageChops.overlay(product, _texture(material).crop((x, y, x + _DRAWN, y + _DRAWN)))
    canvas = _background(random, max(y for _, points in parts for _, y in points))
    canvas.paste(product, mask=_mask(where, lambda index: index > 0))
    light = random.uniform(0.93, 1.05)
    return canvas.reduce(2).point([min(255, round(i * light)) for i in range(256)] * 3)


def _mask(where: Image.Image, chosen: Callable[[int], bool]) -> Image.Image:
    return where.point([255 * chosen(index) for index in range(256)], "L")


def _background(random: Random, floor: float) -> Image.Image:
    """Return a white background, or sometimes a tinted wall and floor, with a soft shadow below the product."""
    if random.random() < 0.7:
        canvas = Image.new("RGB", (_DRAWN, _DRAWN), _jitter(random, (249, 249, 249), 5))
    else:
        wall = _jitter(random, random.choice(((226, 222, 214), (214, 222, 228), (230, 218, 214), (220, 228, 216))), 8)
        canvas = Image.new("RGB", (_DRAWN, _DRAWN), wall)
        canvas.paste(_mix(wall, (120, 104, 90), 0.25), (0, int(0.72 * _DRAWN), _DRAWN, _DRAWN))
    width, height = int(_DRAWN * 0.75), int(_DRAWN * 0.1)
    corner = ((_DRAWN - width) // 2, min(int(floor), _DRAWN) - height // 2 - 2)
    canvas.paste((70, 66, 66), corner, _shadow().resize((width, height)))
    return canvas


def _pattern(random: Random, pattern: str, body: Color) -> Image.Image:
    image = Image.new("RGB", (_DRAWN, _DRAWN), body)
    draw = ImageDraw.Draw(image)
    bright = sum(body) > 420
    other = _mix(body, (28, 30, 40) if bright else (246, 242, 232), random.uniform(0.5, 0.75))
    step = random.choice((32, 40, 52))
    if pattern == "striped":
        upright = random.random() < 0.5
        for at in range(0, _DRAWN, step):
            end = at + step // 2 - 1
            draw.rectangle((at, 0, end, _DRAWN) if upright else (0, at, _DRAWN, end), fill=other)
    elif pattern == "dotted":
        radius = step // 4
        for row, y in enumerate(range(0, _DRAWN + step, step)):
            for x in range(step // 2 * (row % 2), _DRAWN + step, step):
                draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=other)
    elif pattern == "checked":
        half = _mix(body, other, 0.5)
        for at in range(0, _DRAWN, step):
            draw.rectangle((at, 0, at + step // 2 - 1, _DRAWN), fill=half)
        for at in range(0, _DRAWN, step):
            draw.rectangle((0, at, _DRAWN, at + step // 2 - 1), fill=half)
            for x in range(0, _DRAWN, step):
                draw.rectangle((x, at, x + step // 2 - 1, at + step // 2 - 1), fill=other)
    return image


@cache
def _texture(material: str) -> Image.Image:
    """Return the brightness of a material, `[2 * _DRAWN, 2 * _DRAWN]` around a neutral 128; equal in every run."""
    side = 2 * _DRAWN
    noise = np.random.default_rng(sum(material.encode()))
    y, x = np.mgrid[0:side, 0:side] / side
    flat = np.full((side, side), 128.0)
    speckle = noise.normal(0, 1, (side, side))
    match material:
        case "wood":
            light = flat + 26 * np.sin(60 * y + 5 * np.sin(9 * x) + 3 * np.sin(23 * x)) + 8 * speckle
        case "metal":
            light = flat + 62 * np.sin(14 * (x + 0.25 * y)) + 4 * speckle
        case "glass" | "ceramic":
            light = flat + 14 + (46 if material == "glass" else 26) * np.clip(np.sin(9 * (x - 0.4 * y)), 0, 1) ** 4 * 2
        case "leather":
            rough = noise.normal(0, 1, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
            light = flat - 6 + 15 * rough + 10 * np.sin(8 * x)
        case "wool":
            light = flat + 22 * noise.normal(0, 1, (side // 4, side // 4)).repeat(4, 0).repeat(4, 1)
        case "fabric" | "cotton":
            light = flat + 13 * np.sin(side * x * 0.8) * np.sin(side * y * 0.8) + 8 * speckle
        case "nylon":
            light = flat + 14 * np.sin(26 * (x + y)) + 9 * np.sign(np.sin(side * (x + y) * 0.2))
        case _:
            light = flat + 16 * np.sin(7 * x)
    gray = Image.fromarray(light.clip(0, 255).astype(np.uint8))
    return Image.merge("RGB", (gray, gray, gray))


@cache
def _shadow() -> Image.Image:
    image = Image.new("L", (240, 60))
    ImageDraw.Draw(image).ellipse((24, 14, 216, 46), fill=110)
    return image.filter(ImageFilter.GaussianBlur(8))


def _mix(one: Color, two: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, two, strict=True))
    return red, green, blue


def _jitter(random: Random, color: Color, by: int) -> Color:
    red, green, blue = (min(255, max(0, part + random.randint(-by, by))) for part in color)
    return red, green, blue
