"""A release's tokenizer together with the client."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.errors import ArtifactError
from inference.inputs import ProductInput
from inference.tokenizer import Tokenizer
from inference.triton.embedder import ItemEmbedder
from tests.inference.triton.fakes import FakeTriton, answer, client_of, first_id


def test_the_embedder_follows_the_live_release_with_its_tokenizer(tmp_path: Path) -> None:
    triton = FakeTriton(lambda request: answer(request, first_id))
    for version, corpus in (("1", "red shoe"), ("2", "a red red shoe")):
        (tmp_path / "itemsage" / version).mkdir(parents=True)
        Tokenizer.fit([{"title": corpus}]).save(tmp_path / "itemsage" / version / "tokenizer.json")
    with pytest.raises(ArtifactError, match="no live release"):
        ItemEmbedder(client_of(triton), tmp_path)
    live = tmp_path / "itemsage" / "LIVE"
    live.write_text("1\n")
    embedder = ItemEmbedder(client_of(triton), tmp_path)
    product = ProductInput("p", {"title": "shoe"}, np.zeros((0, 256), np.float32))
    assert (
        embedder.embed_products([product]).vectors[0, 0]
        == Tokenizer.load(live.parent / "1/tokenizer.json").ids("shoe")[0]
    )
    assert not embedder.refresh()

    live.write_text("2\n")
    assert embedder.refresh()
    result = embedder.embed_products([product])
    assert result.model_version == embedder.model_version == triton.requests[-1].model_version == "2"
    assert result.vectors[0, 0] == Tokenizer.load(live.parent / "2/tokenizer.json").ids("shoe")[0]

    live.write_text("3\n")
    with pytest.raises(ArtifactError, match="cannot be read"):
        embedder.refresh()
    assert embedder.model_version == "2", "a release that cannot be read does not displace the one in use"


def test_a_pinned_release_stays_in_use_when_another_goes_live(tmp_path: Path) -> None:
    for version in ("1", "2"):
        (tmp_path / "itemsage" / version).mkdir(parents=True)
        Tokenizer.fit([{"title": "red shoe"}]).save(tmp_path / "itemsage" / version / "tokenizer.json")
    (tmp_path / "itemsage" / "LIVE").write_text("2\n")
    embedder = ItemEmbedder(client_of(FakeTriton(lambda request: answer(request, first_id))), tmp_path, "1")
    assert (embedder.refresh(), embedder.model_version) == (False, "1")
