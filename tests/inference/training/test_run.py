"""Runs on disk: killed and continued, in several processes, and damaged ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inference.errors import ArtifactError, InputError
from inference.training.__main__ import main as program
from inference.training.config import TrainConfig
from inference.training.distributed import World
from inference.training.pipeline import train
from inference.training.result import TrainedModel
from inference.training.run import continue_run, evaluate_run, prepare_run, unfinished_runs
from tests.inference.builders import catalogue, engagements
from tests.inference.training.one_step import be_one_of_two, gradients, write_gradients

CONFIG = TrainConfig(
    steps=40,
    batch=32,
    random_negatives=40,
    search_steps=3,
    warmup_steps=5,
    checkpoint_every=4,
    width=32,
    heads=4,
    feedforward=32,
    head_hidden=32,
    prefixes=(32,),
)
BRIEF = msgspec.structs.replace(CONFIG, steps=3, checkpoint_every=2)


def prepared(folder: Path, config: TrainConfig = CONFIG) -> Path:
    run = folder / "run"
    prepare_run(run, catalogue(), engagements(), config)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / "model.safetensors"), **load_file(run / "search.safetensors")}


PROCESSES = multiprocessing.get_context("forkserver")
"""Processes of one server that has imported PyTorch once, instead of seconds of CPU for each."""


@pytest.fixture(scope="module", autouse=True)
def imported_once() -> None:
    # torch._dynamo: AdamW imports it when it is made, and it takes as long as PyTorch itself.
    PROCESSES.set_forkserver_preload(["inference.training.__main__", "torch._dynamo", "matplotlib.figure"])


def at_once(*arguments: tuple[Callable[..., None], *tuple[Any, ...]]) -> list[int | None]:
    """Run functions in a process each; their exit codes, in order."""
    started = [PROCESSES.Process(target=one, args=rest) for one, *rest in arguments]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
        process.kill()
        process.join()
    return [process.exitcode for process in started]


def die_at(run: Path, stage: str, step: int) -> None:
    """Train until so many steps of a stage are done, then be gone as after a loss of power."""
    torch.set_num_threads(1)

    def die(now: str, done: int, total: int) -> None:
        if (now, done) == (stage, step):
            os.kill(os.getpid(), signal.SIGKILL)

    continue_run(run, die)


def train_along(run: Path, rank: int, port: str) -> None:
    """The program, as one of two processes."""
    be_one_of_two(rank, port)
    sys.exit(program([str(run)]))


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def test_a_run_on_disk_gives_the_weights_of_training_in_memory(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)
    progress: list[tuple[str, int, int]] = []
    trained = continue_run(run, lambda *step: progress.append(step))
    in_memory = train(catalogue(), engagements(), BRIEF)
    for name, value in in_memory.encoder.state_dict().items():
        assert torch.equal(value, trained.encoder.state_dict()[name]), name
    assert trained.result.itemsage == in_memory.result.itemsage
    assert progress[-1] == ("ItemSage", 3, 3)
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json", "data", "environment.json", "loss.svg", "metrics.json", "model.json", "model.safetensors",
        "search.json", "search.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["run"], "nothing is left aside"
    assert TrainedModel.load(run).result == trained.result
    again = continue_run(run, lambda *progress: pytest.fail("a finished run is read back"))
    assert again.result == trained.result


def test_killed_at_any_step_it_ends_with_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    """SIGKILL in the search encoder's training, before the first checkpoint, right after one and between two."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    continue_run(prepared(undisturbed))
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    run = prepared(disturbed)
    work = run.with_name("run.partial")
    left: list[list[str]] = []
    for stage, step in (("search encoder", 2), ("ItemSage", 3), ("ItemSage", 8), ("ItemSage", 18)):
        assert at_once((die_at, run, stage, step)) == [-signal.SIGKILL], "it ended before it could be killed"
        left.append(sorted(p.name for p in work.glob("checkpoint-*")))
    assert left == [[], [], ["checkpoint-00000008"], ["checkpoint-00000016"]]
    assert at_once((die_at, run, "", 0)) == [0]
    expected, got = weights(undisturbed / "run"), weights(run)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    losses = [TrainedModel.load(folder).result.loss for folder in (undisturbed / "run", run)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == CONFIG.steps


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    """Each with half of the batch; also where the products are embedded in chunks."""
    port = free_port()
    assert at_once(*((write_gradients, tmp_path, rank, port) for rank in range(2))) == [0, 0]
    for chunk in (2048, 7):
        alone, together = gradients(World(), chunk), load_file(tmp_path / f"{chunk}.safetensors")
        assert set(alone) == set(together)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-5, msg=name)
            assert value.any(), f"nothing to compare: {name}"


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    """Each gets its rank as from `torchrun -m inference.training RUN`."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepared(tmp_path / name, BRIEF)
    one = continue_run(tmp_path / "one" / "run")
    port = free_port()
    assert at_once(*((train_along, tmp_path / "two" / "run", rank, port) for rank in range(2))) == [0, 0]
    two = TrainedModel.load(tmp_path / "two" / "run")
    np.testing.assert_allclose(two.result.loss, one.result.loss, atol=2e-4)


def test_the_program_reports_an_error_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "inference.training", str(tmp_path / "never")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith("inference.training: ")
    assert "never.partial is not a prepared training run" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# ------------------------------------------------------------------------------------------------------- evaluating


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that is done."""
    run = prepared(tmp_path_factory.mktemp("finished"), BRIEF)
    continue_run(run)
    return run


