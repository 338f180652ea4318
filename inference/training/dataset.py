"""The training set of a run: vocabularies, products and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from inference.errors import ArtifactError, InputError
from inference.inputs import TEXT_FIELDS, ProductInput
from inference.tokenizer import Tokenizer
from inference.training.config import TrainConfig
from inference.training.engagements import Engagement
from inference.training.packed import PackedProducts
from inference.training.pairs import Pairs


class TrainingSet(NamedTuple):
    """What a run is trained and evaluated on."""

    tokenizer: Tokenizer
    packed: PackedProducts
    pairs: Pairs

    @classmethod
    def build(
        cls, products: Sequence[ProductInput], engagements: Sequence[Engagement], config: TrainConfig
    ) -> TrainingSet:
        """Fit the vocabularies to products and searches, and pack everything.

        Raises:
            InputError: If there is no product, no usable engagement or no word in the catalogue.
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
        return cls(tokenizer, packed, Pairs(engagements, packed, tasks=config.task_names))

    def save(self, folder: Path) -> None:
        """Write products and pairs, without the tokenizer, into a folder that nobody reads yet."""
        self.packed.save(folder)
        self.pairs.save(folder)

    @classmethod
    def load(cls, folder: Path, tokenizer: Tokenizer) -> TrainingSet:
        """Read what `save` wrote.

        Args:
            folder: The folder.
            tokenizer: The tokenizer that packed the products.

        Raises:
            ArtifactError: If a file is missing or truncated, or another tokenizer packed the products.
        """
        data = cls(tokenizer, PackedProducts.load(folder), Pairs.load(folder))
        if data.packed.vocabulary != tokenizer.size:
            raise ArtifactError(
                f"{folder}: the training set has {data.packed.vocabulary} ids, the tokenizer {tokenizer.size}"
            )
        return data
