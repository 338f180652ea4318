"""The `sagelift` command. Data goes to stdout, progress to stderr; nothing heavy is imported before it is needed.

Exit codes: 0 fine, 1 a finding (bad rows, a failed check), 2 wrong usage or settings, 3 it could not be done,
4 a consumer stopped because most messages cannot be used, 130 interrupted.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from sagelift.commands import analyze, dlq, features, model, serve, stream
from sagelift.commands.console import AsJson, current_settings, print_json, say
from sagelift.commands.experiment import app as experiment
from sagelift.commands.experiment import assign

app = typer.Typer(
    help="Product embeddings that follow the catalogue within a second, and the experiment that proves they pay.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
catalog_app = typer.Typer(help="The catalogue: make a sample, check a feed, publish it.", no_args_is_help=True)
app.add_typer(catalog_app, name="catalog")
app.add_typer(features.app, name="features")
app.add_typer(stream.app, name="stream")
app.add_typer(dlq.app, name="dlq")
app.add_typer(model.app, name="model")
app.add_typer(experiment.app, name="experiment")
app.add_typer(serve.app, name="serve")


def main() -> NoReturn:
    """Run the command; an expected failure is one sentence on stderr, never a traceback."""
    try:
        app()  # wrong usage, `typer.Exit` and Ctrl-C end here with their codes
    except BrokenPipeError:  # the reader of our output went away
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        sys.exit(_report(error))
    raise AssertionError("app() always exits")


def _report(error: Exception) -> int:
    from sagelift.errors import SettingsError, user_errors

    if isinstance(error, user_errors()):
        typer.echo(f"sagelift: {error}", err=True)
        return 2 if isinstance(error, SettingsError) else 3
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        typer.echo(f"sagelift: {where}{error.strerror or error}", err=True)
        return 3
    if type(error).__module__.split(".")[0] in ("sqlalchemy", "sqlite3", "psycopg"):  # named, not imported: heavy
        reason = str(getattr(error, "orig", None) or error).splitlines()[0]
        typer.echo(f"sagelift: a database cannot be used: {reason} (settings: `sagelift settings`)", err=True)
        return 3
    raise error


# ------------------------------------------------------------------------------------------------ the installation


@app.callback(invoke_without_command=True)
def _options(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("sagelift"))
        raise typer.Exit


@app.command()
def settings(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/settings.md.")] = False,
) -> None:
    """List all settings: name, environment variable, default, meaning."""
    from sagelift.settings import rows, table

    if markdown:
        return typer.echo(table(), nl=False)
    if as_json:
        return print_json([r.model_dump() for r in rows()])
    for row in rows():
        typer.echo(f"{row.variable}={row.default}\n    {row.description}")


@app.command()
def fetch() -> None:
    """Download what is not a Python dependency (Apache Kafka, Triton) into the cache folder, verified."""
    from sagelift.stack.components import fetch_all

    fetch_all(current_settings().cache, say)
    say("All components are there.")


@app.command()
def up() -> None:
    """Start the local stack and its consumers; runs until Ctrl-C."""
    from inference.repository import export_visual_encoder
    from sagelift.services import Services
    from sagelift.stack.components import fetch_all
    from sagelift.stack.stack import LocalStack, run
    from sagelift.workers import stack_options, worker_specs

    chosen = current_settings()
    fetch_all(chosen.cache, say)
    with Services(chosen) as services:
        _ = services.experiments, services.features  # made when missing, before anyone needs them
        export_visual_encoder(chosen.model_repository)
    stack = LocalStack(chosen.state, chosen.cache, stack_options(chosen), say=say)
    raise typer.Exit(run(stack, lambda running: worker_specs(running, chosen), say=say))


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say whether the local stack runs, and how each part is. Exit code 1 when something is not well."""
    from dataclasses import asdict

    from sagelift.stack.stack import read_status

    found = read_status(current_settings().state)
    if as_json:
        print_json(asdict(found) | {"healthy": found.healthy})
    elif not found.running:
        typer.echo("No local stack is running" + (" (its supervisor was killed)." if found.stale else "."))
    else:
        typer.echo(f"running, pid {found.pid}")
        for part in found.components:
            error = f"  last error: {part.last_error}" if part.last_error else ""
            typer.echo(
                f"  {part.name:<10} {part.state:<10} {part.address or '':<22} restarts {part.restarts}"
                f"  log {part.log or '-'}{error}"
            )
    raise typer.Exit(0 if found.healthy else 1)


@app.command()
def down(timeout: Annotated[float, typer.Option(help="Seconds to wait for a clean end.")] = 60.0) -> None:
    """Stop the local stack."""
    from sagelift.stack.stack import stop

    say("Stopped." if stop(current_settings().state, timeout) else "No local stack was running.")


