"""Our models and client on a real Triton server: right numbers, only bad products fail, recovery is quick."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import psutil
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from inference.errors import ServingError, Unavailable
from inference.inputs import ProductInput, stack_images
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release, export_visual_encoder
from inference.releases.release import load_release
from inference.releases.repository import set_live
from inference.tokenizer import Tokenizer
from inference.triton.client import TritonClient
from inference.triton.embedder import ItemEmbedder
from inference.visual import VisualEncoder
from sagelift.stack.components import fetch_all
from sagelift.stack.triton import TritonServer
from tests.waiting import wait_until

pytestmark = pytest.mark.integration

WORDS = ["red", "blue", "shoe", "lamp", "oak", "table", "wool", "coat", "summer", "dress", "鞋", "Größe"]


class Served(NamedTuple):
    triton: TritonServer
    repo: Path
    client: TritonClient
    tokenizer: Tokenizer


def random_products(count: int, seed: int = 0, most_images: int = 20) -> list[ProductInput]:
    """0 to 20 images; none, some or all text fields, of very different lengths."""
    rng = np.random.default_rng(seed)
    products = []
    for number in range(count):
        images = rng.normal(size=(int(rng.integers(0, most_images + 1)), 256)).astype(np.float32)
        images /= np.linalg.norm(images, axis=1, keepdims=True)
        text = {
            name: " ".join(rng.choice(WORDS, int(rng.integers(0, 30))))
            for name in ("title", "description", "brand")
            if rng.random() < 0.7
        }
        products.append(ProductInput(str(number), text, images))
    return products


def small_model(tokenizer: Tokenizer, seed: int) -> ItemSage:
    torch.manual_seed(seed)
    return ItemSage(ItemSageConfig(tokenizer.size, table_rows=499, width=64, heads=4, feedforward=128))


def in_process(release: Path, products: list[ProductInput]) -> np.ndarray:
    model, tokenizer, _ = load_release(release)
    images, counts = stack_images([product.images for product in products])
    ids, lengths = tokenizer.encode([product.text for product in products])
    with torch.inference_mode():
        return model(*map(torch.from_numpy, (images, counts, ids, lengths))).numpy()


def worst_cosine(first: np.ndarray, second: np.ndarray) -> float:
    assert first.shape == second.shape
    return float((first * second).sum(1).min())


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Releases 1 (live) and 2 of ItemSage, and the visual encoder, on a real server."""
    folder = tmp_path_factory.mktemp("triton")
    cache = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()
    fetch_all(cache, print)
    repo = folder / "models"
    tokenizer = Tokenizer.fit([{"title": " ".join(WORDS[i:] + WORDS[:i])} for i in range(len(WORDS))])
    export_release(repo, small_model(tokenizer, 1), tokenizer)
    set_live(repo, "1")
    export_release(repo, small_model(tokenizer, 2), tokenizer)
    export_visual_encoder(repo)
    with TritonServer(folder / "triton", cache, repo) as triton, TritonClient(triton.grpc) as client:
        yield Served(triton, repo, client, tokenizer)
        triton.kill()  # a graceful stop would wait for the process that a test kills


def test_ragged_products_get_the_numbers_of_the_model_in_process(served: Served) -> None:
    products = random_products(150)
    result = ItemEmbedder(served.client, served.repo).embed_products(products)
    assert result.rejected == {}
    assert result.model_version == "1"
    assert worst_cosine(result.vectors, in_process(served.repo / "itemsage/1", products)) > 0.9998
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, rtol=1e-5)


def test_exactly_the_bad_products_are_rejected(served: Served) -> None:
    products = random_products(64, seed=1)
    ids, lengths = served.tokenizer.encode([product.text for product in products])
    lengths[20], lengths[30], lengths[40] = 1, 1, 1
    ids[20, 3] = served.tokenizer.size
    ids[30, 4] = -7
    lengths[40, 5] = 100_000
    lengths[50, 0] = -1
    images = [product.images for product in products]
    images[10] = np.full((1, 256), np.nan, np.float32)
    result = served.client.embed(images, ids, lengths, version="1")
    assert sorted(result.rejected) == [10, 20, 30, 40, 50]
    for row, reason in {10: "NaN", 20: "token_ids", 30: "token_ids", 40: "field_lengths", 50: "field_lengths"}.items():
        assert reason in result.rejected[row]
    good = [row for row in range(64) if row not in result.rejected]
    expected = in_process(served.repo / "itemsage/1", [products[row] for row in good])
    assert worst_cosine(result.vectors[good], expected) > 0.9998


def test_requests_batched_together_get_their_own_answers_and_a_bad_one_fails_alone(served: Served) -> None:
    """Triton merges many small requests of different widths into batches; a third of them is bad."""
    products = random_products(60, seed=2)
    expected = in_process(served.repo / "itemsage/1", products)
    ids, lengths = served.tokenizer.encode([product.text for product in products])
    lengths[::3, 11] = 9999

    def one(row: int) -> tuple[np.ndarray, bool]:
        part = slice(row, row + 1)
        result = served.client.embed([products[row].images], ids[part], lengths[part], version="1")
        return result.vectors[0], bool(result.rejected)

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(one, range(60)))
    assert [rejected for _, rejected in answers] == [row % 3 == 0 for row in range(60)]
    good = [row for row in range(60) if row % 3]
    assert worst_cosine(np.array([answers[row][0] for row in good]), expected[good]) > 0.9998


