"""`sagelift catalog`: generate a sample, check a feed, publish a feed, request new images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sagelift.commands.console import AsJson, counted, current_settings, print_json, say
from sagelift.commands.option_groups import expand_options

if TYPE_CHECKING:
    from streaming.contracts import ProductUpdate
    from streaming.feeds import BadRow, Feed

app = typer.Typer(help="Product catalogue: generate a sample, check a feed, publish a feed.", no_args_is_help=True)


@dataclass(frozen=True)
class FeedOptions:
    """The feed that a command reads."""

    feed: Annotated[
        Path,
        typer.Argument(
            help="Feed file (JSONL, Parquet, Merchant Center TSV or XML, Shopify CSV), or a folder that contains "
            "products.jsonl."
        ),
    ]
    format: Annotated[
        str | None, typer.Option("--format", help="Format of the feed. Default: from its name and content.")
    ] = None
    currency: Annotated[
        str | None,
        typer.Option(
            help="Currency of a price without one, such as EUR. Default: USD; a Merchant Center feed must state it."
        ),
    ] = None


@app.command()
def sample(
    folder: Annotated[Path, typer.Argument(help="Folder to write products.jsonl and images/ into.")],
    products: Annotated[int, typer.Option(min=1, help="Number of products.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Random seed.")] = 7,
) -> None:
    """Write a generated catalogue with drawn images, texts from templates, and prices.

    Next: sagelift catalog check FOLDER
    """
    from sagelift.demo.samples import write_sample

    typer.echo(write_sample(folder, products, seed))


@app.command()
@expand_options
def check(source: FeedOptions, as_json: AsJson = False) -> None:
    """Read a feed and list the rows that publishing would refuse.

    Exit code 1 if any row is refused.
    """
    reading = FeedReading(source)
    good = sum(1 for _ in reading.updates())
    _finish(reading, "good", good, as_json)


@app.command()
@expand_options
def publish(source: FeedOptions, as_json: AsJson = False) -> None:
    """Publish a feed to Kafka. Refused rows are listed and left out.

    Exit code 1 if any row is refused.
    """
    from sagelift.services import Services
    from streaming.kafka.producers import CatalogPublisher
    from streaming.kafka.topic_admin import ensure_topics

    reading = FeedReading(source)
    with Services(current_settings()) as services:
        ensure_topics(services.kafka, replication=services.settings.kafka.replication)
        with CatalogPublisher(services.kafka) as publisher:
            published = publisher.send_all(reading.updates())
    _finish(reading, "published", published, as_json)


@app.command("refresh-images")
def refresh_images(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Product ids.")] = None,
    all_products: Annotated[bool, typer.Option("--all", help="Every product that has images.")] = False,
) -> None:
    """Fetch these products' images again although their links have not changed.

    A product whose images are the same as before keeps its embedding.
    """
    if bool(ids) == all_products:
        raise typer.BadParameter("name the products: give product ids, or --all")
    from sagelift.services import Services
    from streaming.catalogue.images.refresh import read_products, refresh_updates
    from streaming.kafka.producers import CatalogPublisher

    with Services(current_settings()) as services:
        store = services.features
        products = read_products(ids, store) if ids else (product for page in store.scan_features() for product in page)
        with CatalogPublisher(services.kafka) as publisher:
            count = publisher.send_all(refresh_updates(products))
    typer.echo(f"requested new images for {counted(count, 'product')}")


class FeedReading:
    """Reads a feed once; prints and keeps the refused rows.

    Attributes:
        feed: The opened feed.
        refused: The rows refused so far.
    """

    def __init__(self, source: FeedOptions) -> None:
        """Open the feed.

        Raises:
            FeedError: The file is missing, empty or of an unknown format.
        """
        from datetime import UTC, datetime

        from streaming.feeds import read_feed

        self.source = source
        self.feed: Feed = read_feed(source.feed, now=datetime.now(UTC), format=source.format, currency=source.currency)
        self.refused: list[BadRow] = []

    def updates(self) -> Iterator[ProductUpdate]:
        """The good rows as updates. Each refused row is printed on stderr."""
        from streaming.feeds import BadRow

        for row in self.feed:
            if isinstance(row, BadRow):
                self.refused.append(row)
                say(f"{self.source.feed}: {row}")
            else:
                yield row


def _finish(reading: FeedReading, verb: str, count: int, as_json: bool) -> None:
    refused = reading.refused
    if as_json:
        print_json(
            {
                "feed": str(reading.source.feed),
                "format": reading.feed.format,
                verb: count,
                "refused": [
                    {"row": row.row, "id": row.product_id, "field": row.field, "rule": row.rule} for row in refused
                ],
                "unknown_columns": dict(reading.feed.unknown_columns),
            }
        )
    else:
        typer.echo(f"{count} {verb}, {len(refused)} refused")
    raise typer.Exit(1 if refused else 0)
