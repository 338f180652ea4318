"""The generated sample catalogue: products with texts from templates, prices, and drawn images.

A model can learn structure that no single input states. A product's colour and pattern are always in its pictures but
only sometimes in its text. Brand, price tier, style and often the material are only in the text. Each brand has its
own styles, colours and price tier. The seed alone decides every byte.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from feature_repo.files import scratch_folder
from sagelift.demo.drawings import Color, draw_views

_MARKER = "SAMPLE"

# name: (RGB, synonyms)
COLORS: dict[str, tuple[Color, tuple[str, ...]]] = {
    "black": ((38, 38, 42), ("jet", "onyx")),
    "white": ((238, 238, 234), ("snow", "chalk")),
    "grey": ((140, 142, 146), ("slate", "ash")),
    "beige": ((214, 194, 160), ("sand", "oat")),
    "brown": ((118, 78, 48), ("chestnut", "cocoa")),
    "red": ((196, 40, 44), ("scarlet", "cherry")),
    "orange": ((236, 128, 40), ("tangerine", "rust")),
    "yellow": ((240, 202, 62), ("mustard", "lemon")),
    "green": ((58, 140, 76), ("forest", "emerald")),
    "olive": ((118, 122, 58), ("moss", "sage")),
    "teal": ((32, 138, 142), ("petrol", "lagoon")),
    "blue": ((56, 108, 196), ("cobalt", "sky")),
    "navy": ((34, 48, 98), ("midnight", "dark blue")),
    "purple": ((124, 72, 156), ("plum", "violet")),
    "pink": ((236, 150, 178), ("blush", "rose")),
}
# style: (synonyms, typical colours)
STYLES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "minimal": (("minimal", "clean-lined", "understated", "Scandinavian"), ("white", "grey", "black", "beige")),
    "rustic": (("rustic", "farmhouse", "weathered", "cottage"), ("brown", "beige", "olive", "orange")),
    "retro": (("retro", "vintage", "mid-century", "seventies"), ("orange", "yellow", "teal", "brown")),
    "sporty": (("sporty", "active", "performance", "trail-ready"), ("blue", "red", "black", "green")),
    "elegant": (("elegant", "refined", "timeless", "tailored"), ("navy", "black", "purple", "white")),
    "playful": (("playful", "cheerful", "bright", "fun"), ("pink", "yellow", "teal", "red", "purple")),
}
# brand: (price tier 0..2, styles, departments)
BRANDS: dict[str, tuple[int, tuple[str, str], tuple[str, ...]]] = {
    "Hverdag": (0, ("minimal", "playful"), ("Home",)),
    "Tusk & Timber": (1, ("rustic", "retro"), ("Home",)),
    "Maison Oriel": (2, ("elegant", "minimal"), ("Home",)),
    "Popkin": (0, ("playful", "retro"), ("Home", "Kitchen")),
    "Kiln Street": (1, ("rustic", "minimal"), ("Kitchen", "Home")),
    "Aurelle": (2, ("elegant", "retro"), ("Kitchen", "Fashion")),
    "Brightwell": (0, ("playful", "sporty"), ("Kitchen", "Bags")),
    "Nordlund": (1, ("minimal", "elegant"), ("Home", "Kitchen")),
    "Fernweh": (1, ("sporty", "rustic"), ("Bags", "Fashion")),
    "Kestrel Ridge": (2, ("sporty", "elegant"), ("Bags", "Fashion")),
    "Dash": (0, ("sporty", "playful"), ("Fashion", "Bags")),
    "Linden & Loom": (1, ("elegant", "rustic"), ("Fashion", "Home")),
    "Vantablau": (2, ("minimal", "elegant"), ("Fashion", "Bags")),
    "Otis Ray": (1, ("retro", "playful"), ("Fashion", "Kitchen")),
    "Basiq": (0, ("minimal", "sporty"), ("Fashion", "Kitchen", "Bags")),
    "Corda": (2, ("retro", "rustic"), ("Home", "Bags")),
}
_SERIES = ("Alba", "Brisk", "Cove", "Dune", "Ember", "Fjell", "Grove", "Halo", "Isla", "Juno", "Knoll", "Lumen")
# material: (synonyms, addend to the logarithm of the price)
MATERIALS: dict[str, tuple[tuple[str, ...], float]] = {
    "wood": (("solid wood", "oak", "ash wood"), 0.15),
    "metal": (("steel", "powder-coated metal", "aluminium"), 0.1),
    "leather": (("leather", "full-grain leather"), 0.5),
    "fabric": (("woven fabric", "textile"), 0.0),
    "cotton": (("cotton", "organic cotton"), 0.0),
    "wool": (("wool", "merino wool"), 0.3),
    "nylon": (("nylon", "ripstop nylon"), -0.05),
    "ceramic": (("ceramic", "stoneware"), 0.05),
    "glass": (("glass", "hand-blown glass"), 0.1),
    "plastic": (("recycled plastic", "BPA-free plastic"), -0.25),
}
_TIER_WORDS = (
    ("Great value for every day.", "An easy pick for a small budget.", "Affordable and uncomplicated."),
    ("Well made and fairly priced.", "Built to be used for years.", "A dependable favourite."),
    ("Finished by hand in small batches.", "A piece to pass on.", "Luxury down to the smallest detail."),
)
_NOISE = (
    "Ships in recyclable packaging.",
    "Colours may look different on your screen.",
    "Two-year guarantee.",
    "Returns within 30 days.",
    "Designed in our studio.",
    "Wipe clean with a damp cloth.",
)


@dataclass(frozen=True)
class Kind:
    """A type of product.

    Attributes:
        names: Its names; the first is the key of its drawing in `outlines.OUTLINES`.
        department: Department of the shop.
        shelf: Category within the department.
        price: Usual price in the middle tier.
        google: Google product category.
        materials: Its possible materials.
        uses: Phrases for its use.
        sizes: Its possible sizes.
    """

    names: tuple[str, ...]
    department: str
    shelf: str
    price: float
    google: str
    materials: tuple[str, ...]
    uses: tuple[str, ...]
    sizes: tuple[str, ...]


# fmt: off
KINDS: tuple[Kind, ...] = (
    Kind(("chair", "seat", "dining chair"), "Home", "Furniture > Chairs", 120,
         "Furniture > Chairs",
         ("wood", "metal", "leather", "fabric", "plastic"),
         ("the dining room", "the home office", "small flats"), ("46 x 52 x 82 cm", "50 x 55 x 88 cm")),
    Kind(("table", "desk", "side table"), "Home", "Furniture > Tables", 190,
         "Furniture > Tables",
         ("wood", "metal", "glass"),
         ("the dining room", "the living room", "working from home"), ("120 x 70 cm", "160 x 80 cm", "55 cm")),
    Kind(("sofa", "couch", "settee"), "Home", "Furniture > Sofas", 620,
         "Furniture > Sofas",
         ("leather", "fabric", "wool"),
         ("the living room", "long film nights", "families"), ("2 seats", "3 seats")),
    Kind(("lamp", "light", "reading lamp"), "Home", "Lighting > Lamps", 65,
         "Home & Garden > Lighting > Lamps",
         ("metal", "fabric", "glass", "ceramic"),
         ("reading corners", "the bedside", "the hallway"), ("45 cm", "150 cm")),
    Kind(("rug", "carpet", "floor mat"), "Home", "Decor > Rugs", 140,
         "Home & Garden > Decor > Rugs",
         ("wool", "cotton", "fabric"),
         ("the living room", "the hallway", "cold floors"), ("80 x 150 cm", "160 x 230 cm")),
    Kind(("cushion", "throw pillow", "pillow"), "Home", "Decor > Cushions", 24,
         "Home & Garden > Decor > Throw Pillows",
         ("cotton", "wool", "fabric"),
         ("the sofa", "the bedroom", "reading corners"), ("45 x 45 cm", "60 x 60 cm")),
    Kind(("mug", "coffee cup", "tea mug"), "Kitchen", "Drinkware > Mugs", 14,
         "Home & Garden > Kitchen & Dining > Tableware > Drinkware > Mugs",
         ("ceramic", "glass", "metal"),
         ("the first coffee", "the office", "camping mornings"), ("250 ml", "350 ml")),
    Kind(("vase", "flower vase", "vessel"), "Home", "Decor > Vases", 38,
         "Home & Garden > Decor > Vases",
         ("ceramic", "glass", "metal"),
         ("fresh flowers", "the window sill", "dried grasses"), ("18 cm", "30 cm")),
    Kind(("bottle", "water bottle", "flask"), "Kitchen", "Drinkware > Bottles", 22,
         "Home & Garden > Kitchen & Dining > Food & Beverage Carriers > Water Bottles",
         ("metal", "plastic", "glass"),
         ("the gym", "day hikes", "the commute"), ("500 ml", "750 ml")),
    Kind(("backpack", "rucksack", "daypack"), "Bags", "Backpacks", 75,
         "Luggage & Bags > Backpacks",
         ("nylon", "leather", "fabric"),
         ("day hikes", "school", "the commute"), ("18 l", "25 l")),
    Kind(("tote", "tote bag", "shopper"), "Bags", "Handbags", 48,
         "Apparel & Accessories > Handbags, Wallets & Cases > Handbags",
         ("cotton", "leather", "nylon"),
         ("the market", "the office", "weekends"), ("one size",)),
    Kind(("sneaker", "trainer", "running shoe"), "Fashion", "Shoes > Sneakers", 85,
         "Apparel & Accessories > Shoes",
         ("leather", "fabric", "nylon"),
         ("running", "the city", "long days on foot"), ("39", "41", "43", "45")),
    Kind(("jacket", "coat", "parka"), "Fashion", "Clothing > Jackets", 130,
         "Apparel & Accessories > Clothing > Outerwear > Coats & Jackets",
         ("nylon", "leather", "wool", "cotton"),
         ("cool evenings", "rainy walks", "the city"), ("S", "M", "L", "XL")),
    Kind(("t-shirt", "tee", "top"), "Fashion", "Clothing > Shirts", 26,
         "Apparel & Accessories > Clothing > Shirts & Tops",
         ("cotton", "wool"),
         ("warm days", "training", "layering"), ("S", "M", "L", "XL")),
    Kind(("hat", "headwear", "sun hat"), "Fashion", "Accessories > Hats", 30,
         "Apparel & Accessories > Clothing Accessories > Hats",
         ("cotton", "wool", "fabric"),
         ("sunny days", "the beach", "windy walks"), ("one size",)),
    Kind(("watch", "wristwatch", "timepiece"), "Fashion", "Accessories > Watches", 160,
         "Apparel & Accessories > Jewelry > Watches",
         ("leather", "metal", "nylon"),
         ("the office", "diving", "evenings out"), ("38 mm", "42 mm")),
    Kind(("umbrella", "parasol", "brolly"), "Bags", "Umbrellas", 28,
         "Home & Garden > Parasols & Rain Umbrellas",
         ("nylon", "fabric"),
         ("rainy walks", "the commute", "sudden showers"), ("95 cm", "110 cm")),
)
# fmt: on


def write_sample(
    folder: Path, products: int = 1000, seed: int = 7, *, progress: Callable[[int], None] | None = None
) -> Path:
    """Write `products.jsonl` and `images/*.jpg`; an older sample in the folder is replaced at once.

    The same arguments give the same bytes (with the same version of Pillow). An image takes about 5 ms.

    Args:
        folder: Folder of the sample.
        products: Number of products.
        seed: Random seed.
        progress: Called with the number of finished products.

    Returns:
        The absolute path of the folder.

    Raises:
        ValueError: `products` is not between 1 and 1,000,000.
        FileExistsError: The folder contains files that do not belong to a sample.
    """
    if not 1 <= products <= 1_000_000:
        raise ValueError(f"products must be between 1 and 1,000,000, is {products}")
    if folder.exists() and not (folder / _MARKER).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} holds other files than a sample catalogue; name an empty folder.")
    folder = folder.absolute()
    with scratch_folder(folder.parent) as aside:
        new = aside / "new"
        (new / "images").mkdir(parents=True)
        with open(new / "products.jsonl", "w", encoding="utf-8") as file:
            for number in range(1, products + 1):
                row = _product(number, Random(f"{seed}/{number}"), new / "images")
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                if progress is not None:
                    progress(number)
        (new / _MARKER).write_text(f"generated: {products} products, seed {seed}\n")
        if folder.exists():
            folder.replace(aside / "old")
        new.replace(folder)
    return folder


# --- One product: hidden attributes, then texts that state some of them ---


def _product(number: int, random: Random, images: Path) -> dict[str, Any]:
    kind = random.choice(KINDS)
    brand = random.choice([name for name, (_, _, departments) in BRANDS.items() if kind.department in departments])
    tier, styles, _ = BRANDS[brand]
    style = random.choices((*styles, random.choice(tuple(STYLES))), (5, 3, 2))[0]
    color = random.choice(STYLES[style][1]) if random.random() < 0.7 else random.choice(tuple(COLORS))
    pattern = random.choices(("plain", "striped", "dotted", "checked"), (55, 18, 14, 13))[0]
    material = random.choice(kind.materials)
    series = _SERIES[(tuple(BRANDS).index(brand) * 5 + random.randrange(3)) % len(_SERIES)]
    product_id = f"S{number:06d}"
    links = []
    views = random.choices((1, 2, 3, 4), (45, 33, 15, 7))[0]
    for view, picture in enumerate(draw_views(random, kind.names[0], COLORS[color][0], pattern, material, views)):
        name = f"{product_id}-{view + 1}.jpg"
        picture.save(images / name, quality=88)
        links.append(f"images/{name}")
    amount = _price(random, kind, tier, material)
    row: dict[str, Any] = {
        "id": product_id,
        "title": _title(random, kind, brand, series, style, color, pattern, material),
        "description": _description(random, kind, brand, tier, style, color, pattern, material),
        "link": f"https://shop.example/p/{product_id}",
        "image_link": links[0],
        "additional_image_link": links[1:],
        "google_product_category": kind.google,
        "product_type": [f"{kind.department} > {kind.shelf}"],
        "price": {"amount": amount, "currency": "USD"},
        "availability": random.choices(("in_stock", "out_of_stock", "preorder", "backorder"), (92, 5, 2, 1))[0],
    }
    # As in a real feed, some columns are empty.
    optional = (("brand", brand, 0.85), ("color", color, 0.6), ("material", material, 0.55))
    for field, value, share in (*optional, ("pattern", pattern, 0.45), ("size", random.choice(kind.sizes), 0.7)):
        if random.random() < share:
            row[field] = value
    return row


def _price(random: Random, kind: Kind, tier: int, material: str) -> str:
    price = kind.price * math.exp(0.55 * (tier - 1) + MATERIALS[material][1] + random.gauss(0, 0.25))
    return f"{max(1, round(price)) - random.choice((0.01, 0.01, 0.5, 0.0)):.2f}"


def _title(
    random: Random, kind: Kind, brand: str, series: str, style: str, color: str, pattern: str, material: str
) -> str:
    name = random.choice(kind.names)
    words = {
        "style": random.choice(STYLES[style][0]),
        "color": _color_word(random, color),
        "pattern": "" if pattern == "plain" else pattern,
        "material": random.choice(MATERIALS[material][0]),
        "use": random.choice(kind.uses),
    }
    template = random.choice(
        (
            f"{brand} {series} {name}",
            f"{series} {name} {words['color']}",
            f"{words['style']} {name} by {brand}",
            f"{words['color']} {words['pattern']} {name}",
            f"{words['material']} {name} {series}",
            f"{brand} {name} for {words['use']}",
            f"{words['style']} {words['material']} {name}",
            f"{series} {name}",
        )
    )
    title = " ".join(template.split())
    return random.choices((title[0].upper() + title[1:], title.title(), title.upper()), (6, 3, 1))[0]


def _description(
    random: Random, kind: Kind, brand: str, tier: int, style: str, color: str, pattern: str, material: str
) -> str:
    name, article = random.choice(kind.names), random.choice(("This", "Our", "The"))
    sentences = [
        f"{article} {random.choice(STYLES[style][0])} {name} is made for {random.choice(kind.uses)}.",
        random.choice(_TIER_WORDS[tier]),
    ]
    if random.random() < 0.6:
        sentences.append(f"Made of {random.choice(MATERIALS[material][0])}.")
    if random.random() < 0.3:
        colors = f"{_color_word(random, color)}, {pattern}" if pattern != "plain" else _color_word(random, color)
        sentences.append(f"Shown in {colors}.")
    if random.random() < 0.4:
        sentences.append(f"{brand} stands for {' and '.join(BRANDS[brand][1])} design.")
    sentences += random.sample(_NOISE, random.randrange(3))
    random.shuffle(sentences)
    return " ".join(sentences)


def _color_word(random: Random, color: str) -> str:
    return random.choice((color, color, *COLORS[color][1]))
