"""Training: fit the vocabularies, train the search encoder, freeze it, train ItemSage, evaluate against *Sum*.

`train` does it in memory. `prepare_run` writes the training set to disk and `continue_run` trains from there, with
checkpoints: killed at any moment and called again it ends with the weights of an undisturbed run. For several
processes: `torchrun --nproc-per-node 8 -m inference.train RUN`. Equal inputs, configuration, seed and number of threads
give equal weights.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError

from inference.baselines import Encoder
from inference.checkpoint import load_checkpoint, save_checkpoint
from inference.dataset import Engagement, PackedProducts, Pairs
from inference.distributed import World, joined
from inference.errors import ArtifactError, InferenceError, InputError
from inference.evaluate import evaluate
from inference.inputs import TEXT_FIELDS, Float32Array, ProductInput
from inference.losses import Temperature, sampled_softmax
from inference.queries import SearchEncoder, SearchQueries, flatten_bags
from inference.tokenizer import Tokenizer
from inference.train_config import TrainConfig
from inference.trained import TrainedModel, TrainResult, refuse_existing, write_json
from inference.trainer import Optimiser, Trainer, table_rows

__all__ = [
    "OnProgress",
    "TrainConfig",
    "TrainResult",
    "TrainedModel",
    "TrainingSet",
    "continue_run",
    "embed_all",
    "prepare_run",
    "query_vectors",
    "train",
]

OnProgress = Callable[[str, int, int], None]
"""Called with the stage, the steps done and all steps."""


def _silent(stage: str, done: int, total: int) -> None:
    pass


class TrainingSet(NamedTuple):
    """What a run is trained and evaluated on."""

    tokenizer: Tokenizer
    packed: PackedProducts
    pairs: Pairs

    @classmethod
    def build(
        cls, products: Sequence[ProductInput], engagements: Sequence[Engagement], config: TrainConfig
    ) -> TrainingSet:
        """Fit the vocabularies on products and searches, and pack everything.

        Raises:
            InputError: no product, no usable engagement, no word in the catalogue.
        """
        if not products:
            raise InputError("there is no product to train on; publish a catalogue first")
        searches = sorted({e.query for e in engagements if e.kind == "search"})
        tokenizer = Tokenizer.fit(
            [*(p.text for p in products), *({TEXT_FIELDS[0]: s} for s in searches)],
            unigrams=config.unigrams,
            bigrams=config.bigrams,
            trigrams=config.trigrams,
        )
        packed = PackedProducts(products, tokenizer)
        return cls(tokenizer, packed, Pairs(engagements, packed, tasks=config.known_tasks))


def train(
    products: Sequence[ProductInput],
    engagements: Sequence[Engagement],
    config: TrainConfig,
    on_progress: OnProgress = _silent,
) -> TrainedModel:
    """Train on a catalogue and its engagement log, in memory.

    Raises:
        InputError: no product, no usable engagement, no word in the catalogue, a task without pairs, a loss that is not
            finite.
    """
    started = time.monotonic()
    data = TrainingSet.build(products, engagements, config)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        search = _train_search(data, config, on_progress)
        trainer = _trainer(data, search, config)
        trainer.run(lambda done: on_progress("ItemSage", done, config.steps))
    return _finished(data, search, trainer, config, time.monotonic() - started)


# ------------------------------------------------------------------------------------------------------ runs on disk


def prepare_run(
    run: Path, products: Sequence[ProductInput], engagements: Sequence[Engagement], config: TrainConfig
) -> None:
    """Write `RUN.partial` with the training set and the configuration, for `continue_run`.

    Raises:
        InputError: as `train`.
        ArtifactError: the run is there already, finished or not, or the disk refuses.
    """
    work = _work_folder(run)
    refuse_existing(run)
    refuse_existing(work)
    data = TrainingSet.build(products, engagements, config)
    aside = work.with_name(work.name + ".tmp")
    try:
        shutil.rmtree(aside, ignore_errors=True)
        (aside / "data").mkdir(parents=True)
        data.packed.save(aside / "data")
        data.pairs.save(aside / "data")
        data.tokenizer.save(aside / "tokenizer.json")
        write_json(aside / "config.json", config)
        aside.rename(work)
    except OSError as error:
        raise ArtifactError(f"the run {run} cannot be written: {error}") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def continue_run(
    run: Path,
    on_progress: OnProgress = _silent,
    *,
    device: torch.device | None = None,
    world: World | None = None,
) -> TrainedModel:
    """Train a prepared run to its end, from its last checkpoint on; a finished one is read back.

    Every process of the `world` calls it; the first of them writes.

    Raises:
        InputError: as `train`.
        ArtifactError: the run was never prepared, is damaged, or the disk refuses.
    """
    world, work = world or World(), _work_folder(run)
    if run.exists():
        return TrainedModel.load(run)
    config, data = _read(work)
    with torch.random.fork_rng(devices=[]):
        if world.rank == 0 and not (work / "search.json").exists():
            _keep_search(_train_search(data, config, on_progress), work)
        world.barrier()
        search = SearchQueries.load(work)
        trainer = _trainer(data, search, config, device, world)
        before = _resume(trainer, work)
        started = time.monotonic()

        def save() -> None:
            if world.rank == 0:
                tensors, plain = trainer.state()
                plain["seconds"] = before + time.monotonic() - started
                save_checkpoint(work, len(trainer.losses), tensors, plain)

        trainer.run(lambda done: on_progress("ItemSage", done, config.steps), save)
    trained = _finished(data, search, trainer, config, before + time.monotonic() - started)
    if world.rank == 0:
        try:
            trained.write_model(work)
            for path in work.glob("checkpoint-*"):
                shutil.rmtree(path)
            work.rename(run)
        except (OSError, SafetensorError) as error:
            raise ArtifactError(f"the run {run} cannot be written: {error}") from None
    world.barrier()
    return trained


def _work_folder(run: Path) -> Path:
    return run.with_name(run.name + ".partial")


def _read(work: Path) -> tuple[TrainConfig, TrainingSet]:
    try:
        config = msgspec.json.decode((work / "config.json").read_bytes(), type=TrainConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{work} is no prepared training run: {error}") from None
    data = TrainingSet(
        Tokenizer.load(work / "tokenizer.json"), PackedProducts.load(work / "data"), Pairs.load(work / "data")
    )
    if data.packed.vocabulary != data.tokenizer.size:
        raise ArtifactError(
            f"{work}: the training set has {data.packed.vocabulary} ids, the tokenizer {data.tokenizer.size}"
        )
    return config, data


def _keep_search(search: SearchQueries, work: Path) -> None:
    """`search.json` last: it tells that the stage is done."""
    aside = work / "search.partial"
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for path in search.save(aside):
            path.rename(work / path.name)
        aside.rmdir()
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"the search encoder cannot be written to {work}: {error}") from None


def _resume(trainer: Trainer, work: Path) -> float:
    """Restore the last checkpoint, if there is one; the seconds that the run has taken so far."""
    found = load_checkpoint(work)
    if found is None:
        return 0.0
    _, tensors, plain = found
    try:
        trainer.restore(tensors, plain)
        return float(plain["seconds"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"a checkpoint in {work} is of another model: {error}") from None


# -------------------------------------------------------------------------------------------------------- the stages


def _trainer(
    data: TrainingSet,
    search: SearchQueries,
    config: TrainConfig,
    device: torch.device | None = None,
    world: World | None = None,
) -> Trainer:
    queries = query_vectors(data.pairs, data.packed, search)
    torch.manual_seed(config.seed + 1)
    rng = np.random.default_rng([config.seed, 1])
    return Trainer(data.packed, data.pairs, queries, config, rng, device=device, world=world)


def _finished(
    data: TrainingSet, search: SearchQueries, trainer: Trainer, config: TrainConfig, seconds: float
) -> TrainedModel:
    encoder, pairs = trainer.encoder.cpu(), data.pairs
    queries = query_vectors(pairs, data.packed, search)
    result = TrainResult(
        parameters=sum(p.numel() for p in encoder.parameters()),
        vocabulary=data.tokenizer.size,
        training_pairs=len(pairs.training),
        held_out_pairs=int(pairs.held_out.sum()),
        seconds=round(seconds, 3),
        loss=[round(x, 4) for x in trainer.losses],
        itemsage=evaluate(embed_all(encoder, data.packed, images=config.images, text=config.text), queries, pairs),
        sum=evaluate(data.packed.summed_images(), queries, pairs),
    )
    return TrainedModel(encoder, data.tokenizer, search, result, config)


def query_vectors(pairs: Pairs, packed: PackedProducts, search: SearchQueries) -> Float32Array:
    """The frozen vectors `[Q, 256]` of the distinct queries, in the order of `pairs.queries`."""
    main, _ = packed.main_images()
    out = np.zeros((len(pairs.queries), main.shape[1]), np.float32)
    texts = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "search"]
    images = [i for i, (kind, _) in enumerate(pairs.queries) if kind == "image"]
    if texts:
        out[texts] = search([pairs.queries[i][1] for i in texts])
    if images:
        out[images] = main[pairs.query_product[images]]
    return out


def embed_all(
    encoder: Encoder, packed: PackedProducts, batch: int = 256, *, images: bool = True, text: bool = True
) -> Float32Array:
    """All products' embeddings `[P, 256]`."""
    encoder.eval()
    starts = range(0, len(packed), batch)
    with torch.inference_mode():
        rows = (np.arange(s, min(s + batch, len(packed))) for s in starts)
        parts = [encoder(*packed.batch(r, images=images, text=text)) for r in rows]
    out: Float32Array = torch.cat(parts).numpy()
    return out


