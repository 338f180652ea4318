"""Training: fit the vocabularies, train the search encoder, freeze it, train ItemSage, evaluate against *Sum*.

One run is one folder: `config.json`, `tokenizer.json`, `search.{safetensors,json}`, `model.{safetensors,json}`,
`metrics.json`; it appears under its name only when it is complete. Equal inputs, configuration, seed and thread count
give equal weights.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from inference.dataset import TASKS, Engagement, IntArray, PackedProducts, Pairs
from inference.errors import ArtifactError, InputError
from inference.evaluate import Evaluation, evaluate
from inference.inputs import TEXT_FIELDS, Float32Array, ProductInput
from inference.losses import Temperature, sampled_softmax
from inference.model import ItemSage, ItemSageConfig
from inference.queries import SearchEncoder, SearchQueries, flatten_bags
from inference.tokenizer import Tokenizer

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the steps done and all steps."""


class TrainConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How to train. The sizes suit a catalogue of thousands on two CPU cores; the paper's are `ItemSageConfig()`."""

    steps: int = 400
    batch: int = 256  # pairs a step, shared by the tasks in equal parts
    random_negatives: int = 256  # products of the catalogue, drawn evenly
    learning_rate: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    search_steps: int = 150
    seed: int = 7
    unigrams: int = 200_000
    bigrams: int = 1_000_000
    trigrams: int = 64_000
    width: int = 256
    heads: int = 4
    feedforward: int = 1024
    head_hidden: int = 1024
    layers: int = 1

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "random_negatives", "search_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} ({getattr(self, name)}) must be at least 1")


class TrainResult(msgspec.Struct, frozen=True):
    """What a run reports (`metrics.json`)."""

    parameters: int
    vocabulary: int
    training_pairs: int
    held_out_pairs: int
    seconds: float
    loss: list[float]
    itemsage: Evaluation
    sum: Evaluation


class TrainedModel:
    """A finished run in memory: what a release is made of."""

    def __init__(self, model: ItemSage, tokenizer: Tokenizer, search: SearchQueries, result: TrainResult) -> None:
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.search = search
        self.result = result

    def save(self, folder: Path, config: TrainConfig) -> None:
        """Write the run folder, aside first, then renamed: it is there whole or not at all.

        Raises:
            ArtifactError: the folder is there already, or the disk refuses.
        """
        from safetensors.torch import save_file

        if folder.exists():
            raise ArtifactError(f"{folder} is there already; a run never replaces another")
        aside = folder.with_name(folder.name + ".partial")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            aside.mkdir(parents=True)
            self.tokenizer.save(aside / "tokenizer.json")
            self.search.save(aside)
            save_file(self.model.state_dict(), aside / "model.safetensors")
            (aside / "config.json").write_bytes(msgspec.json.format(msgspec.json.encode(config)))
            (aside / "model.json").write_bytes(msgspec.json.encode(asdict(self.model.config)))
            (aside / "metrics.json").write_bytes(msgspec.json.format(msgspec.json.encode(self.result)))
            aside.rename(folder)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"the run {folder} cannot be written: {error}") from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @classmethod
    def load(cls, folder: Path) -> TrainedModel:
        """Read a run folder back.

        Raises:
            ArtifactError: a file is missing, truncated, or of another kind.
        """
        from safetensors.torch import load_file

        search = SearchQueries.load(folder)
        try:
            model = ItemSage(ItemSageConfig(**msgspec.json.decode((folder / "model.json").read_bytes())))
            model.load_state_dict(load_file(folder / "model.safetensors"))
            result = msgspec.json.decode((folder / "metrics.json").read_bytes(), type=TrainResult)
        except (OSError, TypeError, ValueError, RuntimeError, msgspec.MsgspecError, SafetensorError) as error:
            raise ArtifactError(f"{folder} is no complete training run: {error}") from None
        if model.config.vocabulary != (size := search.tokenizer.size):
            raise ArtifactError(f"{folder}: the model has {model.config.vocabulary} ids, its tokenizer {size}")
        return cls(model, search.tokenizer, search, result)


