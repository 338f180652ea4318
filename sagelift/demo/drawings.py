"""The drawings of the sample catalogue: outlines of seventeen kinds of products, painted by colour, pattern, material.

A drawing is a list of parts, back to front; a part is a role (what it is painted with) and an outline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from random import Random

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

Point = tuple[float, float]
Polygon = list[Point]
Color = tuple[int, int, int]
# A role (body, trim, shade, light or dark) and an outline in the unit square (y down).
Part = tuple[str, Polygon]

_SIDE = 224
_DRAWN = 2 * _SIDE  # drawn at twice the size: scaling down smooths the edges
_LIGHT = (244, 242, 236)
_DARK = (46, 42, 44)
_TRIMS = ((96, 66, 42), (60, 60, 66), (182, 184, 188), (206, 172, 96), (232, 228, 220))


def draw_views(random: Random, kind: str, color: Color, pattern: str, material: str, views: int) -> list[Image.Image]:
    """Pictures of one product, `[224, 224]` RGB: the first from the front, the others also mirrored or nearer.

    Args:
        kind: one of `OUTLINES`.
        pattern: plain, striped, dotted or checked.
        material: wood, metal, glass, ceramic, leather, wool, fabric, cotton or nylon; any other shines evenly.
    """
    parts = OUTLINES[kind](random)
    body = _jitter(random, color, 9)
    trim = random.choice(_TRIMS)
    fill = _pattern(random, pattern, body)
    return [
        _render(random, _place(random, parts, closer=view > 0), fill, body, trim, material) for view in range(views)
    ]


def _place(random: Random, parts: list[Part], *, closer: bool) -> list[Part]:
    """The parts turned, scaled and moved a little; further views are mirrored, squeezed or nearer at times."""
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
    # One map says which role each pixel has: parts hide what lies behind them, and each role is painted once.
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
    """White most of the time, else a tinted wall and floor; a soft shadow where the product stands."""
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
    """How light plays on a material, `[2 * _DRAWN, 2 * _DRAWN]` around a neutral 128; the same in every run."""
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


# --- The outlines, in the unit square ---


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _oval(cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Polygon:
    """An ellipse or, between two angles (degrees, clockwise from the right), a part of one."""
    angles = (math.radians(start + (end - start) * i / 36) for i in range(37))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _ring(cx: float, cy: float, rx: float, ry: float, thick: float, start: float = 0, end: float = 360) -> Polygon:
    """A bent band: a handle."""
    return _oval(cx, cy, rx, ry, start, end) + _oval(cx, cy, rx - thick, ry - thick, end, start)


def _soft(*points: Point, rounds: int = 2) -> Polygon:
    """A polygon with its corners cut off again and again (Chaikin, 1974): rounded."""
    outline = list(points)
    for _ in range(rounds):
        cut: Polygon = []
        for (ax, ay), (bx, by) in zip(outline, outline[1:] + outline[:1], strict=True):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by), (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        outline = cut
    return outline


def _pillow(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """A box with soft corners of one size, whatever its own."""
    c = min(x1 - x0, y1 - y0) * 0.3
    return _soft(
        (x0 + c, y0), (x1 - c, y0), (x1, y0 + c), (x1, y1 - c), (x1 - c, y1), (x0 + c, y1), (x0, y1 - c), (x0, y0 + c)
    )


def _turned(*profile: Point) -> Polygon:
    """A turned body from `(y, radius)` down its right side, mirrored at x = 0.5."""
    right = [(0.5 + radius, y) for y, radius in profile]
    return _soft(*right, *[(1 - x, y) for x, y in reversed(right)])


def _chair(random: Random) -> list[Part]:
    legs: list[Part] = [("trim", _box(x, 0.58, x + 0.05, 0.98)) for x in (0.2, 0.75)]
    legs += [("trim", _box(x, 0.58, x + 0.04, 0.9)) for x in (0.32, 0.64)]
    seat: Part = ("body", _soft((0.24, 0.5), (0.76, 0.5), (0.86, 0.62), (0.14, 0.62), rounds=1))
    if random.random() < 0.4:
        back: list[Part] = [("trim", _box(x, 0.08, x + 0.05, 0.54)) for x in (0.24, 0.48, 0.71)]
        return [*legs, *back, ("body", _pillow(0.2, 0.03, 0.8, 0.18)), seat]
    arms: list[Part] = [("trim", _pillow(x, 0.36, x + 0.1, 0.62)) for x in (0.1, 0.8)] if random.random() < 0.5 else []
    return [*legs, ("body", _pillow(0.22, 0.03, 0.78, 0.54)), seat, *arms]


def _table(random: Random) -> list[Part]:
    if random.random() < 0.4:
        stand: list[Part] = [("trim", _box(0.47, 0.4, 0.53, 0.9)), ("trim", _oval(0.5, 0.9, 0.2, 0.05))]
        return [*stand, ("body", _oval(0.5, 0.38, 0.46, 0.14)), ("body", _oval(0.5, 0.35, 0.46, 0.14))]
    legs: list[Part] = [
        ("trim", _box(x, 0.4, x + 0.05, y)) for x, y in ((0.2, 0.8), (0.75, 0.8), (0.07, 0.94), (0.88, 0.94))
    ]
    top = [(0.2, 0.26), (0.8, 0.26), (0.97, 0.44), (0.03, 0.44)]
    drawer: list[Part] = [("shade", _box(0.3, 0.49, 0.7, 0.58))] if random.random() < 0.5 else []
    return [*legs, *drawer, ("body", _box(0.03, 0.43, 0.97, 0.49)), ("body", top)]


def _sofa(random: Random) -> list[Part]:
    seats = random.choice((1, 2, 3))
    left, right = 0.5 - 0.1 - 0.11 * seats, 0.5 + 0.1 + 0.11 * seats
    width = (right - left - 0.16) / seats
    parts: list[Part] = [("trim", _box(x, 0.76, x + 0.04, 0.84)) for x in (left + 0.04, right - 0.08)]
    parts.append(("body", _pillow(left + 0.03, 0.26, right - 0.03, 0.66)))
    parts += [
        ("body", _pillow(left + 0.08 + i * width, 0.5, left + 0.08 + (i + 1) * width, 0.67)) for i in range(seats)
    ]
    parts.append(("body", _box(left + 0.06, 0.65, right - 0.06, 0.77)))
    return parts + [("body", _pillow(x, 0.42, x + 0.12, 0.78)) for x in (left - 0.02, right - 0.1)]


def _lamp(random: Random) -> list[Part]:
    top = random.uniform(0.1, 0.2)
    shade: Part = ("body", [(0.5 - top, 0.04), (0.5 + top, 0.04), (0.78, 0.36), (0.22, 0.36)])
    if random.random() < 0.5:
        return [("trim", _box(0.48, 0.3, 0.52, 0.93)), ("trim", _oval(0.5, 0.93, 0.2, 0.045)), shade]
    foot = _turned((0.34, 0.03), (0.48, 0.06), (0.66, 0.17), (0.84, 0.17), (0.94, 0.1))
    return [("trim", foot), ("light", _oval(0.5, 0.36, 0.27, 0.03)), shade]


def _rug(random: Random) -> list[Part]:
    if random.random() < 0.35:
        return [("trim", _oval(0.5, 0.5, 0.48, 0.4)), ("body", _oval(0.5, 0.5, 0.43, 0.355))]
    fringe: list[Part] = [
        ("light", _box(x, y, x + 0.018, y + 0.06)) for y in (0.1, 0.84) for x in [0.08 + 0.04 * i for i in range(21)]
    ]
    border: Part = ("trim" if random.random() < 0.6 else "body", _box(0.06, 0.15, 0.94, 0.85))
    return [*fringe, border, ("body", _box(0.12, 0.21, 0.88, 0.79))]


def _cushion(random: Random) -> list[Part]:
    bulge = random.uniform(0.03, 0.07)
    corners = [(0.08, 0.1), (0.92, 0.1), (0.92, 0.9), (0.08, 0.9)]
    middles = [(0.5, 0.1 + bulge), (0.92 - bulge, 0.5), (0.5, 0.9 - bulge), (0.08 + bulge, 0.5)]
    outline = [point for pair in zip(corners, middles, strict=True) for point in pair]
    button: list[Part] = [("trim", _oval(0.5, 0.5, 0.035, 0.035))] if random.random() < 0.5 else []
    return [("body", _soft(*outline, rounds=1)), *button]


def _mug(random: Random) -> list[Part]:
    low = random.uniform(0.2, 0.3)
    return [
        ("shade", _ring(0.7, 0.5, 0.24, 0.22, 0.07, -95, 95)),
        ("body", [(0.16, 0.2), (0.72, 0.2), *_oval(0.44, 0.86, low, 0.06, 0, 180)]),
        ("body", _oval(0.44, 0.2, 0.28, 0.07)),
        ("dark", _oval(0.44, 0.2, 0.24, 0.05)),
    ]


def _vase(random: Random) -> list[Part]:
    belly, neck, at = random.uniform(0.2, 0.4), random.uniform(0.07, 0.16), random.uniform(0.45, 0.72)
    body = _turned((0.08, neck + 0.05), (0.2, neck), (0.3, neck), (at, belly), (0.86, belly * 0.7), (0.96, belly * 0.5))
    return [("body", body), ("dark", _oval(0.5, 0.1, neck + 0.02, 0.025))]


def _bottle(random: Random) -> list[Part]:
    wide = random.uniform(0.14, 0.22)
    body = _turned((0.16, 0.08), (0.22, 0.08), (0.32, wide), (0.4, wide), (0.8, wide), (0.95, wide), (0.97, wide * 0.8))
    loop: list[Part] = [("trim", _ring(0.5, 0.1, 0.12, 0.09, 0.03, 180, 360))] if random.random() < 0.4 else []
    return [*loop, ("body", body), ("trim", _box(0.41, 0.06, 0.59, 0.18))]


def _backpack(random: Random) -> list[Part]:
    straps: list[Part] = [("trim", _ring(x, 0.55, 0.14, 0.32, 0.05, a, a + 180)) for x, a in ((0.22, 90), (0.78, -90))]
    bag: list[Part] = [("trim", _ring(0.5, 0.1, 0.11, 0.09, 0.03, 180, 360)), ("body", _pillow(0.18, 0.06, 0.82, 0.96))]
    if random.random() < 0.5:
        return [*straps, *bag, ("trim", _box(0.19, 0.34, 0.81, 0.37)), ("shade", _pillow(0.27, 0.54, 0.73, 0.88))]
    flap = _soft((0.18, 0.08), (0.82, 0.08), (0.82, 0.5), (0.5, 0.58), (0.18, 0.5), rounds=1)
    return [*straps, *bag, ("shade", flap), *[("trim", _box(x, 0.3, x + 0.05, 0.66)) for x in (0.33, 0.62)]]


def _tote(random: Random) -> list[Part]:
    lean = random.uniform(-0.06, 0.08)
    bag = [(0.14 + lean, 0.36), (0.86 - lean, 0.36), (0.9, 0.95), (0.1, 0.95)]
    handle: Part = ("trim", _ring(0.5, 0.38, 0.22, 0.34, 0.045, 180, 360))
    clasp: list[Part] = [("trim", _box(0.45, 0.36, 0.55, 0.48))] if random.random() < 0.5 else []
    return [handle, ("body", bag), *clasp]


def _sneaker(random: Random) -> list[Part]:
    high = random.choice((0.2, 0.36))
    upper = _soft(
        (0.06, high), (0.36, high), (0.44, 0.42), (0.66, 0.54), (0.94, 0.6), (0.97, 0.76), (0.05, 0.76), (0.04, 0.5)
    )
    laces: list[Part] = [
        ("light", _box(0.38 + 0.07 * i, 0.42 + 0.045 * i, 0.46 + 0.07 * i, 0.44 + 0.045 * i)) for i in range(4)
    ]
    stripe: list[Part] = (
        [("trim", [(0.3, 0.72), (0.4, 0.52), (0.46, 0.54), (0.38, 0.74)])] if random.random() < 0.6 else []
    )
    return [("body", upper), *stripe, *laces, ("light", _pillow(0.03, 0.72, 0.98, 0.85))]


def _jacket(random: Random) -> list[Part]:
    sleeves: list[Part] = [
        ("body", [(0.3, 0.12), (0.2, 0.16), (0.04, 0.76), (0.17, 0.8), (0.32, 0.4)]),
        ("body", [(0.7, 0.12), (0.8, 0.16), (0.96, 0.76), (0.83, 0.8), (0.68, 0.4)]),
    ]
    torso: Part = ("body", [(0.3, 0.11), (0.7, 0.11), (0.75, 0.92), (0.25, 0.92)])
    collar: Part = ("shade", [(0.36, 0.05), (0.64, 0.05), (0.66, 0.14), (0.5, 0.24), (0.34, 0.14)])
    front: list[Part] = [("trim", _box(0.488, 0.2, 0.512, 0.92))]
    if random.random() < 0.5:
        front = [
            ("shade", _box(0.495, 0.2, 0.505, 0.92)),
            *[("trim", _oval(0.53, 0.3 + 0.14 * i, 0.017, 0.017)) for i in range(5)],
        ]
    pockets: list[Part] = [("shade", _box(x, 0.64, x + 0.13, 0.67)) for x in (0.3, 0.57)]
    return [*sleeves, torso, collar, *front, *pockets]


def _shirt(random: Random) -> list[Part]:
    sleeve = random.choice((0.42, 0.74))
    left = [(0.32, 0.1), (0.02, sleeve - 0.08), (0.15, sleeve + 0.02), (0.32, 0.34)]
    parts: list[Part] = [("body", left), ("body", [(1 - x, y) for x, y in left])]
    parts.append(("body", [(0.3, 0.1), (0.7, 0.1), (0.73, 0.94), (0.27, 0.94)]))
    neck: Part = ("light", _oval(0.5, 0.1, 0.12, random.choice((0.07, 0.16)), 0, 180))
    return [*parts, neck]


def _hat(random: Random) -> list[Part]:
    match random.randrange(3):
        case 0:
            return [
                ("body", _oval(0.5, 0.7, 0.48, 0.13)),
                ("body", _oval(0.5, 0.68, 0.27, 0.44, 180, 360)),
                ("trim", [(0.23, 0.6), (0.77, 0.6), (0.77, 0.69), (0.23, 0.69)]),
            ]
        case 1:
            return [
                ("shade", _soft((0.5, 0.62), (0.9, 0.62), (1.0, 0.74), (0.52, 0.72), rounds=1)),
                ("body", _oval(0.44, 0.68, 0.36, 0.44, 180, 360)),
                ("trim", _oval(0.44, 0.24, 0.03, 0.02)),
            ]
        case _:
            return [
                ("light", _oval(0.5, 0.16, 0.1, 0.1)),
                ("body", _oval(0.5, 0.7, 0.34, 0.52, 180, 360)),
                ("shade", _pillow(0.13, 0.64, 0.87, 0.84)),
            ]


def _watch(random: Random) -> list[Part]:
    strap = random.uniform(0.1, 0.15)
    face = _oval(0.5, 0.5, 0.26, 0.26) if random.random() < 0.65 else _pillow(0.27, 0.25, 0.73, 0.75)
    dial = _oval(0.5, 0.5, 0.2, 0.2) if len(face) == 37 else _pillow(0.32, 0.3, 0.68, 0.7)
    hands: list[Part] = [
        ("dark", [(0.49, 0.5), (0.5, 0.36), (0.51, 0.5)]),
        ("dark", [(0.5, 0.49), (0.6, 0.55), (0.5, 0.51)]),
    ]
    band: Part = (
        "body",
        [
            (0.5 - strap, 0.3),
            (0.56 - strap, 0.02),
            (0.44 + strap, 0.02),
            (0.5 + strap, 0.3),
            (0.5 + strap, 0.7),
            (0.44 + strap, 0.98),
            (0.56 - strap, 0.98),
            (0.5 - strap, 0.7),
        ],
    )
    return [
        band,
        ("trim", _box(0.75, 0.47, 0.8, 0.53)),
        ("trim", face),
        (random.choice(("light", "dark", "light")), dial),
        *hands,
    ]


def _umbrella(random: Random) -> list[Part]:
    ribs = random.choice((4, 6))
    scallops: Polygon = []
    for i in range(ribs):
        width = 0.92 / ribs
        scallops += _oval(0.96 - width * (i + 0.5), 0.52, width / 2, 0.06, 0, -180)
    canopy = _oval(0.5, 0.52, 0.46, 0.44, 180, 360) + scallops
    seams: list[Part] = [
        ("shade", [(0.498, 0.08), (0.502, 0.08), (x + 0.004, 0.51), (x - 0.004, 0.51)]) for x in (0.27, 0.73)
    ]
    hook: Part = ("trim", _ring(0.57, 0.86, 0.085, 0.085, 0.035, 0, 180))
    return [("trim", _box(0.487, 0.03, 0.513, 0.87)), hook, ("body", canopy), *seams]


OUTLINES: dict[str, Callable[[Random], list[Part]]] = {
    "chair": _chair,
    "table": _table,
    "sofa": _sofa,
    "lamp": _lamp,
    "rug": _rug,
    "cushion": _cushion,
    "mug": _mug,
    "vase": _vase,
    "bottle": _bottle,
    "backpack": _backpack,
    "tote": _tote,
    "sneaker": _sneaker,
    "jacket": _jacket,
    "t-shirt": _shirt,
    "hat": _hat,
    "watch": _watch,
    "umbrella": _umbrella,
}
