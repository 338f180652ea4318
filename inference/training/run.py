"""Training runs on disk, which can be resumed.

`prepare_run` writes the training set to disk. `continue_run` trains from there, with checkpoints: a training that is
killed at any time and continued ends with the weights of an undisturbed run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError

from feature_repo.files import atomic_folder, scratch_folder
from inference.errors import ArtifactError, InputError
from inference.inputs import ProductInput
from inference.locks import exclusive_lock
from inference.queries import SearchQueries
from inference.tokenizer import Tokenizer
from inference.training.checkpoint import Checkpoint, load_checkpoint, remove_checkpoints, save_checkpoint
from inference.training.config import TrainConfig
from inference.training.dataset import TrainingSet
from inference.training.distributed import World
from inference.training.engagements import Engagement
from inference.training.evaluation import RunEvaluation, evaluate_encoder
from inference.training.loop import Trainer
from inference.training.pipeline import finish, new_trainer
from inference.training.progress import OnProgress, no_progress
from inference.training.result import TrainedModel, refuse_existing, write_json
from inference.training.search import train_search


def prepare_run(
    run: Path,
    products: Sequence[ProductInput],
    engagements: Sequence[Engagement],
    config: TrainConfig,
    about: Mapping[str, Any] | None = None,
) -> None:
    """Write the folder `RUN.partial` with the training set and the configuration, for `continue_run`.

    Args:
        run: The run's folder once it is finished.
        products: The catalogue.
        engagements: What shoppers did with its products.
        config: The options of the training.
        about: Where the training set comes from; kept as `data/about.json`.

    Raises:
        InputError: As for `train`.
        ArtifactError: If the run exists already, finished or not, or cannot be written.
    """
    work = work_folder(run)
    refuse_existing(run)
    refuse_existing(work)
    data = TrainingSet.build(products, engagements, config)
    try:
        with atomic_folder(work) as partial:
            (partial / "data").mkdir()
            data.save(partial / "data")
            data.tokenizer.save(partial / "tokenizer.json")
            if about is not None:
                write_json(partial / "data" / "about.json", about)
            write_json(partial / "config.json", config)
    except OSError as error:
        raise ArtifactError(f"the run {run} cannot be written: {error}") from None


def continue_run(
    run: Path,
    on_progress: OnProgress = no_progress,
    *,
    device: torch.device | None = None,
    world: World | None = None,
) -> TrainedModel:
    """Train a prepared run to its end, from its last checkpoint on. Read it if it is finished.

    Args:
        run: The run's folder once it is finished.
        on_progress: Called after each step.
        device: The device of the encoder; None for the CPU.
        world: The processes that train together; None for this process alone. Each process calls this function; the
            process of rank 0 writes.

    Raises:
        InputError: As for `train`.
        ArtifactError: If the run was never prepared, is damaged, is being trained by another process, or cannot be
            written.
    """
    world = world or World()
    if run.exists():
        return TrainedModel.load(run)
    with _exclusive(work_folder(run), world):
        trained = _train(work_folder(run), on_progress, device, world)
        if world.rank == 0:
            _finish(trained, run)
        world.barrier()
        return trained


def _train(work: Path, on_progress: OnProgress, device: torch.device | None, world: World) -> TrainedModel:
    config, data = _read(work)
    with torch.random.fork_rng(devices=[]):  # keeps the caller's random numbers
        if world.rank == 0 and not (work / "search.json").exists():
            _save_search(train_search(data, config, on_progress), work)
        world.barrier()
        search = SearchQueries.load(work)
        trainer = new_trainer(data, search, config, device, world)
        seconds_before = _resume(trainer, work)
        started = time.monotonic()

        def save() -> None:
            if world.rank == 0:
                tensors, plain = trainer.state()
                plain["seconds"] = seconds_before + time.monotonic() - started
                save_checkpoint(work, Checkpoint(len(trainer.losses), tensors, plain))

        trainer.run(lambda done: on_progress("ItemSage", done, config.steps), save)
    return finish(data, search, trainer, config, seconds_before + time.monotonic() - started)


def _finish(trained: TrainedModel, run: Path) -> None:
    """Write the model and rename the work folder to its final name."""
    work = work_folder(run)
    try:
        trained.write_model(work)
        remove_checkpoints(work)
        work.rename(run)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"the run {run} cannot be written: {error}") from None


def work_folder(run: Path) -> Path:
    """Return where a run is until it is finished."""
    return run.with_name(run.name + ".partial")


def unfinished_runs(folder: Path) -> list[Path]:
    """Return the interrupted runs in a folder, as `continue_run` takes them.

    A run that another process is training right now is left out.
    """
    unfinished: list[Path] = []
    for work in sorted(folder.glob("[!.]*.partial")):  # a name with a dot in front is a folder being prepared
        if (work / "config.json").is_file():
            try:
                with _exclusive(work, World()):
                    unfinished.append(work.with_suffix(""))
            except ArtifactError:
                continue
    return unfinished


def evaluate_run(run: Path, k: int = 10) -> RunEvaluation:
    """Compute Recall@k per task and coverage of a finished run from its model and its stored training set.

    With `k` 10 the result equals the figures in its `metrics.json`.

    Raises:
        InputError: If `k` is below 1.
        ArtifactError: If the run is unfinished or damaged, or was trained in memory and has no training set.
    """
    if k < 1:
        raise InputError(f"k ({k}) must be at least 1")
    trained = TrainedModel.load(run)
    if not (run / "data").is_dir():
        raise ArtifactError(
            f"{run} has no training set (data/): it was trained in memory and cannot be evaluated again; "
            "its own figures are in metrics.json"
        )
    data = TrainingSet.load(run / "data", trained.tokenizer)
    return evaluate_encoder(trained.encoder, data, trained.search, trained.config, k)


@contextmanager
def _exclusive(work: Path, world: World) -> Iterator[None]:
    """Keep a second training out of a run's folder. Only rank 0 takes the lock."""
    if world.rank != 0:
        yield
        return
    busy = f"another process is training {work}: wait until it is done, or stop it"
    with exclusive_lock(work, unusable=f"{work} is not a prepared training run", busy=busy):
        yield


def _read(work: Path) -> tuple[TrainConfig, TrainingSet]:
    try:
        config = msgspec.json.decode((work / "config.json").read_bytes(), type=TrainConfig)
    except (OSError, msgspec.MsgspecError) as error:
        raise ArtifactError(f"{work} is not a prepared training run: {error}") from None
    return config, TrainingSet.load(work / "data", Tokenizer.load(work / "tokenizer.json"))


def _save_search(search: SearchQueries, work: Path) -> None:
    """Write the search encoder; `search.json` comes last and marks the stage as done."""
    try:
        with scratch_folder(work) as partial:
            for path in search.save(partial):
                path.rename(work / path.name)
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"the search encoder cannot be written to {work}: {error}") from None


def _resume(trainer: Trainer, work: Path) -> float:
    """Restore the last checkpoint, if there is one; return the seconds that the run has taken so far."""
    checkpoint = load_checkpoint(work)
    if checkpoint is None:
        return 0.0
    try:
        trainer.restore(checkpoint.tensors, checkpoint.plain)
        return float(checkpoint.plain["seconds"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"a checkpoint in {work} belongs to another model: {error}") from None
