"""The evidence for the model: the paper's comparisons, trained again and again on a simulated log of a catalogue.

Each variant differs from the full model in one thing. All variants of a seed share the log, the vocabularies and the
frozen search encoder, so that they differ in nothing else. A finished training is one line of `results.jsonl`; what is
there is not trained again, so that a run broken off goes on where it was.
"""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from benchmarks.evidence.engagement_log import ceiling, simulate_log
from inference.arrays import Float32Array
from inference.errors import ArtifactError, InputError
from inference.inputs import VECTOR_DIM, ProductInput
from inference.training.config import TrainConfig
from inference.training.engagements import TASKS
from inference.training.evaluation import Evaluation, evaluate
from inference.training.pairs import Pairs
from sagelift.demo.shoppers import FloatArray, Market, ShopProduct

if TYPE_CHECKING:
    from inference.visual_cache import VisualCache

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

NEW_SHARE = 0.25  # of the catalogue: in no training, as if it were published afterwards
FULL, SUM, CEILING = "full", "sum", "ceiling"


VARIANTS: dict[str, Mapping[str, Any]] = {
    FULL: {},
    "sum_mlp": {"model": "sum_mlp"},
    "mlp_concat_mlp": {"model": "mlp_concat_mlp"},
    "image_only": {"text": False},
    "text_only": {"images": False},
    "2_layers": {"layers": 2},
    "3_layers": {"layers": 3},
    "4_layers": {"layers": 4},
    "l_pos_only": {"loss": "in_batch"},
    "l_neg_only": {"loss": "random"},
    "shared_denominator": {"loss": "shared"},
    "no_logq": {"log_q": False},
    "l_pos_no_logq": {"loss": "in_batch", "log_q": False},
    "image_surface_only": {"only": ["image"]},
    "search_surface_only": {"only": ["search"]},
    "clicks_and_saves_only": {"only": ["click", "save"]},
    "conversions_only": {"only": ["add_to_cart", "checkout"]},
}
"""Name -> what differs from the full model's `TrainConfig`. `only`: the query kinds or engagements whose tasks are
trained; all are evaluated."""


class EvidenceConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The size of the evidence."""

    seeds: tuple[int, ...] = (1, 2, 3)
    visits_per_product: int = 40
    steps: int = 100
    search_steps: int = 200
    variants: tuple[str, ...] = tuple(VARIANTS)

    def __post_init__(self) -> None:
        if unknown := [v for v in self.variants if v not in VARIANTS]:
            raise InputError(f"there is no variant {unknown[0]!r}; it must be one of {', '.join(VARIANTS)}")
        for name in ("visits_per_product", "steps", "search_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} ({getattr(self, name)}) must be at least 1")
        if len(set(self.seeds)) < 2:
            raise InputError(f"seeds ({', '.join(map(str, self.seeds))}) must be at least two: one has no spread")


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `results.jsonl`: what one variant reached on one seed's log."""

    catalogue: str
    digest: str  # of everything that the result follows from
    variant: str
    seed: int
    products: int
    pairs: int
    queries: int
    seconds: float
    known_products: Evaluation  # held-out pairs of products that other pairs were trained on
    new_products: Evaluation  # pairs of products that the training never saw in any way, ranked among each other


@dataclass(frozen=True)
class Catalogue:
    """Products as the model takes them, as shoppers see them, and what they look like `[P, 48]`."""

    name: str
    products: Sequence[ProductInput]
    shop: Sequence[ShopProduct]
    looks: FloatArray

    @cached_property
    def digest(self) -> str:
        """Changes with any input of the model."""
        state = hashlib.sha256()
        for product in self.products:
            state.update(msgspec.json.encode([product.id, product.text]))
            state.update(np.ascontiguousarray(product.images).tobytes())
        return state.hexdigest()[:16]


def load_catalogue(
    name: str, feeds: Sequence[Path], cache: VisualCache, on_progress: Callable[[int, int], None]
) -> Catalogue:
    """Read feeds into one catalogue: all products that have a price, in one currency, with their images.

    Args:
        cache: image vectors that are known already; what it does not know, the frozen visual encoder computes here.

    Raises:
        FeedError: a feed cannot be read.
        InputError: several currencies, or a product twice.
    """
    from streaming.catalogue.images.fetch import ImageFetcher
    from streaming.catalogue.images.vectors import CachedImageVectors
    from streaming.catalogue.merging import merge
    from streaming.errors import ImageError
    from streaming.feeds import BadRow, read_feed

    rows = [row for feed in feeds for row in read_feed(feed, now=datetime.now(UTC)) if not isinstance(row, BadRow)]
    products = [product for row in rows if (product := merge(None, row)).amount_minor and product.currency]
    if len(currencies := {p.currency for p in products}) > 1:
        raise InputError(f"{name} has prices in {', '.join(sorted(map(str, currencies)))}; shoppers need one currency")
    images, looks = [], np.zeros((len(products), _THUMBNAIL**2 * 3))
    with ImageFetcher() as fetcher:
        vectors_of = CachedImageVectors(fetcher.fetch_many, _encode_images(), cache).vectors
        for start in range(0, len(products), _PRODUCTS_AT_ONCE):
            part = products[start : start + _PRODUCTS_AT_ONCE]
            found = vectors_of(list(dict.fromkeys(link for p in part for link in p.links)))
            for number, product in enumerate(part, start):
                vectors = [f[1] for link in product.links if not isinstance(f := found[link], ImageError)]
                images.append(np.stack(vectors) if vectors else np.zeros((0, VECTOR_DIM), np.float32))
                main = fetcher.fetch_many(product.links[:1])
                if main and not isinstance(main[0], ImageError):
                    looks[number] = _thumbnail(main[0].pixels)
            on_progress(start + len(part), len(products))
    return Catalogue(
        name,
        [ProductInput(p.id, p.text, v) for p, v in zip(products, images, strict=True)],
        [ShopProduct(p.id, p.text, int(p.amount_minor or 0), str(p.currency)) for p in products],
        looks,
    )


