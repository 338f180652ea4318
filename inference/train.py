"""Training: fit the vocabularies, train the search encoder, freeze it, train ItemSage, evaluate against *Sum*.

`train` does it in memory. `prepare_run` writes the training set to disk and `continue_run` trains from there, with
checkpoints: killed at any moment and called again it ends with the weights of an undisturbed run. For several
processes: `torchrun --nproc-per-node 8 -m inference.train RUN`. Equal inputs, configuration, seed and number of threads
give equal weights.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError

from inference.baselines import Encoder
from inference.checkpoint import load_checkpoint, save_checkpoint
from inference.dataset import Engagement, PackedProducts, Pairs
from inference.distributed import World, joined
from inference.errors import ArtifactError, InferenceError, InputError
from inference.evaluate import Evaluation, evaluate
from inference.files import alone_in
from inference.inputs import TEXT_FIELDS, Float32Array, ProductInput
from inference.queries import SearchQueries
from inference.search_training import train_search
from inference.tokenizer import Tokenizer
from inference.train_config import TrainConfig
from inference.trained import TrainedModel, TrainResult, refuse_existing, write_json
from inference.trainer import Trainer

__all__ = [
    "OnProgress",
    "RunEvaluation",
    "TrainConfig",
    "TrainResult",
    "TrainedModel",
    "TrainingSet",
    "choose_device",
    "continue_run",
    "embed_all",
    "evaluate_run",
    "prepare_run",
    "query_vectors",
    "train",
    "unfinished_runs",
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
        search = train_search(*data, config, on_progress)
        trainer = _trainer(data, search, config)
        trainer.run(lambda done: on_progress("ItemSage", done, config.steps))
    return _finished(data, search, trainer, config, time.monotonic() - started)


# ------------------------------------------------------------------------------------------------------ runs on disk


def prepare_run(
    run: Path,
    products: Sequence[ProductInput],
    engagements: Sequence[Engagement],
    config: TrainConfig,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write `RUN.partial` with the training set and the configuration, for `continue_run`.

    about: where the training set comes from, kept with it as `data/about.json`.

    Raises:
        InputError: as `train`.
        ArtifactError: the run is there already, finished or not, or the disk refuses.
    """
    work = work_folder(run)
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
        if about is not None:
            write_json(aside / "data" / "about.json", about)
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
        ArtifactError: the run was never prepared, is damaged, is being trained by somebody else, or the disk refuses.
    """
    world = world or World()
    if run.exists():
        return TrainedModel.load(run)
    with _alone(work_folder(run), world):
        return _continue(run, on_progress, device, world)


def _continue(run: Path, on_progress: OnProgress, device: torch.device | None, world: World) -> TrainedModel:
    work = work_folder(run)
    config, data = _read(work)
    with torch.random.fork_rng(devices=[]):
        if world.rank == 0 and not (work / "search.json").exists():
            _keep_search(train_search(*data, config, on_progress), work)
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


def work_folder(run: Path) -> Path:
    """Where a run is until it is finished."""
    return run.with_name(run.name + ".partial")


def unfinished_runs(folder: Path) -> list[Path]:
    """The runs in a folder that were broken off, as `continue_run` takes them; none that somebody trains right now."""
    found: list[Path] = []
    for work in sorted(folder.glob("*.partial")):
        if (work / "config.json").is_file():
            try:
                with _alone(work, World()):
                    found.append(work.with_suffix(""))
            except ArtifactError:
                continue
    return found


@contextmanager
def _alone(work: Path, world: World) -> Iterator[None]:
    """Keeps a second training away from a run's folder; ends with the process at the latest."""
    if world.rank != 0:
        yield
        return
    busy = f"{work} is being trained by another process: wait until it is done, or end it"
    with alone_in(work, unusable=f"{work} is no prepared training run", busy=busy):
        yield


def _read(folder: Path) -> tuple[TrainConfig, TrainingSet]:
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=TrainConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{folder} is no prepared training run: {error}") from None
    return config, _read_data(folder, Tokenizer.load(folder / "tokenizer.json"))


def _read_data(folder: Path, tokenizer: Tokenizer) -> TrainingSet:
    data = TrainingSet(tokenizer, PackedProducts.load(folder / "data"), Pairs.load(folder / "data"))
    if data.packed.vocabulary != tokenizer.size:
        raise ArtifactError(
            f"{folder}: the training set has {data.packed.vocabulary} ids, the tokenizer {tokenizer.size}"
        )
    return data


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


# ---------------------------------------------------------------------------------------------------- the evaluation


class RunEvaluation(msgspec.Struct, frozen=True):
    """A run's model (`model`, by its name in `TrainConfig`) and *Sum*, on the run's held-out pairs."""

    model: str
    k: int
    itemsage: Evaluation
    sum: Evaluation


def evaluate_run(run: Path, k: int = 10) -> RunEvaluation:
    """Recall@k per task and coverage of a finished run, computed anew from its model and the training set it kept.

    With `k` 10 these are the figures of its `metrics.json`.

    Raises:
        InputError: `k` below 1.
        ArtifactError: the run is not finished or damaged, or it was trained in memory and kept no training set.
    """
    if k < 1:
        raise InputError(f"k ({k}) must be at least 1")
    trained = TrainedModel.load(run)
    if not (run / "data").is_dir():
        raise ArtifactError(
            f"{run} holds no training set (data/): it was trained in memory and cannot be evaluated again; "
            "its own figures are in metrics.json"
        )
    data = _read_data(run, trained.tokenizer)
    return _evaluated(trained.encoder, data, trained.search, trained.config, k)


def _evaluated(
    encoder: Encoder, data: TrainingSet, search: SearchQueries, config: TrainConfig, k: int = 10
) -> RunEvaluation:
    queries = query_vectors(data.pairs, data.packed, search)
    embedded = embed_all(encoder, data.packed, images=config.images, text=config.text)
    return RunEvaluation(
        config.model,
        k,
        itemsage=evaluate(embedded, queries, data.pairs, k=k),
        sum=evaluate(data.packed.summed_images(), queries, data.pairs, k=k),
    )


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
    found = _evaluated(encoder, data, search, config)
    result = TrainResult(
        parameters=sum(p.numel() for p in encoder.parameters()),
        vocabulary=data.tokenizer.size,
        training_pairs=len(pairs.training),
        held_out_pairs=int(pairs.held_out.sum()),
        seconds=round(seconds, 3),
        loss=[round(x, 4) for x in trainer.losses],
        itemsage=found.itemsage,
        sum=found.sum,
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


def choose_device(wanted: str = "auto") -> torch.device:
    """`cpu`, `cuda`, or with `auto` CUDA where there is one; of several processes each gets the GPU of its number.

    Raises:
        InputError: CUDA is wanted and not there.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise InputError("CUDA is wanted, and PyTorch finds no GPU here: train on cpu, or see `nvidia-smi`")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def _main(arguments: Sequence[str]) -> int:
    """`python -m inference.train RUN`: one process of `continue_run`, under torchrun one of many."""
    if len(arguments) != 1:
        print("usage: python -m inference.train RUN", file=sys.stderr)
        return 2
    device = choose_device()
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
