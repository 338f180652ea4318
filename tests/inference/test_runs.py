"""Runs on disk: killed and continued, in several processes, and damaged ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from inference.dataset import Engagement, PackedProducts, Pairs
from inference.distributed import World
from inference.errors import ArtifactError, InputError
from inference.tokenizer import Tokenizer
from inference.train import TrainConfig, TrainedModel, continue_run, prepare_run, train
from tests.inference.builders import catalogue, engagements
from tests.inference.one_step import gradients

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
ROOT = Path(__file__).parents[2]


def prepared(folder: Path, config: TrainConfig = CONFIG) -> Path:
    run = folder / "run"
    prepare_run(run, catalogue(), engagements(), config)
    return run


def weights(run: Path) -> dict[str, torch.Tensor]:
    return {**load_file(run / "model.safetensors"), **load_file(run / "search.safetensors")}


def process(*arguments: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def two_processes(*arguments: str) -> list[subprocess.Popen[str]]:
    """What torchrun would start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    return [process(*arguments, RANK=str(rank), **common) for rank in range(2)]


def finish(*processes: subprocess.Popen[str]) -> None:
    for one in processes:
        _, errors = one.communicate(timeout=120)
        assert one.returncode == 0, errors


def test_a_run_on_disk_gives_the_weights_of_training_in_memory(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)
    told: list[tuple[str, int, int]] = []
    trained = continue_run(run, lambda *progress: told.append(progress))
    in_memory = train(catalogue(), engagements(), BRIEF)
    for name, value in in_memory.encoder.state_dict().items():
        assert torch.equal(value, trained.encoder.state_dict()[name]), name
    assert trained.result.itemsage == in_memory.result.itemsage
    assert told[-1] == ("ItemSage", 3, 3)
    assert sorted(p.name for p in run.iterdir()) == [
        "config.json", "data", "environment.json", "loss.svg", "metrics.json", "model.json", "model.safetensors",
        "search.json", "search.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir()] == ["run"], "nothing is left aside"
    assert TrainedModel.load(run).result == trained.result
    again = continue_run(run, lambda *progress: pytest.fail("a finished run is read back"))
    assert again.result == trained.result


def test_killed_at_any_step_it_ends_with_the_weights_of_an_undisturbed_run(tmp_path: Path) -> None:
    """SIGKILL once before the first checkpoint is sure to be there and once between checkpoints."""
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    continue_run(prepared(undisturbed))
    disturbed = tmp_path / "disturbed"
    disturbed.mkdir()
    run = prepared(disturbed)
    work = run.with_name("run.partial")
    seen: set[str] = set()
    for kill in range(2):
        victim = process("inference.train", str(run))
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and victim.poll() is None:
            new = {p.name for p in work.glob("checkpoint-*") if not p.suffix} - seen
            if new or (kill == 0 and (work / "search.json").exists()):
                seen |= new
                break
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        assert victim.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert seen, "no checkpoint was ever seen"
    finish(process("inference.train", str(run)))
    expected, got = weights(undisturbed / "run"), weights(run)
    assert all(torch.equal(value, got[name]) for name, value in expected.items())
    losses = [TrainedModel.load(folder).result.loss for folder in (undisturbed / "run", run)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == CONFIG.steps


def test_two_processes_have_the_loss_and_the_gradients_of_one(tmp_path: Path) -> None:
    """Each with half of the batch; also where the products are embedded in chunks."""
    finish(*two_processes("tests.inference.one_step", str(tmp_path)))
    for chunk in (2048, 7):
        alone, together = gradients(World(), chunk), load_file(tmp_path / f"{chunk}.safetensors")
        assert set(alone) == set(together)
        for name, value in alone.items():
            torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-5, msg=name)
            assert value.any(), f"nothing to compare: {name}"


def test_two_processes_train_one_run(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        prepared(tmp_path / name, BRIEF)
    one = continue_run(tmp_path / "one" / "run")
    finish(*two_processes("inference.train", str(tmp_path / "two" / "run")))
    two = TrainedModel.load(tmp_path / "two" / "run")
    np.testing.assert_allclose(two.result.loss, one.result.loss, atol=2e-4)


# -------------------------------------------------------------------------------------------------------- what fails


def test_a_run_never_replaces_another(tmp_path: Path) -> None:
    run = prepared(tmp_path, BRIEF)
    with pytest.raises(ArtifactError, match=r"run\.partial is there already"):
        prepared(tmp_path, BRIEF)
    continue_run(run)
    with pytest.raises(ArtifactError, match="run is there already"):
        prepared(tmp_path, BRIEF)


def test_an_unprepared_run_is_refused_and_nothing_useless_is_prepared(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no prepared training run"):
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
    with pytest.raises(ArtifactError, match="no complete training set"):
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


def test_the_training_set_reads_back_as_it_was_written(tmp_path: Path) -> None:
    products = catalogue(3)
    packed = PackedProducts(products, Tokenizer.fit([p.text for p in products]))
    log = [*engagements(3), Engagement("search", "half a pair \ud800", "lamp-1", "click", 3)]
    pairs = Pairs(log, packed, 0.3)
    packed.save(tmp_path)
    pairs.save(tmp_path)
    loaded, again = PackedProducts.load(tmp_path), Pairs.load(tmp_path)
    rows = np.array([3, 0, 14, 3])
    for got, want in zip(loaded.batch(rows), packed.batch(rows), strict=True):
        assert torch.equal(got, want)
    assert (loaded.ids, loaded.vocabulary) == (packed.ids, packed.vocabulary)
    for name in ("query", "product", "task", "count", "held_out", "query_product"):
        np.testing.assert_array_equal(getattr(again, name), getattr(pairs, name))
    assert again.tasks == pairs.tasks
    assert again.queries == [(k, t.replace("\ud800", "?")) for k, t in pairs.queries]