def _encode_images() -> Callable[[Pixels], tuple[Float32Array, dict[int, str]]]:
    """The frozen visual encoder in this process: evidence needs no server. It is loaded at the first unknown image."""
    import torch

    from inference.visual import VisualEncoder

    loaded: list[VisualEncoder] = []

    def encode(pixels: Pixels) -> tuple[Float32Array, dict[int, str]]:
        if not loaded:
            loaded.append(VisualEncoder.pretrained())
        with torch.inference_mode():
            return loaded[0](torch.from_numpy(pixels)).numpy(), {}

    return encode


def ablate(
    catalogues: Sequence[Catalogue],
    config: EvidenceConfig,
    results: Path,
    *,
    jobs: int = 1,
    on_result: Callable[[int, int], None] = lambda done, total: None,
) -> list[Trained]:
    """Train whatever `results` does not hold yet; all results of this configuration, in order.

    Args:
        results: a file of JSON lines, appended to as each training ends.
        jobs: processes that train at the same time, one thread each.

    Raises:
        InputError: a catalogue that makes no log.
        ArtifactError: the file cannot be read or written.
    """
    wanted = {
        _digest(catalogue, config, variant, seed): (number, variant, seed)
        for number, catalogue in enumerate(catalogues)
        for seed in config.seeds
        for variant in (CEILING, SUM, *config.variants)
    }
    done = {t.digest: t for t in read_results(results) if t.digest in wanted}
    on_result(len(done), len(wanted))
    left = [(digest, *what) for digest, what in wanted.items() if digest not in done]
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, _start_process, (catalogues, config)) as pool:
        running = [pool.submit(_train_one, *task) for task in left]
        try:
            for future in as_completed(running):
                trained = future.result()
                _append(results, trained)
                done[trained.digest] = trained
                on_result(len(done), len(wanted))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[digest] for digest in wanted]


def read_results(path: Path) -> list[Trained]:
    """What earlier runs have left; the line that a crash cut off is passed over.

    Raises:
        ArtifactError: it cannot be read, or holds something else.
    """
    out: list[Trained] = []
    try:
        lines = path.read_bytes().split(b"\n") if path.exists() else []
        for number, line in enumerate(lines):
            try:
                if line:
                    out.append(msgspec.json.decode(line, type=Trained))
            except msgspec.MsgspecError as error:
                if number < len(lines) - 1:
                    raise ArtifactError(f"{path}, line {number + 1} is no result ({error}); delete the file") from None
    except OSError as error:
        raise ArtifactError(f"the results {path} cannot be read: {error.strerror}") from None
    return out


# ------------------------------------------------------------------------------------------------- one training

_THUMBNAIL = 4
_PRODUCTS_AT_ONCE = 64
_SIMULATOR = 1  # counts up when the same configuration gives another log


def _thumbnail(pixels: Pixels) -> FloatArray:
    """4 x 4 mean colours `[48]`: looks as no encoder computes them."""
    side = len(pixels) // _THUMBNAIL
    cut = pixels[: side * _THUMBNAIL, : side * _THUMBNAIL].astype(float)
    colours: FloatArray = cut.reshape(_THUMBNAIL, side, _THUMBNAIL, side, 3).mean((1, 3)).ravel()
    return colours


def _digest(catalogue: Catalogue, config: EvidenceConfig, variant: str, seed: int) -> str:
    sizes = [config.visits_per_product, config.steps, config.search_steps]
    what = [
        _SIMULATOR,
        catalogue.digest,
        variant,
        seed,
        *sizes,
        msgspec.to_builtins(_train_config(config, variant, seed)),
        VARIANTS.get(variant, {}).get("only"),
    ]
    return hashlib.sha256(msgspec.json.encode(what)).hexdigest()[:16]