def _train_search(data: TrainingSet, config: TrainConfig, on_progress: OnProgress) -> SearchQueries:
    """Texts (searches, and each product's title) against the frozen main image of the product that they lead to."""
    tokenizer, packed, pairs = data
    torch.manual_seed(config.seed)
    rng = np.random.default_rng([config.seed, 0])
    encoder = SearchEncoder(tokenizer.size, table_rows(tokenizer.size))
    main, has_image = packed.main_images()
    rows = pairs.training[[pairs.queries[q][0] == "search" for q in pairs.query[pairs.training]]]
    bags = [tokenizer.ids(pairs.queries[q][1]) for q in pairs.query[rows]] + [t.tolist() for t in packed.titles()]
    target = np.concatenate([pairs.product[rows], np.arange(len(packed))])
    usable = np.flatnonzero(has_image[target] & np.array([len(b) > 0 for b in bags]))
    if len(usable) < 2:
        return SearchQueries(encoder, tokenizer)  # without images a random projection of the texts must do
    temperature = Temperature()
    optimiser = Optimiser([encoder, temperature], config, config.search_steps)
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
        optimiser.check(loss.item())
        optimiser.step(loss, step)
        on_progress("search encoder", step + 1, config.search_steps)
    return SearchQueries(encoder, tokenizer)


def _main(arguments: Sequence[str]) -> int:
    """`python -m inference.train RUN`: one process of `continue_run`, under torchrun one of many."""
    if len(arguments) != 1:
        print("usage: python -m inference.train RUN", file=sys.stderr)
        return 2
    device = torch.device("cpu")
    if torch.cuda.is_available():
        import os

        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    try:
        with joined(device) as world:
            report = world.rank == 0 and sys.stderr.isatty()

            def tell(stage: str, done: int, total: int) -> None:
                if report:
                    print(f"\r{stage} {done}/{total} ", end="", file=sys.stderr, flush=True)

            trained = continue_run(Path(arguments[0]), tell, device=device, world=world)
            if world.rank == 0:
                print(f"Recall@10 over the tasks: {trained.result.itemsage.mean_recall:.3f}")
    except InferenceError as error:
        print(f"inference.train: {error}", file=sys.stderr)
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