def train(
    products: Sequence[ProductInput],
    engagements: Sequence[Engagement],
    config: TrainConfig,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> TrainedModel:
    """Train on a catalogue and its engagement log.

    Raises:
        InputError: no product, no usable engagement, no word in the catalogue, a loss that is not finite.
    """
    if not products:
        raise InputError("there is no product to train on; publish a catalogue first")
    started = time.monotonic()
    rng = np.random.default_rng(config.seed)
    searches = sorted({e.query for e in engagements if e.kind == "search"})
    tokenizer = Tokenizer.fit(
        [*(p.text for p in products), *({TEXT_FIELDS[0]: s} for s in searches)],
        unigrams=config.unigrams,
        bigrams=config.bigrams,
        trigrams=config.trigrams,
    )
    packed = PackedProducts(products, tokenizer)
    pairs = Pairs(engagements, packed)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(config.seed)
        encoder = _train_search(products, packed, pairs, tokenizer, config, rng, on_progress)
        search = SearchQueries(encoder, tokenizer)
        queries = query_vectors(pairs, packed, search)
        model, losses = _train_itemsage(packed, pairs, queries, config, rng, on_progress)
    result = TrainResult(
        parameters=sum(p.numel() for p in model.parameters()),
        vocabulary=tokenizer.size,
        training_pairs=len(pairs.training),
        held_out_pairs=int(pairs.held_out.sum()),
        seconds=round(time.monotonic() - started, 3),
        loss=[round(x, 4) for x in losses],
        itemsage=evaluate(embed_all(model, packed), queries, pairs),
        sum=evaluate(packed.summed_images(), queries, pairs),
    )
    return TrainedModel(model, tokenizer, search, result)


def query_vectors(pairs: Pairs, packed: PackedProducts, search: SearchQueries) -> Float32Array:
    """The frozen vectors `[Q, 256]` of the distinct queries, in the order of `pairs.queries`."""
    main, _ = packed.main_images()
    out = np.zeros((len(pairs.queries), main.shape[1]), np.float32)
    texts = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "search"]
    images = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "image"]
    if texts:
        out[texts] = search([pairs.queries[i][1] for i in texts])
    if images:
        out[images] = main[[packed.index[pairs.queries[i][1]] for i in images]]
    return out


def embed_all(model: ItemSage, packed: PackedProducts, batch: int = 256) -> Float32Array:
    """All products' embeddings `[P, 256]`."""
    model.eval()
    with torch.inference_mode():
        parts = [model(*packed.batch(np.arange(s, min(s + batch, len(packed))))) for s in range(0, len(packed), batch)]
    out: Float32Array = torch.cat(parts).numpy()
    return out


def _train_search(
    products: Sequence[ProductInput],
    packed: PackedProducts,
    pairs: Pairs,
    tokenizer: Tokenizer,
    config: TrainConfig,
    rng: np.random.Generator,
    on_progress: OnProgress,
) -> SearchEncoder:
    """Texts (searches, and each product's title) against the frozen main image of the product that they lead to."""
    encoder = SearchEncoder(tokenizer.size, _table_rows(tokenizer.size))
    main, has_image = packed.main_images()
    rows = pairs.training[[pairs.queries[q][0] == "search" for q in pairs.query[pairs.training]]]
    texts = [pairs.queries[q][1] for q in pairs.query[rows]] + [p.text.get("title", "") for p in products]
    target = np.concatenate([pairs.product[rows], np.arange(len(products))])
    bags = [tokenizer.ids(t) for t in texts]
    usable = np.flatnonzero(has_image[target] & np.array([len(b) > 0 for b in bags]))
    if len(usable) < 2:
        return encoder  # a catalogue without images: a random projection of the texts must do
    temperature = Temperature()
    optimiser, schedule = _optimiser([encoder, temperature], config, config.search_steps)
    for step in range(config.search_steps):
        chosen = rng.choice(usable, min(config.batch, len(usable)), replace=False)
        images = torch.from_numpy(main[target[chosen]])
        log_q = torch.zeros(len(chosen))
        loss = sampled_softmax(
            encoder(*flatten_bags([bags[i] for i in chosen])),
            images,
            images,
            scale=temperature(),
            positive_log_q=log_q,
            negative_log_q=log_q,
            masked=torch.from_numpy(target[chosen][:, None] == target[chosen][None]),
        )
        _step(loss, optimiser, schedule)
        on_progress("search encoder", step + 1, config.search_steps)
    return encoder


def _train_itemsage(
    packed: PackedProducts,
    pairs: Pairs,
    queries: Float32Array,
    config: TrainConfig,
    rng: np.random.Generator,
    on_progress: OnProgress,
) -> tuple[ItemSage, list[float]]:
    model = ItemSage(
        ItemSageConfig(
            vocabulary=packed.vocabulary,
            table_rows=_table_rows(packed.vocabulary),
            width=config.width,
            heads=config.heads,
            feedforward=config.feedforward,
            head_hidden=config.head_hidden,
            layers=config.layers,
        )
    )
    temperature = Temperature()
    optimiser, schedule = _optimiser([model, temperature], config, config.steps)
    sampler = PairSampler(pairs, len(packed), config, rng)
    losses: list[float] = []
    model.train()
    for step in range(config.steps):
        batch = sampler.draw()
        used, position = np.unique(np.concatenate([batch.product, batch.negatives]), return_inverse=True)
        embedded = model(*packed.batch(used))[torch.from_numpy(position)]
        positives, negatives = embedded[: len(batch.product)], embedded[len(batch.product) :]
        asked, scale = torch.from_numpy(queries[batch.query]), temperature()
        loss: Tensor = sampled_softmax(
            asked,
            positives,
            positives,
            scale=scale,
            positive_log_q=batch.positive_log_q,
            negative_log_q=batch.in_batch_log_q,
            masked=batch.in_batch_masked,
        ) + sampled_softmax(
            asked,
            positives,
            negatives,
            scale=scale,
            positive_log_q=batch.positive_log_q,
            negative_log_q=batch.random_log_q,
            masked=batch.random_masked,
        )
        losses.append(_step(loss, optimiser, schedule))
        on_progress("ItemSage", step + 1, config.steps)
    return model, losses