def test_a_run_evaluated_again_gives_the_figures_of_its_metrics(finished: Path) -> None:
    reported, again = TrainedModel.load(finished).result, evaluate_run(finished)
    assert (again.model, again.k) == ("itemsage", 10)
    for got, want in ((again.itemsage, reported.itemsage), (again.sum, reported.sum)):
        assert got.pairs == want.pairs
        assert got.recall == pytest.approx(want.recall, abs=1e-9)
        assert (got.mean_recall, got.coverage) == pytest.approx((want.mean_recall, want.coverage), abs=1e-9)


def test_a_larger_k_finds_more(finished: Path) -> None:
    result = [evaluate_run(finished, k) for k in (1, 10, 59)]
    assert result[0].itemsage.mean_recall < result[1].itemsage.mean_recall < result[2].itemsage.mean_recall == 1.0
    assert result[0].itemsage.coverage < result[1].itemsage.coverage < result[2].itemsage.coverage == 1.0
    with pytest.raises(InputError, match=r"k \(0\) must be at least 1"):
        evaluate_run(finished, 0)


def test_a_model_of_one_modality_is_evaluated_as_it_was_trained(tmp_path: Path) -> None:
    run = prepared(tmp_path, msgspec.structs.replace(BRIEF, images=False))
    reported = continue_run(run).result
    assert evaluate_run(run).itemsage == reported.itemsage


def test_a_run_without_its_training_set_cannot_be_evaluated_again(tmp_path: Path) -> None:
    train(catalogue(), engagements(), BRIEF).save(tmp_path / "run")
    with pytest.raises(ArtifactError, match=r"has no training set \(data/\): it was trained in memory"):
        evaluate_run(tmp_path / "run")


# -------------------------------------------------------------------------------------------------- several at a time


def test_one_process_at_a_time_trains_a_run_and_it_does_not_count_as_unfinished(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)
    assert unfinished_runs(tmp_path) == [run]
    seen: list[list[Path]] = []

    def meanwhile(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("ItemSage", 1):
            seen.append(unfinished_runs(tmp_path))
            with pytest.raises(ArtifactError, match="another process is training"):
                continue_run(run)

    continue_run(run, meanwhile)
    assert seen == [[]]
    assert unfinished_runs(tmp_path) == []


# -------------------------------------------------------------------------------------------------------- what fails


def test_a_run_never_replaces_another(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)
    with pytest.raises(ArtifactError, match=r"run\.partial exists already"):
        prepared(tmp_path, BRIEF)
    continue_run(run)
    with pytest.raises(ArtifactError, match="run exists already"):
        prepared(tmp_path, BRIEF)


def test_an_unprepared_run_is_refused_and_a_failed_preparation_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a prepared training run"):
        continue_run(tmp_path / "never")
    with pytest.raises(InputError, match="no product to train on"):
        prepare_run(tmp_path / "run", [], engagements(), BRIEF)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["products.json", "images.npy", "tokens.npy", "image_counts.npy", "pairs.parquet", "queries.parquet"]
)
@pytest.mark.parametrize("how", ["missing", "cut"])
def test_a_damaged_training_set_is_refused(tmp_path: Path, name: str, how: str) -> None:
    run = prepared(tmp_path, BRIEF)
    file = tmp_path / "run.partial" / "data" / name
    if how == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="not a complete training set"):
        continue_run(run)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "ItemSage" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        continue_run(run, stop)
    tensors = tmp_path / "run.partial" / "checkpoint-00000002" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match="checkpoint-00000002 is damaged"):
        continue_run(run)
