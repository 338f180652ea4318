"""Outlines of seventeen kinds of products.

A drawing is a list of parts from back to front. A part is a role, which decides its paint, and an outline in the unit
square with y pointing down.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

Point = tuple[float, float]
Polygon = list[Point]
Part = tuple[str, Polygon]
"""A role (body, trim, shade, light or dark) and an outline."""


def _box(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _oval(cx: float, cy: float, rx: float, ry: float, start: float = 0, end: float = 360) -> Polygon:
    """Return an ellipse, or its part between two angles in degrees, clockwise from the right."""
    angles = (math.radians(start + (end - start) * i / 36) for i in range(37))
    return [(cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles]


def _ring(cx: float, cy: float, rx: float, ry: float, thick: float, start: float = 0, end: float = 360) -> Polygon:
    """Return a bent band, such as a handle."""
    return _oval(cx, cy, rx, ry, start, end) + _oval(cx, cy, rx - thick, ry - thick, end, start)


def _soft(*points: Point, rounds: int = 2) -> Polygon:
    """Return a polygon with rounded corners: each round cuts all corners (Chaikin, 1974)."""
    outline = list(points)
    for _ in range(rounds):
        cut: Polygon = []
        for (ax, ay), (bx, by) in zip(outline, outline[1:] + outline[:1], strict=True):
            cut += [(0.75 * ax + 0.25 * bx, 0.75 * ay + 0.25 * by), (0.25 * ax + 0.75 * bx, 0.25 * ay + 0.75 * by)]
        outline = cut
    return outline


def _pillow(x0: float, y0: float, x1: float, y1: float) -> Polygon:
    """Return a box with rounded corners of one size."""
    c = min(x1 - x0, y1 - y0) * 0.3
    return _soft(
        (x0 + c, y0), (x1 - c, y0), (x1, y0 + c), (x1, y1 - c), (x1 - c, y1), (x0 + c, y1), (x0, y1 - c), (x0, y0 + c)
    )


def _turned(*profile: Point) -> Polygon:
    """Return a turned body from `(y, radius)` down its right side, mirrored at x = 0.5."""
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
"""Makes the parts of each kind of product."""
