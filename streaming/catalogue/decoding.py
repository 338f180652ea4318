"""From the records of a batch to valid updates, grouped by product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from streaming.catalogue.batch import BatchResult, Received, Updates
from streaming.contracts import ProductUpdate, check_update
from streaming.errors import ContractError
from streaming.kafka.codec import Codec


def decode_updates(records: Sequence[Any], codec: Codec, now: datetime) -> tuple[Updates, BatchResult]:
    """Decode and check the records of `catalog.updates`.

    Args:
        records: Records in the order of their offsets.
        codec: `Connection.codec`.
        now: The present time, aware.

    Returns:
        The valid updates by product, and a result with a dead letter for each of the others.

    Raises:
        RegistryError: A schema registry is in use and does not answer.
    """
    by_product: dict[str, list[Received]] = defaultdict(list)
    result = BatchResult()
    for record in records:
        try:
            update = codec.decode(ProductUpdate, record.value, result.unknown_fields)
            check_update(update, now=now)
            if record.key != update.id.encode():
                raise ContractError("id", "must be the record's key, which keeps one product's updates in order")
            by_product[update.id].append(Received(record, update))
        except ContractError as error:
            result.refuse(record, "decode", error)
    return dict(by_product), result