@app.command()
def demo(
    catalog: Annotated[
        Path | None, typer.Option(help="A feed, or a folder with products.jsonl; without it, a generated catalogue.")
    ] = None,
    products: Annotated[int, typer.Option(min=20, help="Products of the generated catalogue.")] = 1000,
    shoppers: Annotated[int, typer.Option(min=200, help="Simulated shoppers.")] = 4000,
    seed: Annotated[int, typer.Option(help="Of everything random.")] = 7,
    as_json: AsJson = False,
) -> None:
    """Run the whole loop on real components: catalogue, features, training, release, experiment, report."""
    from sagelift.demo.demo import Demo, DemoConfig

    config = DemoConfig(catalog=catalog, products=products, shoppers=shoppers, seed=seed)
    result, report = Demo(current_settings(), config).run()
    if as_json:
        return print_json(result)
    from rich.console import Console

    from analysis.render.terminal import to_terminal

    Console().print(to_terminal(report))
    fresh = result.freshness_ms
    typer.echo(f"\nReport: {result.report}")
    typer.echo(f"Kafka to retrievable: p50 {fresh.p50:.0f} ms, p99 {fresh.p99:.0f} ms over {fresh.count} updates")
    typer.echo(f"Dead letters: {result.dead_letters}")
    typer.echo("Stages: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.stages_s.items()))


# --------------------------------------------------------------------------------------------------- the catalogue


@catalog_app.command("sample")
def catalog_sample(
    folder: Annotated[Path, typer.Argument(help="Where to write products.jsonl and images/.")],
    products: Annotated[int, typer.Option(min=1)] = 1000,
    seed: int = 7,
) -> None:
    """Write a generated catalogue: drawn images, texts from templates, prices."""
    from sagelift.demo.samples import write_sample

    typer.echo(write_sample(folder, products, seed))


_Feed = Annotated[Path, typer.Argument(help="JSONL, Parquet, Merchant Center TSV or XML, Shopify CSV, or a folder.")]
_Format = Annotated[str | None, typer.Option("--format", help="Of the feed, when its name does not tell.")]
_Currency = Annotated[str | None, typer.Option(help="Of prices that state none.")]


@catalog_app.command("check")
def catalog_check(feed: _Feed, format: _Format = None, currency: _Currency = None, as_json: AsJson = False) -> None:
    """Read a feed and list the rows that would be refused. Exit code 1 when there are any."""
    _read(feed, format, currency, as_json, publish=False)


@catalog_app.command("publish")
def catalog_publish(feed: _Feed, format: _Format = None, currency: _Currency = None, as_json: AsJson = False) -> None:
    """Publish a feed to Kafka; bad rows are listed and left out. Exit code 1 when there are any."""
    _read(feed, format, currency, as_json, publish=True)


@catalog_app.command("refresh-images")
def catalog_refresh_images(
    ids: Annotated[list[str] | None, typer.Argument(help="Products.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All products that have images.")] = False,
) -> None:
    """Have images fetched again whose links stayed the same; what did not change is not embedded again."""
    if bool(ids) == every:
        raise typer.BadParameter("say which: product ids, or --all")
    from sagelift.services import Services
    from streaming.catalogue.images.refresh import chosen, refreshes
    from streaming.kafka.producers import CatalogPublisher

    with Services(current_settings()) as services:
        features = services.features
        found = (p for page in features.scan_features() for p in page) if every else chosen(ids or (), features)
        with CatalogPublisher(services.kafka) as publisher:
            count = publisher.send_all(refreshes(found))
    typer.echo(f"{count} products asked for")


def _read(feed: Path, format: str | None, currency: str | None, as_json: bool, *, publish: bool) -> None:
    from collections.abc import Iterator
    from datetime import UTC, datetime

    from streaming.contracts import ProductUpdate
    from streaming.feeds import BadRow, read_feed

    rows = read_feed(feed, now=datetime.now(UTC), format=format, currency=currency)
    refused: list[BadRow] = []

    def good() -> Iterator[ProductUpdate]:
        for row in rows:
            if isinstance(row, BadRow):
                refused.append(row)
                say(f"{feed}: {row}")
            else:
                yield row

    if publish:
        from sagelift.services import Services
        from streaming.kafka.producers import CatalogPublisher
        from streaming.kafka.topics import ensure_topics

        with Services(current_settings()) as services:
            ensure_topics(services.kafka, replication=services.settings.kafka.replication)
            with CatalogPublisher(services.kafka) as publisher:
                count = publisher.send_all(good())
    else:
        count = sum(1 for _ in good())
    verb = "published" if publish else "good"
    if as_json:
        bad = [{"row": r.row, "id": r.product_id, "field": r.field, "rule": r.rule} for r in refused]
        unknown = dict(rows.unknown_columns)
        print_json({"feed": str(feed), "format": rows.format, verb: count, "refused": bad, "unknown_columns": unknown})
    else:
        typer.echo(f"{count} {verb}, {len(refused)} refused")
    raise typer.Exit(1 if refused else 0)


# --------------------------------------------------------------------------------------------------- the experiments

app.command()(assign.assign)
app.command()(assign.vectors)
app.command()(analyze.analyze)
app.command()(analyze.simulate)
app.command()(analyze.plan)
app.command()(analyze.report)