def test_requests_one_after_the_other_never_lie_in_the_queue(served: Served) -> None:
    """Under a queue policy Triton's batcher can miss a wake-up and sleep for 500 ms (see config.pbtxt)."""
    product = random_products(1, seed=5)
    embedder = ItemEmbedder(served.client, served.repo)
    embedder.embed_products(product)
    request = pb.ModelStatisticsRequest(name="itemsage", version="1")
    queued_s = []  # cumulative, after each request
    with grpc.insecure_channel(served.triton.grpc) as channel:
        statistics = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelStatistics
        for _ in range(300):
            embedder.embed_products(product)
            queued_s.append(statistics(request).model_stats[0].inference_stats.queue.ns / 1e9)
    assert np.diff(queued_s).max() < 0.4


def test_the_visual_encoder_gives_the_vectors_of_the_encoder_in_process(served: Served) -> None:
    rng = np.random.default_rng(0)
    pixels = np.kron(rng.integers(0, 256, (18, 7, 7, 3)), np.ones((1, 32, 32, 1))).astype(np.uint8)
    vectors, rejected = served.client.encode_images(pixels)
    assert rejected == {}
    with torch.inference_mode():
        expected = VisualEncoder.pretrained()(torch.from_numpy(pixels)).numpy()
    assert worst_cosine(vectors, expected) > 0.999
    assert worst_cosine(vectors, np.roll(expected, 1, axis=0)) < 0.97, "the images differ, and so must the vectors"


def test_known_answers_distinguish_right_weights_from_wrong_ones(served: Served) -> None:
    folder = served.repo / "itemsage"
    assert served.client.probe(folder / "1", "1") > 0.9998
    assert served.client.probe(folder / "2", "2") > 0.9998
    assert served.client.probe(served.repo / "visual_encoder/1") > 0.995
    with pytest.raises(ServingError, match=r"version 2 answers its known-answer probe with cosine -?0\.\d+"):
        served.client.probe(folder / "1", "2")


def test_a_new_release_is_loaded_without_a_failed_request_and_a_broken_one_not_at_all(served: Served) -> None:
    """Products are embedded without a pause during the loads; a client that hides a failure would have to sleep."""
    products = random_products(8, seed=3)
    expected = in_process(served.repo / "itemsage/1", products)
    stop, answered, pauses = threading.Event(), [0], []

    def stream() -> None:
        with TritonClient(served.triton.grpc, sleep=pauses.append) as client:
            embedder = ItemEmbedder(client, served.repo)
            while not stop.is_set():
                assert worst_cosine(embedder.embed_products(products).vectors, expected) > 0.9998
                answered[0] += 1

    with ThreadPoolExecutor(1) as pool:
        streaming = pool.submit(stream)
        try:
            third = export_release(served.repo, small_model(served.tokenizer, 3), served.tokenizer)
            served.client.load("itemsage")
            served.client.probe(third.path, "3")

            broken = export_release(served.repo, small_model(served.tokenizer, 4), served.tokenizer)
            weights = load_file(broken.path / "model.safetensors")
            save_file({k: np.zeros_like(v) for k, v in weights.items()}, broken.path / "model.safetensors")
            with pytest.raises(ServingError, match="release is broken: cosine"):
                served.client.load("itemsage")
            before = answered[0]
            wait_until(lambda: answered[0] >= before + 3 or streaming.done(), "the live release stopped serving")
        finally:
            stop.set()
        streaming.result(30)
    assert answered[0] >= before + 3, "the live release keeps answering"
    assert pauses == []
    assert served.client.model_ready("itemsage", "1")
    assert not served.client.model_ready("itemsage", "4")


def test_a_killed_model_process_is_replaced_and_no_product_is_lost(served: Served) -> None:
    set_live(served.repo, "1")
    export_release(served.repo, small_model(served.tokenizer, 5), served.tokenizer)  # replaces the broken one
    stubs = [
        child
        for child in psutil.Process(served.triton.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "/itemsage/" in " ".join(child.cmdline())
    ]
    assert stubs
    for stub in stubs:
        stub.send_signal(signal.SIGKILL)
    products = random_products(40, seed=4)
    result = ItemEmbedder(served.client, served.repo).embed_products(products)
    assert result.rejected == {}
    assert worst_cosine(result.vectors, in_process(served.repo / "itemsage/1", products)) > 0.9998


def test_an_unserved_version_and_a_dead_server_give_different_errors_within_the_time_limit(tmp_path: Path) -> None:
    cache = Path(os.environ.get("SAGELIFT_CACHE_DIR", "~/.cache/sagelift")).expanduser()
    fetch_all(cache, print)
    product = ([np.ones((1, 256), np.float32)], np.zeros((1, 1), np.int32), np.zeros((1, 12), np.int32))
    triton = TritonServer(tmp_path / "triton", cache, tmp_path / "models").start()
    try:
        client = TritonClient(triton.grpc, max_elapsed_s=1.0)
        assert client.server_ready()
        assert not client.model_ready("itemsage")
        with pytest.raises(ServingError, match="version 9 is not served") as caught:
            client.embed(*product, version="9")
        assert not isinstance(caught.value, Unavailable)
        with pytest.raises(ServingError, match="cannot be loaded: failed to load 'itemsage'"):
            client.load("itemsage")
    finally:
        triton.kill()
    gave_up = rf"{triton.grpc}, model itemsage version 9 gave no answer in [12] s"  # max_elapsed_s is 1 s
    with client, pytest.raises(Unavailable, match=gave_up):
        client.embed(*product, version="9")
