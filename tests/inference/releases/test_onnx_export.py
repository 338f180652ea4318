"""A release as ONNX: the answers of torch for all shapes, and a repository that our client can use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2
from tritonclient.grpc import service_pb2 as pb

from inference.errors import ArtifactError
from inference.model import ItemSage, ItemSageConfig
from inference.releases.export import export_release
from inference.releases.onnx_export import ItemSageGraph, Tolerance, export_onnx
from inference.releases.release import load_release
from inference.releases.repository import set_live
from inference.tokenizer import Tokenizer
from inference.triton.client import TritonClient
from inference.triton.embedder import ItemEmbedder
from tests.inference.builders import catalogue
from tests.inference.triton.fakes import FakeTriton

TYPES = {"FP16": np.float16, "INT32": np.int32, "UINT8": np.uint8}


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two releases; the second has two layers and is not live."""
    repo = tmp_path_factory.mktemp("models")
    tokenizer = Tokenizer.fit([product.text for product in catalogue()])
    for layers in (1, 2):
        torch.manual_seed(layers)
        sizes = ItemSageConfig(tokenizer.size, table_rows=499, width=64, heads=4, feedforward=128, layers=layers)
        search = repo.parent / "search.json"
        search.write_text("{}")
        export_release(repo, ItemSage(sizes), tokenizer, extra_files={"search.json": search})
    set_live(repo, "1")
    return repo


@pytest.fixture(scope="module")
def exported(releases: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_onnx(releases, "2", tmp_path_factory.mktemp("onnx") / "models")


def session(path: Path) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(path / "model.onnx", providers=["CPUExecutionProvider"])


def batch(rng: np.random.Generator, size: int, slots: int, width: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Random products, as the client sends them: some without images or text, padding of -1."""
    lengths = rng.multinomial(width, [1 / 12] * 12, size).astype(np.int32) * rng.integers(0, 2, (size, 12), np.int32)
    ids = rng.integers(0, vocabulary, (size, width), np.int32)
    ids[np.arange(width) >= lengths.sum(1, keepdims=True)] = -1
    return {
        "images": rng.normal(size=(size, slots, 256)).astype(np.float16),
        "image_counts": rng.integers(0, slots + 1, (size, 1), np.int32),
        "token_ids": ids,
        "field_lengths": lengths,
    }


@pytest.mark.parametrize(("size", "slots", "width"), [(1, 1, 1), (1, 20, 40), (3, 1, 200), (17, 5, 64), (256, 2, 30)])
def test_itemsage_answers_as_in_torch_for_all_shapes(
    releases: Path, exported: Path, size: int, slots: int, width: int
) -> None:
    model, _, _ = load_release(releases / "itemsage" / "2")
    tensors = batch(np.random.default_rng(size), size, slots, width, model.config.vocabulary)
    (answer,) = session(exported / "itemsage" / "2").run(None, tensors)
    images, counts, ids, lengths = (torch.from_numpy(tensor) for tensor in tensors.values())
    with torch.inference_mode():
        expected = model(images, counts[:, 0], ids, lengths).numpy()
    assert answer.shape == (size, 256)
    np.testing.assert_allclose(answer, expected, atol=2e-6)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_graph_for_export_is_the_model(layers: int) -> None:
    """In torch, the matrix product with the bags' membership matrix equals the model's sum over bags."""
    torch.manual_seed(0)
    model = ItemSage(ItemSageConfig(1000, table_rows=499, width=64, heads=4, feedforward=128, layers=layers)).eval()
    tensors = [torch.from_numpy(t) for t in batch(np.random.default_rng(0), 40, 6, 90, 1000).values()]
    with torch.inference_mode():
        images, counts, ids, lengths = tensors
        torch.testing.assert_close(
            ItemSageGraph(model)(*tensors), model(images, counts[:, 0], ids, lengths), atol=2e-6, rtol=0
        )


def on_onnx(folder: Path) -> Callable[[pb.ModelInferRequest], pb.ModelInferResponse]:
    """Play Triton: run the model that a request names in ONNX Runtime."""
    loaded: dict[str, onnxruntime.InferenceSession] = {}

    def infer(request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        version = request.model_version or "1"
        name = f"{request.model_name}/{version}"
        if name not in loaded:
            loaded[name] = session(folder / name)
        tensors = {
            tensor.name: np.frombuffer(raw, TYPES[tensor.datatype]).reshape(tensor.shape)
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        (answer,) = loaded[name].run(None, tensors)
        response = pb.ModelInferResponse(model_version=version)
        response.raw_output_contents.append(answer.astype(np.float32).tobytes())
        return response

    return infer


def test_the_client_works_on_the_exported_repository_as_it_is(exported: Path) -> None:
    """The client finds the live version, the tokenizer and the known answers in it."""
    client = TritonClient("onnx:8001", channel=FakeTriton(on_onnx(exported)))  # type: ignore[arg-type]
    embedder = ItemEmbedder(client, exported)
    assert embedder.model_version == "2"
    assert client.probe(exported / "itemsage" / "2", "2") > 0.99999
    assert client.probe(exported / "visual_encoder" / "1") >= 0.995
    result = embedder.embed_products(catalogue())
    assert result.rejected == {}
    np.testing.assert_allclose(np.linalg.norm(result.vectors, axis=1), 1, atol=1e-5)
    assert (exported / "itemsage" / "2" / "search.json").read_text() == "{}"
    left = {path.name for path in exported.rglob("*")}
    assert not left & {"model.py", "model.safetensors", "itemsage.py", "visual.py"}


@pytest.mark.parametrize(("name", "version"), [("itemsage", "2"), ("visual_encoder", "1")])
def test_the_configuration_describes_the_model_and_bounds_its_queue(exported: Path, name: str, version: str) -> None:
    text = (exported / name / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    run = session(exported / name / version)
    types = {"TYPE_FP16": "float16", "TYPE_INT32": "int32", "TYPE_UINT8": "uint8", "TYPE_FP32": "float"}

    def described(tensors: Any) -> list[tuple[str, str, list[int]]]:
        kind = model_config_pb2.DataType.Name
        return [(t.name, types[kind(t.data_type)], list(t.dims)) for t in tensors]

    def held(tensors: Any) -> list[tuple[str, str, list[int]]]:
        """The model's tensors without the batch dimension; -1 for a free dimension."""
        return [
            (t.name, t.type.removeprefix("tensor(")[:-1], [d if isinstance(d, int) else -1 for d in t.shape[1:]])
            for t in tensors
        ]

    assert config.backend == "onnxruntime"
    assert described(config.input) == held(run.get_inputs())
    assert described(config.output) == held(run.get_outputs())
    assert all(isinstance(tensor.shape[0], str) for tensor in run.get_inputs()), "any batch"
    assert list(config.version_policy.specific.versions) == [int(version)]
    assert config.dynamic_batching.default_queue_policy.max_queue_size > 0
    (warmup,) = config.model_warmup
    assert set(warmup.inputs) == {tensor.name for tensor in config.input}


def test_a_failed_export_names_the_reason_and_leaves_nothing(releases: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no release '9'"):
        export_onnx(releases, "9", tmp_path / "new")
    with pytest.raises(ArtifactError, match="exists: name a new folder"):
        export_onnx(releases, "1", tmp_path)
    with pytest.raises(ArtifactError, match=r"itemsage as ONNX answers its known-answer probe with cosine 1\.0"):
        export_onnx(releases, "1", tmp_path / "new", tolerance=Tolerance(itemsage=1.1))
    assert list(tmp_path.iterdir()) == []