class TrainingBatch(msgspec.Struct):
    """One step's pairs and everything that the loss needs to know about them; see `sampled_softmax`."""

    query: IntArray
    product: IntArray
    negatives: IntArray
    positive_log_q: Tensor
    in_batch_log_q: Tensor
    in_batch_masked: Tensor
    random_log_q: Tensor
    random_masked: Tensor


class PairSampler:
    """Draws batches in which every task has the same share, and knows each product's sampling frequency."""

    def __init__(self, pairs: Pairs, products: int, config: TrainConfig, rng: np.random.Generator) -> None:
        self._rng, self._products, self._negatives = rng, products, config.random_negatives
        self._pairs = pairs
        rows = pairs.training
        self._tasks: list[tuple[IntArray, np.ndarray]] = []
        for number in range(len(TASKS)):
            of_task = rows[pairs.task[rows] == number]
            if len(of_task):
                self._tasks.append((of_task, np.cumsum(pairs.count[of_task])))
        self._quota = max(1, config.batch // len(self._tasks))
        # How often a product is drawn as an in-batch positive: the mean over tasks of its share of the task.
        share = np.zeros(products)
        joint: dict[int, float] = {}
        marginal = np.zeros(len(pairs.queries))
        for of_task, total in self._tasks:
            weight = pairs.count[of_task] / total[-1] / len(self._tasks)
            np.add.at(share, pairs.product[of_task], weight)
            np.add.at(marginal, pairs.query[of_task], weight)
            for key, w in zip(self._key(pairs.query[of_task], pairs.product[of_task]), weight, strict=True):
                joint[int(key)] = joint.get(int(key), 0.0) + float(w)
        self._log_share = np.log(np.maximum(share, 1e-12))
        self._engaged = np.array(sorted(joint), np.int64)
        conditional = np.array([joint[k] / marginal[k // products] for k in self._engaged.tolist()])
        self._log_conditional = np.log(conditional)

    def draw(self) -> TrainingBatch:
        """The next batch."""
        parts = [
            of_task[np.searchsorted(total, self._rng.integers(0, total[-1], self._quota), side="right")]
            for of_task, total in self._tasks
        ]
        rows = np.concatenate(parts)
        query, product = self._pairs.query[rows], self._pairs.product[rows]
        negatives = self._rng.integers(0, self._products, self._negatives)
        conditional = self._log_conditional[np.searchsorted(self._engaged, self._key(query, product))]
        return TrainingBatch(
            query,
            product,
            negatives,
            _float(conditional),
            _float(self._log_share[product] + math.log(len(rows))),
            self._masked(query, product),
            _float(np.full(self._negatives, math.log(self._negatives / self._products))),
            self._masked(query, negatives),
        )

    def _key(self, query: IntArray, product: IntArray) -> IntArray:
        return query * self._products + product

    def _masked(self, query: IntArray, candidates: IntArray) -> Tensor:
        """`[B, N]`: the query engaged with the candidate (the positive itself included), or is made of its image."""
        key = self._key(query[:, None], candidates[None])
        at = np.searchsorted(self._engaged, key).clip(max=len(self._engaged) - 1)
        own = self._pairs.query_product[query][:, None] == candidates
        return torch.from_numpy((self._engaged[at] == key) | own)


def _table_rows(vocabulary: int) -> int:
    """The paper's 100,000 rows, scaled down with the vocabulary."""
    return min(100_000, max(1_000, vocabulary))


def _optimiser(
    modules: Sequence[nn.Module], config: TrainConfig, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    """AdamW with linear warm-up and cosine decay."""
    optimiser = torch.optim.AdamW(
        [p for m in modules for p in m.parameters()],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )
    warmup = max(1, min(config.warmup_steps, steps // 5))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return optimiser, torch.optim.lr_scheduler.LambdaLR(optimiser, factor)


def _step(loss: Tensor, optimiser: torch.optim.Optimizer, schedule: torch.optim.lr_scheduler.LRScheduler) -> float:
    value = loss.item()
    if not math.isfinite(value):
        raise InputError(f"training diverged: the loss is {value}; lower learning_rate ({schedule.get_last_lr()[0]:g})")
    optimiser.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimiser.step()
    schedule.step()
    return value


def _float(values: np.ndarray) -> Tensor:
    return torch.from_numpy(values.astype(np.float32))