def _train_config(config: EvidenceConfig, variant: str, seed: int, pairs: Pairs | None = None) -> TrainConfig:
    chosen = {name: value for name, value in VARIANTS.get(variant, {}).items() if name != "only"}
    if (only := VARIANTS.get(variant, {}).get("only")) and pairs is not None:
        rows = pairs.training
        engagements = np.bincount(pairs.task[rows], pairs.count[rows], len(TASKS))  # shares as when none are chosen
        chosen["tasks"] = {
            task: float(n**0.5) if set(only) & set(task.split("/")) else 0.0
            for task, n in zip(TASKS, engagements, strict=True)
        }
    return TrainConfig(steps=config.steps, search_steps=config.search_steps, seed=seed, **chosen)


def _append(path: Path, trained: Trained) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.read_bytes() if path.exists() else b""
        if whole and not whole.endswith(b"\n"):  # a crash cut the last line off
            whole = whole[: whole.rfind(b"\n") + 1]
            path.write_bytes(whole)
        with path.open("ab") as file:
            file.write(msgspec.json.encode(trained) + b"\n")
    except OSError as error:
        raise ArtifactError(f"the results {path} cannot be written: {error.strerror}") from None


def _start_process(catalogues: Sequence[Catalogue], config: EvidenceConfig) -> None:
    """Of several processes each has one thread: together they are faster than one with several."""
    import torch

    os.nice(5)  # evidence takes an hour or more; whoever works beside it goes first
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _worlds.clear()
    _inputs[:] = [(catalogue, config) for catalogue in catalogues]


def _end_with_parent() -> None:
    """A pool's process whose parent was killed would wait for work for ever."""
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


class _World:
    """What all variants of a seed share: the log, what is learned from it, and two sets of pairs to be judged on."""

    def __init__(self, catalogue: Catalogue, config: EvidenceConfig, seed: int) -> None:
        import torch

        from inference.training.dataset import TrainingSet
        from inference.training.evaluation import query_vectors
        from inference.training.packed import PackedProducts
        from inference.training.search import train_search

        self.market = Market(catalogue.shop, 7, catalogue.looks)
        self.log = simulate_log(self.market, config.visits_per_product * len(catalogue.products), seed)
        new = {p.id for p in catalogue.products if _share(p.id) < NEW_SHARE}
        known = [p for p in catalogue.products if p.id not in new]
        wanted = _train_config(config, FULL, seed)
        # A query by a new product's image is left out of the training with the product.
        self.data = TrainingSet.build(known, [e for e in self.log if e.product_id not in new], wanted)
        torch.manual_seed(seed)
        search = train_search(self.data, wanted)
        self.queries = query_vectors(self.data.pairs, self.data.packed, search)
        self.packed = PackedProducts(catalogue.products, self.data.tokenizer)
        whole = Pairs(self.log, self.packed)
        self.judged_queries = query_vectors(whole, self.packed, search)
        self.is_new = np.array([p.id in new for p in catalogue.products])
        self.known_products, self.new_products = copy.copy(whole), copy.copy(whole)
        self.known_products.held_out = whole.held_out & ~self.is_new[whole.product]
        self.new_products.held_out = self.is_new[whole.product]


_inputs: list[tuple[Catalogue, EvidenceConfig]] = []  # of this process, by the catalogue's number
_worlds: dict[tuple[int, int], _World] = {}  # the last one: variants of a seed come one after the other


def _train_one(digest: str, number: int, variant: str, seed: int) -> Trained:
    started = time.monotonic()
    catalogue, config = _inputs[number]
    if (number, seed) not in _worlds:
        _worlds.clear()
        _worlds[number, seed] = _World(catalogue, config, seed)
    world = _worlds[number, seed]
    products, queries = _vectors(world, config, variant, seed)
    return Trained(
        catalogue=catalogue.name,
        digest=digest,
        variant=variant,
        seed=seed,
        products=len(catalogue.products),
        pairs=len(world.known_products.query),
        queries=len(queries),
        known_products=evaluate(products, queries, world.known_products),
        new_products=evaluate(products, queries, world.new_products, among=world.is_new),
        seconds=round(time.monotonic() - started, 1),
    )


def _vectors(world: _World, config: EvidenceConfig, variant: str, seed: int) -> tuple[FloatArray, FloatArray]:
    """Vectors of all products and all queries, by a variant."""
    import torch

    from inference.training.evaluation import embed_all
    from inference.training.loop import Trainer

    if variant == CEILING:
        return ceiling(world.market, world.log, world.known_products.queries)
    if variant == SUM:
        return world.packed.summed_images(), world.judged_queries
    wanted = _train_config(config, variant, seed, world.data.pairs)
    torch.manual_seed(seed + 1)
    rng = np.random.default_rng([seed, 1])
    trainer = Trainer(world.data.packed, world.data.pairs, world.queries, wanted, rng)
    trainer.run(lambda _: None)
    return embed_all(trainer.encoder, world.packed, images=wanted.images, text=wanted.text), world.judged_queries


def _share(product_id: str) -> float:
    return int.from_bytes(hashlib.sha256(product_id.encode()).digest()[:8], "big") / 2**64
